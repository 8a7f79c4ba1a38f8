"""What we do, as values. The driver hands each to the adapter that does it; its end comes back as an event.

A class without fields of its own inherits all that makes its parent a value, as with the events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_fsm.core.snapshot import Target

if TYPE_CHECKING:
    from vllm_fsm.core.events import Timer


@dataclass(frozen=True, slots=True)
class Effect:
    """Something to do."""


@dataclass(frozen=True, slots=True)
class EngineEffect(Effect):
    """Something to do about the engine start number `epoch`."""

    epoch: int


@dataclass(frozen=True, slots=True)
class StartEngine(EngineEffect):
    """Execute the engine in a session of its own → EngineStarted, or StartFailed with nothing left behind."""

    target: Target
    offline: bool = False
    """With the hub switched off, unless the target's own variables say something about that."""
    memory_needed: float | None = None
    """After a failure for want of GPU memory: the GiB that were asked for, 0.0 where that is not known.

    So much is waited for before this start, or as much as was ever free, but not for long.
    """
    memory_wait: float = 0.0
    """Longest such wait in seconds."""


class TakePulse(EngineEffect):
    """See whether the engine did anything since the last look → PulseTaken."""

    __slots__ = ()


class TerminateEngine(EngineEffect):
    """Send SIGTERM to the leader → EngineExited some time later."""

    __slots__ = ()


class KillSession(EngineEffect):
    """SIGKILL every process of the engine's session → EngineExited if the leader still lived."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class ConfirmVacancy(EngineEffect):
    """Wait until nothing of the engine is left, its GPU memory at most `memory_wait` seconds → EngineVacated."""

    memory_wait: float


@dataclass(frozen=True, slots=True)
class StartProbes(EngineEffect):
    """Probe until the engine is proven → ProbePassed, PortTaken. `deadline`: monotonic end of the start-up time."""

    target: Target
    pid: int
    deadline: float


class WatchLiveness(EngineEffect):
    """From now on see that the proven engine lives and steps → EngineDead, PortTaken, EngineStuck, EngineStepped."""

    __slots__ = ()


class StopProbes(EngineEffect):
    """Ask the engine nothing more."""

    __slots__ = ()


class CheckPort(EngineEffect):
    """Look whether the engine's port is free → PortFree, PortTaken."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class FetchEffect(Effect):
    """Something to do about the check or download number `fetch`."""

    fetch: int


@dataclass(frozen=True, slots=True)
class CheckWeights(FetchEffect):
    """Look whether `target` can start from the cache → WeightsComplete, WeightsMissing, DownloadFailed."""

    target: Target


@dataclass(frozen=True, slots=True)
class StartDownload(FetchEffect):
    """Fetch what `target` needs → DownloadProgressed …, then WeightsComplete or DownloadFailed."""

    target: Target


@dataclass(frozen=True, slots=True)
class CancelDownload(FetchEffect):
    """End this check or download; what it fetched stays."""


@dataclass(frozen=True, slots=True)
class ArmTimer(Effect):
    """Post `timer` at monotonic time `due`; replaces an earlier one of the same class."""

    timer: type[Timer]
    due: float


@dataclass(frozen=True, slots=True)
class CancelTimer(Effect):
    """Forget `timer`."""

    timer: type[Timer]


@dataclass(frozen=True, slots=True)
class Exit(Effect):
    """End the controller with `code`; nothing of the engine is left."""

    code: int
