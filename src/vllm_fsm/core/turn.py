"""One event's way through the three machines: the working copy that guards read and reactions change."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from vllm_fsm.core.states import Download, Engine, Service

if TYPE_CHECKING:
    from vllm_fsm.core.effects import Effect
    from vllm_fsm.core.events import Event, Timer
    from vllm_fsm.core.snapshot import Snapshot


class Command(Enum):
    """What the service machine tells the other two, within the same step."""

    START = "Start"
    STOP = "Stop"
    KILL = "Kill"
    CHECK = "Check"
    RESUME = "Resume"
    CANCEL = "Cancel"


class Turn:
    """The snapshot as it becomes, and what is to be done about it."""

    __slots__ = ("_before", "commands", "effects", "event", "snapshot")

    def __init__(self, snapshot: Snapshot, event: Event) -> None:
        self.snapshot = snapshot
        self._before = snapshot
        self.event: Any = event
        self.effects: list[Effect] = []
        self.commands: list[Command] = []

    def set(self, **changes: Any) -> None:
        """Change fields of the snapshot: of a copy that is this turn's own until the step returns it."""
        if self.snapshot is self._before:
            self.snapshot = self._before.copy()
        for name, value in changes.items():
            object.__setattr__(self.snapshot, name, value)

    def emit(self, effect: Effect) -> None:
        """Have `effect` done after the step."""
        self.effects.append(effect)

    def tell(self, *commands: Command) -> None:
        """Give the engine's or the download's machine its orders, in this order, after it has seen the event."""
        self.commands.extend(commands)

    def arm(self, timer: type[Timer], delay: float) -> None:
        """Have `timer` fire `delay` seconds after this event."""
        self.cancel(timer)
        self.set(timers=(*self.snapshot.timers, (timer, self.event.at + delay)))

    def cancel(self, *timers: type[Timer]) -> None:
        """Forget `timers`."""
        kept = tuple(entry for entry in self.snapshot.timers if entry[0] not in timers)
        if len(kept) != len(self.snapshot.timers):
            self.set(timers=kept)

    # The machines keep their states here, so that the library's one moving part is the snapshot.

    @property
    def service(self) -> Service:
        """State of the service machine."""
        return self.snapshot.state

    @service.setter
    def service(self, state: Service) -> None:
        self.set(state=state, since=self.event.at)

    @property
    def engine(self) -> Engine:
        """State of the engine's machine."""
        return self.snapshot.engine

    @engine.setter
    def engine(self, state: Engine) -> None:
        self.set(engine=state)

    @property
    def download(self) -> Download:
        """State of the download's machine."""
        return self.snapshot.download

    @download.setter
    def download(self, state: Download) -> None:
        self.set(download=state)
