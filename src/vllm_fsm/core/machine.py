"""`step`: one event through the three machines. The only module that imports `transitions`.

The library's plain synchronous `Machine` runs without a registered model: each `Turn` is the model for one event, so
the machines themselves have no state. Guards are its conditions, reactions its `before` callbacks, cells that stay
its internal transitions.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from transitions import Machine, State

from vllm_fsm.core import events as ev
from vllm_fsm.core.effects import ArmTimer, CancelTimer, Effect, Exit
from vllm_fsm.core.snapshot import Snapshot
from vllm_fsm.core.states import Download, Engine, Service
from vllm_fsm.core.table import DOWNLOAD, ENGINE, SERVICE, Row, trigger_name
from vllm_fsm.core.turn import Turn


class _Named(State):
    """A state with its name at hand: the library asks for it at each step on its way, and `Enum.name` is slow."""

    name: str = ""

    def __init__(self, name: Enum, *options: Any, **more: Any) -> None:
        super().__init__(name, *options, **more)
        self.name = name.name


class _Machine(Machine):
    """The library's machine, quicker to find the state of a turn. What it does with it is the library's."""

    state_cls = _Named

    def get_model_state(self, model: object) -> State:
        """Return the state of `model`."""
        return self.states[getattr(model, self.model_attribute)._name_]


def build(states: type[Enum], rows: list[Row], attribute: str) -> Machine:
    """Make the machine of `rows`, which keeps its state in the turn's `attribute`."""
    machine = _Machine(
        model=None,
        states=states,
        initial=next(iter(states)),
        auto_transitions=False,
        model_attribute=attribute,
    )
    for row in rows:
        machine.add_transition(
            trigger_name(row.trigger),
            row.source,
            row.dest,
            conditions=[row.guard] if row.guard else None,
            before=[row.reaction] if row.reaction else None,
        )
    return machine


service: Final = build(Service, SERVICE, "service")
engine: Final = build(Engine, ENGINE, "engine")
download: Final = build(Download, DOWNLOAD, "download")
MACHINES: Final = {"service": service, "engine": engine, "download": download}

_FOLLOWERS: Final = {
    name: [machine.events[name] for machine in (engine, download) if name in machine.events]
    for name in (*engine.events, *download.events)
}
"""The other two machines' takers of an event or a command, the engine's first."""

_BY_ENGINE: Final = (ev.PortFree, ev.PortTaken)
"""What may be said about a start number while no engine of it is left."""


def late(snapshot: Snapshot, event: ev.Event) -> bool:
    """Whether `event` belongs to an engine start, a fetch or a timer that is over."""
    if isinstance(event, ev.EngineEvent):
        if event.epoch != snapshot.epoch:
            return True
        if isinstance(event, ev.ProbeEvent):
            return snapshot.engine is not Engine.ALIVE
        return snapshot.engine is Engine.ABSENT and not isinstance(event, _BY_ENGINE)
    if isinstance(event, ev.FetchEvent):
        # Between two attempts the number is that of the one that is over.
        return event.fetch != snapshot.fetch or snapshot.download in (Download.IDLE, Download.WAITING)
    if isinstance(event, ev.Timer):
        return snapshot.due(type(event)) != event.due
    return False


def step(snapshot: Snapshot, event: ev.Event) -> tuple[Snapshot, tuple[Effect, ...]]:
    """Decide: return what is true after `event` and what is to be done, in order.

    An event that changes nothing returns `snapshot` itself.
    """
    turn = Turn(snapshot, event)
    if late(snapshot, event):
        turn.set(dropped=snapshot.dropped + 1)
    elif isinstance(event, ev.WarningsChanged):
        if event.warnings != snapshot.warnings:
            turn.set(warnings=event.warnings)
    else:
        if isinstance(event, ev.Timer):
            turn.cancel(type(event))
        _run(turn)
    return turn.snapshot, _effects(snapshot, turn)


def _run(turn: Turn) -> None:
    name = type(turn.event).__name__
    # Once the controller ends, only the engine's and the download's ends are awaited; a second request still counts.
    if name in service.events and not (turn.snapshot.stopping and name != "StopRequested"):
        service.events[name].trigger(turn, turn)
    for taker in _FOLLOWERS.get(name, ()):
        taker.trigger(turn, turn)
    for command in turn.commands:
        for taker in _FOLLOWERS[command.value]:
            taker.trigger(turn, turn)


def _effects(before: Snapshot, turn: Turn) -> tuple[Effect, ...]:
    """Add what follows from the snapshots alone: timers, and the end."""
    after = turn.snapshot
    effects = turn.effects
    if after.timers != before.timers:
        armed = dict(after.timers)
        for timer, _ in before.timers:
            if timer not in armed and timer is not type(turn.event):
                effects.append(CancelTimer(timer))
        effects.extend(ArmTimer(*entry) for entry in after.timers if entry not in before.timers)
    if _over(after) and not _over(before):
        effects.append(Exit(0))
    return tuple(effects)


def _over(snapshot: Snapshot) -> bool:
    return snapshot.stopping and snapshot.engine is Engine.ABSENT
