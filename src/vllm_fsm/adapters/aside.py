"""A call beside the event loop, in a thread that ends with it.

Not in the pool of the loop: it keeps as many threads as were ever busy at a time, each with memory of its own, and the
end of the loop waits for one that hangs in the kernel over a disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, cast

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


async def aside(act: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    """Return what `act` returns, which may take its time; raise what it raises, or RuntimeError without a thread.

    Whoever is cancelled waits no longer; `act` goes on to its end.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(cast("T", result))
        else:
            done.set_exception(error)

    def work() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = act(*arguments)
        except StopIteration as raised:  # no future takes one
            error = RuntimeError(f"{act} raised {raised!r}")
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=work, name="aside", daemon=True).start()
    return await done
