"""Everything that a decision may look at: one immutable value."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Self

from vllm_fsm.core.states import Download, Engine, Phase, Service

if TYPE_CHECKING:
    from vllm_fsm.core.events import Timer

Param = str | int | float


class Secret:
    """A string that shows itself to `reveal` only: not to `repr`, `str`, `format` or a traceback's locals.

    Two secrets are equal when their strings are; nothing here compares a secret with what a client sent.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the string, for the one place that hands it to the engine or to a request header."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret(...)"


@dataclass(frozen=True, slots=True)
class Message:
    """A sentence by its id and parameters; `vllm_fsm.messages` has the English, the package the other languages."""

    id: str
    params: tuple[tuple[str, Param], ...] = ()

    @classmethod
    def of(cls, id_: str, /, **params: Param) -> Message:
        """Make a message from keyword parameters."""
        return cls(id_, tuple(params.items()))


@dataclass(frozen=True, slots=True)
class Finding:
    """Why something did not work: a stable CamelCase word (the message's id), a sentence, the evidence."""

    message: Message
    permanent: bool = False
    """True when the same try would fail the same way until the user changes something."""
    evidence: str = ""
    """The verbatim line it was read from, redacted."""

    @property
    def reason(self) -> str:
        """The stable word."""
        return self.message.id

    @classmethod
    def of(cls, reason: str, /, *, permanent: bool = False, evidence: str = "", **params: Param) -> Finding:
        """Make a finding whose message carries the keyword parameters."""
        return cls(Message.of(reason, **params), permanent, evidence)


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to serve, as the two files ask for it. Equal targets need no restart."""

    arguments: tuple[str, ...]
    """What follows `vllm serve`, without the fixed flags; reserved flags already dropped."""
    environment: tuple[tuple[str, str], ...] = field(repr=False)
    """Sorted by name; may hold tokens."""
    key: Secret
    model: str
    """The model's name as a person writes it: a hub id or a path."""
    problem: Finding | None = None
    """Set when these arguments must not be started."""

    def same_but_key(self, other: Target) -> bool:
        """Whether nothing but the key may differ."""
        return (
            self.arguments == other.arguments
            and self.environment == other.environment
            and self.problem == other.problem
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is. Sizes in bytes, speed in bytes per second, None where it is not known."""

    repo: str
    done: int
    total: int | None = None
    speed: float | None = None
    eta: float | None = None
    files_done: int = 0
    files: int | None = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """One phase of a start, as far as it is known."""

    phase: Phase
    since: float
    message: Message


@dataclass(frozen=True, slots=True)
class Start:
    """What an engine is started with, besides what is true of every start."""

    target: Target
    offline: bool = False
    """With the hub switched off, unless the target's own variables say something about that."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The numbers behind the decisions; seconds unless the name says otherwise."""

    startup_timeout: float = 35 * 60.0
    stop_timeout: float = 60.0
    nudge_after: float = 1.0
    """Second SIGTERM to an engine that was not ready: vLLM 0.32 swallows the first one (`zmq_socket_ctx`)."""
    kill_again: float = 5.0
    """Until the next SIGKILL to a session that does not end (processes in uninterruptible sleep)."""
    memory_wait: float = 15.0
    """Longest wait for GPU memory to come back before the next start."""
    pulse: float = 15.0
    """Between two looks whether a starting engine moves."""
    silence: float = 5 * 60.0
    """A starting engine that has not moved for so long hangs; in some phases it may be silent for longer."""
    fallback: bool = False
    """What was ready last is served again when a new choice cannot be."""
    swap_after_download: bool = True
    restart_window: float = 15 * 60.0
    restart_intensity: int = 5
    restart_first: float = 1.0
    restart_longest: float = 5 * 60.0
    restart_reset: float = 10 * 60.0
    """An engine that was ready for so long starts with a clean record."""
    slow_retry: float = 15 * 60.0
    port_retry: float = 5.0
    repeat_after: float = 1.0
    unresponsive_strikes: int = 2
    unresponsive_restart: float = 120.0
    look: float = 5.0
    """After so long it is said that the weights are still being looked for."""
    download_first: float = 2.0
    download_longest: float = 5 * 60.0
    download_tries: int = 10
    """Attempts in a row without a new byte before a download is given up."""
    seed: int = 0
    """Spreads the jitter of several controllers; the policy itself draws nothing."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole memory of the controller between two events. Times are monotonic seconds."""

    settings: Settings = field(default_factory=Settings)
    state: Service = Service.NO_MODEL
    since: float = 0.0
    engine: Engine = Engine.ABSENT
    download: Download = Download.IDLE
    target: Target | None = None
    """What the files ask for."""
    active: Target | None = None
    """What runs, or will be started as soon as nothing of the last engine is left."""
    proven: bool = False
    """The living engine passed every readiness probe of this epoch and has not been doubted since."""
    epoch: int = 0
    """Number of the latest engine start; stamped on all it causes."""
    pid: int | None = None
    phases: tuple[Stretch, ...] = ()
    """What the latest start has been doing, the present phase last; they follow each other without a gap."""
    moved_at: float = 0.0
    """When the starting engine was last seen to do anything."""
    proven_at: float | None = None
    strikes: int = 0
    """Canary requests in a row that nobody answered."""
    fetch: int = 0
    """Number of the latest check or download; stamped on all it causes."""
    fetch_tries: int = 0
    """Attempts in a row that failed without a new byte; after giving up, how many there were."""
    progress: Progress | None = None
    next_problem: Finding | None = None
    """Why the target cannot be served: its weights cannot be had, or its arguments not be started."""
    offline: bool = False
    """The active engine is started with the hub switched off: the cache held all that it will read."""
    note: Message | None = None
    """What a person should know of the active engine's start."""
    last_good: Start | None = None
    """What was ready last, while something has been wanted ever since."""
    fallen_back: bool = False
    """The active engine is the last good one, since the target cannot be served for the reason in `next_problem`."""
    fetch_finding: Finding | None = None
    """Why the latest attempt to fetch weights failed; the engine's own failures are in `finding`."""
    failed: bool = False
    """Nothing more is tried for the active engine at present; `finding` says why."""
    resting: bool = False
    """The restart intensity was exceeded: only slow retries until the engine has been ready for long."""
    finding: Finding | None = None
    """The latest failure of the engine, or what keeps the target from being started."""
    crashes: tuple[float, ...] = ()
    """Times of the failures that count towards the restart intensity."""
    causes: tuple[str, ...] = ()
    """The reasons of `crashes`, and perhaps of earlier ones before them."""
    timers: tuple[tuple[type[Timer], float], ...] = ()
    """Armed timers with the time at which each is due."""
    warnings: tuple[Message, ...] = ()
    stopping: bool = False
    dropped: int = 0
    """Events that came back after their epoch was over."""

    def copy(self) -> Self:
        """Return a copy that nobody else holds yet."""
        new = object.__new__(type(self))
        for put, value in zip(_PUTTERS, _values(self), strict=True):
            put(new, value)
        return new

    def due(self, timer: type[Timer]) -> float | None:
        """When `timer` is due, None if it is not armed."""
        for kind, due in self.timers:
            if kind is timer:
                return due
        return None

    @property
    def phase(self) -> Stretch | None:
        """What the living engine is doing on its way to Ready, None if it is not on its way."""
        starting = self.engine is Engine.ALIVE and not self.proven and self.proven_at is None
        return self.phases[-1] if starting and self.phases else None

    @property
    def pending(self) -> bool:
        """A target other than the active one waits for its turn."""
        return self.active is not None and self.target != self.active


_values = attrgetter(*(f.name for f in fields(Snapshot)))
_PUTTERS = tuple(getattr(Snapshot, f.name).__set__ for f in fields(Snapshot))
"""Of the slots themselves: they copy in less than half of the time of `dataclasses.replace`."""
