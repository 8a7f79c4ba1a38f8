"""What can happen. Each event carries its time; what was started carries the number of its start.

The `repr` of an event is valid Python apart from secrets, so that a failing simulation prints a program to paste.
A class without fields of its own inherits all that makes its parent a value: making that anew for each would be felt
at every start of the controller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_fsm.core.snapshot import Finding, Message, Progress, Target
from vllm_fsm.core.states import Phase

if TYPE_CHECKING:
    from vllm_fsm.core.effects import Effect


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at `at`, in monotonic seconds."""

    at: float


@dataclass(frozen=True, slots=True)
class EngineEvent(Event):
    """Something about the engine start number `epoch`; dropped and counted when that start is over."""

    epoch: int


class ProbeEvent(EngineEvent):
    """Something seen of a living engine; dropped and counted once that engine is being stopped."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class FetchEvent(Event):
    """Something about the check or download number `fetch`; dropped and counted when that is over."""

    fetch: int


@dataclass(frozen=True, slots=True)
class Timer(Event):
    """A timer fired. Dropped when it is no longer armed for exactly `due`."""

    due: float


Post = Callable[[Event], None]
"""How a shell hands an event to the one reader; called on the event loop's thread only."""


# --- what is asked for -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WantedChanged(Event):
    """The files ask for something else than before; None: nothing is wanted."""

    target: Target | None


@dataclass(frozen=True, slots=True)
class WarningsChanged(Event):
    """What health should mention besides the state: a broken file, a dropped flag, a foreign volume."""

    warnings: tuple[Message, ...]


class RetryRequested(Event):
    """Somebody asked to try again (`vllm-fsm retry`, SIGHUP, the same Set Model choice)."""

    __slots__ = ()


class StopRequested(Event):
    """The controller is to end (SIGTERM, SIGINT); a second one means at once."""

    __slots__ = ()


# --- the engine process ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EngineStarted(EngineEvent):
    """The engine was executed; `pid` leads its own session."""

    pid: int


@dataclass(frozen=True, slots=True)
class StartFailed(EngineEvent):
    """No process was started, and none is left of the try."""

    finding: Finding


@dataclass(frozen=True, slots=True)
class EngineExited(EngineEvent):
    """The leader ended and was reaped; others of its session may still live. `status` as in `subprocess`."""

    status: int
    finding: Finding
    """What its end means if nobody asked for it."""


class EngineVacated(EngineEvent):
    """Nothing of this start is left: session empty, sockets and shared memory gone, GPU memory back or given up."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class PhaseEntered(ProbeEvent):
    """The engine's output shows what it is doing now, or how far it is with that."""

    phase: Phase
    message: Message


@dataclass(frozen=True, slots=True)
class PulseTaken(ProbeEvent):
    """The starting engine was looked at; `moved`: it did something since the last look, or that cannot be known."""

    moved: bool
    last: str = ""
    """The last line that it printed, redacted."""


@dataclass(frozen=True, slots=True)
class EffectFailed(EngineEvent):
    """An effect that has no failure event of its own could not be done."""

    effect: Effect
    finding: Finding


# --- probes ------------------------------------------------------------------------------------------------------


class PortFree(EngineEvent):
    """No process listens on the engine's port."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class PortTaken(EngineEvent):
    """Somebody else listens on the engine's port: before a start, or instead of the living engine."""

    finding: Finding


class ProbePassed(ProbeEvent):
    """The engine is ours, listens, knows the key, names the model and generated a token."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class EngineDead(ProbeEvent):
    """The server answers, but says that its engine is dead (`/health` 503)."""

    finding: Finding


class EngineStepped(ProbeEvent):
    """The token counter moved, or a canary request was answered."""

    __slots__ = ()


class EngineStuck(ProbeEvent):
    """A canary request was not answered in its time and the token counter did not move."""

    __slots__ = ()


# --- weights -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WeightsComplete(FetchEvent):
    """The cache holds all that the engine will read, or the engine is to fetch it itself."""

    offline: bool = False
    """The start needs nothing of the hub, which is switched off for it."""
    note: Message | None = None
    """What a person should know of this start."""


@dataclass(frozen=True, slots=True)
class WeightsMissing(FetchEvent):
    """Something must be downloaded first."""


@dataclass(frozen=True, slots=True)
class DownloadProgressed(FetchEvent):
    """Bytes arrived."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class DownloadFailed(FetchEvent):
    """A check or an attempt ended without success."""

    finding: Finding
    retry_after: float = 0.0
    """Seconds that the hub asked us to wait."""
    moved: bool = False
    """This attempt brought new bytes."""


# --- timers ------------------------------------------------------------------------------------------------------


class DeadlinePassed(Timer):
    """The start-up timeout is over."""

    __slots__ = ()


class RestartDue(Timer):
    """The next try is due: after back-off, a slow retry, or to look at the port again."""

    __slots__ = ()


class NextDue(Timer):
    """The weights of the next model are looked for again, while an earlier one runs."""

    __slots__ = ()


class UnresponsiveDue(Timer):
    """An unresponsive engine had its last chance to answer."""

    __slots__ = ()


class PulseDue(Timer):
    """It is time to look whether the starting engine moves."""

    __slots__ = ()


class NudgeDue(Timer):
    """A stopping engine that was not ready gets its second SIGTERM."""

    __slots__ = ()


class GraceExpired(Timer):
    """The stopping engine had its time."""

    __slots__ = ()


class RepeatDue(Timer):
    """Something to do about the engine failed in itself: do it again."""

    __slots__ = ()


class LookOverdue(Timer):
    """Looking for the weights takes so long that it is said."""

    __slots__ = ()


class DownloadRetryDue(Timer):
    """The next download attempt is due."""

    __slots__ = ()
