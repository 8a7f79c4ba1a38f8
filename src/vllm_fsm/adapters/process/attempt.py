"""One engine start and what is known about it."""

import asyncio
import subprocess
from collections.abc import Callable

from vllm_fsm.adapters.process import pidfd
from vllm_fsm.adapters.process.output import Output
from vllm_fsm.adapters.process.purge import Purge
from vllm_fsm.adapters.procfs import Process
from vllm_fsm.core.snapshot import Finding


class Attempt:
    """The engine start number `epoch`; `secret` is the key that the engine is given."""

    def __init__(self, epoch: int, secret: str) -> None:
        self.epoch = epoch
        self.secret = secret
        self.free_before: int | None = None
        """Free GPU memory in bytes before the start."""
        self.tmpdir: str | None = None
        self.process: subprocess.Popen[bytes] | None = None
        """The leader: first the shim, then the engine."""
        self.purge: Purge | None = None
        """Finds and ends all that belongs to it; there is one as soon as there is a process."""
        self.output: Output | None = None
        self.preparing: asyncio.Task[Finding | None] | None = None
        """All that has to be done and known before there is a process."""
        self.executed = False
        self.asked = False
        """SIGTERM was sent."""
        self.doomed = False
        """It is to be killed whenever something of it is found, and not to be executed any more."""
        self.status: int | None = None
        """How the leader ended, as in `subprocess`."""
        self.memory_wait = 0.0
        """Seconds that the return of its GPU memory is waited for."""
        self.exited = asyncio.Event()
        """The leader ended and was reaped."""
        self.killing: asyncio.Task[None] | None = None
        self.vacating: asyncio.Task[None] | None = None

    @property
    def orderly(self) -> bool:
        """The leader did what it was asked to: the rest of its session is ending by itself."""
        return self.asked and not self.doomed and self.status == 0

    def look(self) -> list[Process]:
        """Return what belongs to this engine and still runs."""
        return self.purge.look() if self.purge is not None else []

    def strike(self) -> list[Process]:
        """SIGKILL what still runs, and return it: it was alive a moment ago."""
        return self.purge.strike() if self.purge is not None else []

    async def reap(self) -> int:
        """Wait for the end of the leader and collect it; return its status as in `subprocess`."""
        assert self.process is not None
        if self.process.returncode is None:
            await pidfd.ended(self.process.pid)
        return self.process.wait()

    def tail(self, redact: Callable[[str], str]) -> str:
        """Read what the pipe holds and return the last lines, without the key and what `redact` takes out."""
        if self.output is None:
            return ""
        self.output.drain()
        return self.output.tail(lambda line: redact(line.replace(self.secret, "[redacted]") if self.secret else line))
