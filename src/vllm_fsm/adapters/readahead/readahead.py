"""Has a child read weights that an engine reads soon into the page cache. Nothing waits for it, and it may fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from vllm_fsm.adapters.aside import aside
from vllm_fsm.weights.needs import Repo, Role, local_models, needs

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from vllm_fsm.adapters.ports import Clock, Log
    from vllm_fsm.core.snapshot import Target

PROGRAM: Final = os.path.join(os.path.dirname(__file__), "reader.py")
DELAY: Final = 0.2
"""Seconds before a child is made: the engine is executed first, and a change of mind in between costs nothing."""
AROUND: Final = frozenset({"fastsafetensors", "instanttensor"})
"""Load formats that read around the page cache where they can."""
SOON: Final = 0.05
"""Seconds between the first two looks whether something that may hang is over."""
RARELY: Final = 1.0
"""… and between later ones."""
ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
"""What the child is given of our environment: none of the secrets."""
CLOSE_LIMIT: Final = 1.0
"""Seconds in which `close` sees the child gone: a read from a dead disk cannot be ended."""

Files = tuple[tuple[Repo, ...], tuple[Repo, ...]]
"""Models whose weights are read: from the cache, and from paths here."""
NONE: Final[Files] = ((), ())


class ReadAhead:
    """At most one child that reads, and one look at the files; none while an earlier one hangs over a dead disk.

    Args:
        models: the hub's cache.
        delay: see DELAY.
    """

    def __init__(self, *, clock: Clock, log: Log, models: Path, delay: float = DELAY) -> None:
        self._clock = clock
        self._log = log
        self._models = models
        self._delay = delay
        self._target: Target | None = None
        self._files = NONE
        self._deciding: asyncio.Task[None] | None = None
        self._work: asyncio.Task[None] | None = None
        self._looking = False
        self._killed: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def expect(self, target: Target | None) -> None:
        """Know whose weights the engine will read in a moment. None: nobody's; reading ahead ends."""
        if target == self._target:
            return
        self._target = target
        if self._deciding is not None:
            self._deciding.cancel()
            self._deciding = None
        if target is None:
            self._take_up("", NONE)
        else:
            self._deciding = self._do(target.model, self._decide, target)

    async def close(self) -> None:
        """End it."""
        self.expect(None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_LIMIT):
                while self._tasks:
                    await asyncio.wait(tuple(self._tasks))
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _decide(self, target: Target) -> None:
        """See which files these are, not on the event loop; what reads the same goes on."""
        try:
            await asyncio.sleep(self._delay)
            await _over(lambda: not self._looking)
            self._looking = True
            wanted = await aside(self._look, target)
        except Exception:
            self._take_up("", NONE)
            raise
        self._take_up(target.model, wanted)

    def _look(self, target: Target) -> Files:
        try:
            return _files(target)
        finally:
            self._looking = False

    def _take_up(self, model: str, wanted: Files) -> None:
        """Read `wanted`, and nothing else any more."""
        if wanted == self._files:
            return
        self._files = wanted
        if self._work is not None:
            self._work.cancel()
            self._work = None
        if any(wanted):
            self._work = self._do(model, self._read, model, wanted)

    async def _read(self, model: str, wanted: Files) -> None:
        if self._killed is not None:
            await asyncio.wait((self._killed,))
        began = self._clock()
        said: dict[str, Any] = {}
        process = self._execute(wanted)
        stopped = True
        try:
            await _listen(process, said)
            stopped = False
        finally:
            process.kill()
            self._killed = self._do(model, _reap, process)
            self._tell(model, said, self._clock() - began, stopped=stopped)

    def _do(self, model: str, work: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> asyncio.Task[None]:
        """Do `work` for `model`; what fails is a line in the log."""

        async def guarded() -> None:
            try:
                await work(*arguments)
            except Exception as error:
                self._log("weights-not-read-ahead", model=model, why=repr(error))

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _execute(self, wanted: Files) -> subprocess.Popen[bytes]:
        repos, local = ([asdict(repo) | {"role": repo.role.value} for repo in each] for each in wanted)
        order = {"parent": os.getpid(), "models": os.fspath(self._models), "repos": repos, "local": local}
        # A file and no pipe: a long order must not wait for its reader.
        with open(os.memfd_create("order"), "w+b") as file:
            file.write(json.dumps(order).encode())
            file.seek(0)
            return subprocess.Popen(
                (sys.executable, "-P", PROGRAM),
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
            )

    def _tell(self, model: str, said: dict[str, Any], seconds: float, *, stopped: bool) -> None:
        """Say what became of it, once."""
        ended = said.get("ended", False)
        why = said.get("error") or ("not enough free memory" if said.get("short") else None)
        if why is None and not ended and not stopped:
            why = "the reader ended early"
        if not said.get("bytes"):
            if why := why or ("no weights were found" if ended else None):
                self._log("weights-not-read-ahead", model=model, why=why)
            return
        self._log(
            "weights-read-ahead",
            model=model,
            bytes=said["bytes"],
            from_disk=said["from_disk"],
            files=said.get("files"),
            seconds=round(seconds, 1),
            complete=ended and not why,
            why=why,
        )


async def _reap(process: subprocess.Popen[bytes]) -> None:
    await _over(lambda: process.poll() is not None)


async def _over(over: Callable[[], bool]) -> None:
    """Wait until something is over, and look ever more rarely."""
    pause = SOON
    while not over():
        await asyncio.sleep(pause)
        pause = min(2 * pause, RARELY)


async def _listen(process: subprocess.Popen[bytes], said: dict[str, Any]) -> None:
    """Keep in `said` what the child said last, until it ends."""
    lines = asyncio.StreamReader()
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), process.stdout
    )
    try:
        while line := await lines.readline():
            try:
                said.update(json.loads(line))
            except ValueError:  # a traceback
                said["error"] = line.decode(errors="replace").strip()
    finally:
        pipe.close()


def _files(target: Target) -> Files:
    wanted = needs(target, inherited=os.environ)
    repos = wanted.repos if wanted.problem is None else ()
    return _read(repos), _read(local_models(target, inherited=os.environ))


def _read(repos: tuple[Repo, ...]) -> tuple[Repo, ...]:
    return tuple(repo for repo in repos if repo.role is Role.MODEL and repo.load_format not in AROUND)
