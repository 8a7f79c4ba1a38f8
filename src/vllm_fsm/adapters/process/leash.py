"""The controller's end of the guardian: keeps one running and tells it which engine is ours to lose."""

import asyncio
import os
import subprocess
import sys

from vllm_fsm.adapters.ports import Clock, Log
from vllm_fsm.adapters.process import guardian, pidfd
from vllm_fsm.adapters.process.marks import Mark

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a guardian is replaced: the first at once, then doubled until one lives for LONGEST_PAUSE."""

CLOSE_LIMIT = 1.0
"""Seconds that `close` waits for the guardian."""


class Leash:
    """One guardian process and the marks that it watches; a guardian that ends is replaced and told again."""

    def __init__(self, *, clock: Clock, log: Log) -> None:
        self._clock = clock
        self._log = log
        self._marks: dict[str, Mark] = {}
        self._pipe: int | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The living guardian, None between two of them."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start a guardian, and whoever replaces it, unless there is one."""
        if self._keeper is None or self._keeper.done():
            if self._process is None:
                self._spawn()
            self._keeper = asyncio.create_task(self._keep())

    def watch(self, mark: Mark) -> None:
        """From now on everything of `mark` dies with us."""
        self._marks[mark.file] = mark
        self._tell("+", mark)

    def forget(self, mark: Mark) -> None:
        """Nothing of `mark` is left."""
        if self._marks.pop(mark.file, None) is not None:
            self._tell("-", mark)

    async def close(self) -> None:
        """Let go: the guardian ends what it still watches, and itself."""
        if self._keeper is None:
            return
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        self._keeper = None
        self._drop_pipe()
        if self._process is not None:
            try:
                async with asyncio.timeout(CLOSE_LIMIT):
                    await pidfd.ended(self._process.pid)
                    self._process.wait()
            except TimeoutError:  # it goes on without us, until what it watches is gone
                self._log("guardian-remains", pid=self._process.pid)
            self._process = None

    def _spawn(self) -> None:
        """Execute a guardian without any of our environment: it needs no secret. It is told all before it lives."""
        loader = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        reading = None
        try:
            reading, self._pipe = os.pipe()
            os.set_blocking(self._pipe, False)
            for mark in self._marks.values():
                self._tell("+", mark)
            self._process = subprocess.Popen(
                (sys.executable, "-I", "-S", guardian.__file__),
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=loader,
                start_new_session=True,
            )
        except OSError as error:
            self._drop_pipe()
            self._log("guardian-not-started", error=str(error))
        finally:
            if reading is not None:
                os.close(reading)

    async def _keep(self) -> None:
        """Replace the guardian whenever it ends."""
        pause = 0.0
        while True:
            since = self._clock()
            if self._process is not None:
                await pidfd.ended(self._process.pid)
                self._log("guardian-lost", pid=self._process.pid, status=self._process.wait())
                self._process = None
                self._drop_pipe()
            if self._clock() - since >= LONGEST_PAUSE:
                pause = 0.0
            await asyncio.sleep(pause)
            pause = min(max(FIRST_PAUSE, 2 * pause), LONGEST_PAUSE)
            self._spawn()

    def _tell(self, sign: str, mark: Mark) -> None:
        """Write one line, which is shorter than PIPE_BUF, so it is written whole or not at all.

        Whoever does not read any more is replaced: the next guardian is told all.
        """
        if self._pipe is None:
            return  # the next guardian is told all
        try:
            os.write(self._pipe, os.fsencode(f"{sign}{mark.line()}\n"))
        except OSError as error:  # it just ended, or it was stopped for a long time
            self._log("guardian-not-told", error=str(error))
            if self._process is not None:
                self._process.kill()

    def _drop_pipe(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
