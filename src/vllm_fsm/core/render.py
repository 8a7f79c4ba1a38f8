"""`states.md`, from the rows: the picture, the meaning of each state, every cell with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import Enum

from vllm_fsm.core.machine import MACHINES
from vllm_fsm.core.states import Download, Engine, Service
from vllm_fsm.core.table import (
    DOWNLOAD,
    DOWNLOAD_TRIGGERS,
    ENGINE,
    ENGINE_TRIGGERS,
    SERVICE,
    SERVICE_TRIGGERS,
    Row,
    Trigger,
    trigger_name,
)
from vllm_fsm.core.turn import Command

Example = tuple[str, str, str]
"""State, health result, health message."""

INTRODUCTION = """\
# What can happen, and what we do

This page is generated from `src/vllm_fsm/core/table.py`: change the rows, then run `vllm-fsm states > states.md`.

The controller is three small machines. The **service** machine has the five public states: what a user of the API
has. The **engine** machine follows one vLLM process from its start until nothing of it is left. The **download**
machine follows the fetch of the wanted model's weights.

An event goes to the service machine first, which decides on what was true before the event and may command the other
two (commands are printed in capitals). Then the engine's and the download's machine take the event, then they take the
commands, all within one step. In a cell the first row whose question is answered with yes is taken; the last row has
no question. *stays* means that the state does not change. What came back too late, from an engine or a download that
is over or from a timer that was disarmed, is dropped and counted before it gets here.

Everything is decided in `step(snapshot, event) -> (snapshot, effects)`: no clock, no files, no chance.
"""

NAMING = """\
## How the public state is named

The first that holds, after every step:

1. the engine is proven → **Ready**, also while a next model downloads
2. nothing is wanted → **NoModel**, at once
3. a download runs or waits for its next try → **Downloading**
4. nothing more is tried at present → **Failed**
5. else the engine is starting, being replaced, or waits for its next try → **Loading**
"""


def states_md(examples: Iterable[Example] = ()) -> str:
    """Return the page. `examples` are health lines to show for the public states; the core itself writes none."""
    return "\n".join(_page(list(examples)))


def _page(examples: list[Example]) -> Iterator[str]:
    yield INTRODUCTION
    yield "## The public states\n"
    yield mermaid("service", Service)
    yield ""
    yield from _meanings(Service)
    if examples:
        yield "## What a person sees\n"
        yield "| state | health | message |"
        yield "|---|---|---|"
        for state, result, message in examples:
            yield f"| {state} | `{result}` | {message} |"
        yield ""
    yield NAMING
    yield "## The engine\n"
    yield mermaid("engine", Engine)
    yield ""
    yield from _meanings(Engine)
    yield "## The download\n"
    yield mermaid("download", Download)
    yield ""
    yield from _meanings(Download)
    yield from _events("## The events\n", (*SERVICE_TRIGGERS, *ENGINE_TRIGGERS, *DOWNLOAD_TRIGGERS))
    yield from _table("## The service machine, cell by cell\n", Service, SERVICE)
    yield from _table("## The engine machine, cell by cell\n", Engine, ENGINE)
    yield from _table("## The download machine, cell by cell\n", Download, DOWNLOAD)


def mermaid(name: str, states: type[Enum]) -> str:
    """Draw the machine `name` as `transitions` holds it: one arrow for each pair of states, with its triggers."""
    machine = MACHINES[name]
    arrows: dict[tuple[Enum, Enum], list[str]] = {}
    for trigger in machine.events:
        for transition in machine.get_transitions(trigger):
            if transition.dest is not None:
                ends = states[transition.source], states[transition.dest]
                labels = arrows.setdefault(ends, [])
                if trigger not in labels:
                    labels.append(trigger)
    order = list(states)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {order[0].value}"]
    for source, dest in sorted(arrows, key=lambda ends: (order.index(ends[0]), order.index(ends[1]))):
        lines.append(f"    {source.value} --> {dest.value}: {', '.join(arrows[source, dest])}")
    lines.append("```")
    return "\n".join(lines)


def _meanings(states: type[Enum]) -> Iterator[str]:
    yield "| state | meaning |"
    yield "|---|---|"
    for state in states:
        yield f"| **{state.value}** | {MEANINGS[state]} |"
    yield ""


def _events(title: str, triggers: Iterable[Trigger]) -> Iterator[str]:
    yield title
    yield "| event | what happened |"
    yield "|---|---|"
    for trigger in dict.fromkeys(triggers):
        if not isinstance(trigger, Command):
            yield f"| {trigger.__name__} | {_first_line(trigger)} |"
    yield ""


def _table(title: str, states: type[Enum], rows: list[Row]) -> Iterator[str]:
    yield title
    for state in states:
        yield f"### {state.value}\n"
        yield "| on | if | does | goes to | why |"
        yield "|---|---|---|---|---|"
        last = None
        ignored: dict[str, list[str]] = {}
        for row in rows:
            if row.source is not state:
                continue
            if row.dest is None and row.reaction is None and row.guard is None and _alone(rows, row):
                ignored.setdefault(row.why, []).append(_shown(row.trigger))
                continue
            on = "" if row.trigger is last else _shown(row.trigger)
            last = row.trigger
            dest = f"**{row.dest.value}**" if row.dest else "*stays*"
            yield f"| {on} | {_phrase(row.guard, '–')} | {_phrase(row.reaction, 'nothing')} | {dest} | {row.why} |"
        for why, names in ignored.items():
            yield f"| {', '.join(names)} | – | nothing | *stays* | {why} |"
        yield ""


def _alone(rows: list[Row], row: Row) -> bool:
    return sum(r.source is row.source and r.trigger is row.trigger for r in rows) == 1


def _shown(trigger: Trigger) -> str:
    name = trigger_name(trigger)
    return name.upper() if isinstance(trigger, Command) else name


def _phrase(function: Callable[..., object] | None, none: str) -> str:
    if function is None:
        return none
    line = _first_line(function).rstrip(".")
    return line if line[:2].isupper() else line[0].lower() + line[1:]


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]


MEANINGS: dict[Enum, str] = {
    Service.NO_MODEL: "Nothing is wanted: `serveArgs` is absent, null or empty. No engine is started.",
    Service.DOWNLOADING: "The wanted model's weights are being fetched, or the next try is due soon; nothing serves.",
    Service.LOADING: "An engine is starting, is being replaced, or waits for its next try.",
    Service.READY: (
        "The engine is ours, listens, refuses requests without the key, names the model and has generated a token "
        "since it was started; since then it is seen to live and to step."
    ),
    Service.FAILED: (
        "The service does not serve. The message says why, and what to do; where it heals by itself (a taken port, a "
        "late engine, a slow retry) it is noticed."
    ),
    Engine.ABSENT: (
        "Nothing of the last engine is left: reaped, its session empty, GPU memory back or waited for long enough."
    ),
    Engine.ALIVE: "It was asked to start, is starting or serves.",
    Engine.TERMINATING: "It was asked to stop, or ended by itself, and something of it may be left.",
    Download.IDLE: "Nothing is to be fetched.",
    Download.CHECKING: "Looking whether the cache already holds what the engine will read.",
    Download.RUNNING: "Bytes are being fetched.",
    Download.WAITING: "An attempt failed; the next one has its time set.",
}
