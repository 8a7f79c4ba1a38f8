"""A call that may hang in the kernel over a disk: in a thread that ends with it.

Not in the pool of the loop: it keeps as many threads as were ever busy at a time, each with memory of its own, and the
end of the loop waits for one that hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar, TypeVarTuple, cast

PARTS = 10
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

    _begin(work)
    return await done


def within(seconds: float, act: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    """The same for what ends at once as a rule, where a decision cannot be put off: the event loop waits as well.

    Raises:
        TimeoutError: there is no answer within `seconds`; `act` goes on to its end.
    """
    done: Future[T] = Future()

    def work() -> None:
        try:
            done.set_result(act(*arguments))
        except BaseException as error:
            done.set_exception(error)

    _begin(work)
    # In parts: where the machine lets us stand still, that takes one of them, not all of the time.
    for _ in range(PARTS):
        if wait((done,), seconds / PARTS).done:
            return done.result()
    raise TimeoutError(f"no answer within {seconds:g} s")


def _begin(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="aside", daemon=True).start()
