"""One engine start and what is known about it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from vllm_fsm.adapters.process import pidfd, pulse
from vllm_fsm.adapters.process.output import Output
from vllm_fsm.adapters.process.purge import Purge
from vllm_fsm.adapters.procfs import Process
from vllm_fsm.core.snapshot import Finding

if TYPE_CHECKING:
    from vllm_fsm.core.snapshot import Message
    from vllm_fsm.core.states import Phase
    from vllm_fsm.diagnosis.phases import Phases
    from vllm_fsm.diagnosis.stream import Diagnosis

HUB: Final = "https://huggingface.co"
"""Where huggingface_hub looks without HF_ENDPOINT."""


class Attempt:
    """The engine start number `epoch`; `secret` is the key that the engine is given, `redact` takes out the others."""

    def __init__(self, epoch: int, secret: str, redact: Callable[[str], str] = str) -> None:
        self.epoch = epoch
        self.secret = secret
        self._redact = redact
        self._site = ("", "", 0)
        self._diagnosis: Diagnosis | None = None
        self._phases: Phases | None = None
        self._lines = 0
        """Printed so far, without those that only say that somebody is waited for."""
        self._sample: pulse.Sample | None = None
        self.oom_kills_before: int | None = None
        """Of our cgroup before the start; None where that is not counted."""
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

    def take_over(self, other: Attempt) -> None:
        """Have the process of `other` with all that belongs to it, which then has none."""
        self.process, self.purge, self.output, self.tmpdir = other.process, other.purge, other.output, other.tmpdir
        other.process = other.purge = other.output = other.tmpdir = None

    async def reap(self) -> int:
        """Wait for the end of the leader and collect it; return its status as in `subprocess`."""
        assert self.process is not None
        if self.process.returncode is None:
            await pidfd.ended(self.process.pid)
        return self.process.wait()

    def started_with(self, model: str, hub: str | None, port: int) -> None:
        """Know of a start what its output may not tell: the hub's address as the engine is given it, if it is."""
        self._site = (model, hub or HUB, port)

    def hear(self, line: str) -> tuple[Phase, Message] | None:
        """Take a line of output, to explain the end by; return the phase of the start that it tells, if it does."""
        from vllm_fsm.diagnosis import phases

        self._lines += not phases.waits(line)
        self.diagnosis.feed(line)
        if self._phases is None:
            self._phases = phases.Phases()
        return self._phases.feed(line)

    def moved(self) -> bool:
        """Whether it did anything since the last look; True at the first."""
        assert self.process is not None
        before, self._sample = self._sample, pulse.sample(self.process.pid, self._lines)
        return before is None or pulse.moved(before, self._sample)

    @property
    def diagnosis(self) -> Diagnosis:
        """What the output says so far. Made when it is first needed: an engine is silent for seconds."""
        if self._diagnosis is None:
            from vllm_fsm.diagnosis.ending import Site
            from vllm_fsm.diagnosis.stream import Diagnosis

            model, hub, port = self._site
            self._diagnosis = Diagnosis(Site(model, urlsplit(hub).hostname or hub, port), redact=self._redacted)
        return self._diagnosis

    def stop_hearing(self) -> None:
        """The engine is about to be asked to end: what it says from now on explains nothing."""
        self.heard().stop()

    def heard(self) -> Diagnosis:
        """Return what the output says, after reading what the pipe holds now."""
        if self.output is not None:
            self.output.drain()
        return self.diagnosis

    def _redacted(self, line: str) -> str:
        return self._redact(line.replace(self.secret, "[redacted]") if self.secret else line)
