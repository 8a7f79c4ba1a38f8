"""The rows are total, say why, and are what the machines hold."""

import inspect
from collections import defaultdict

import pytest

from vllm_fsm.core import events as ev
from vllm_fsm.core import guards, reactions, table
from vllm_fsm.core.machine import MACHINES
from vllm_fsm.core.states import Download, Engine, Service
from vllm_fsm.core.table import Row, trigger_name

PARTS = {
    "service": (Service, table.SERVICE, table.SERVICE_TRIGGERS),
    "engine": (Engine, table.ENGINE, table.ENGINE_TRIGGERS),
    "download": (Download, table.DOWNLOAD, table.DOWNLOAD_TRIGGERS),
}
EVERY_ROW = [row for _, rows, _ in PARTS.values() for row in rows]


def cells(rows):
    found = defaultdict(list)
    for row in rows:
        found[row.source, row.trigger].append(row)
    return found


@pytest.mark.parametrize("part", PARTS)
def test_every_state_meets_every_event(part):
    states, rows, triggers = PARTS[part]
    assert set(cells(rows)) == {(state, trigger) for state in states for trigger in triggers}


@pytest.mark.parametrize("part", PARTS)
def test_the_last_row_of_a_cell_and_no_other_has_no_guard(part):
    for cell in cells(PARTS[part][1]).values():
        assert [row.guard is None for row in cell] == [False] * (len(cell) - 1) + [True], cell


def test_every_row_says_why():
    assert [row for row in EVERY_ROW if not row.why or row.why[0].isupper() or row.why.endswith(".")] == []


def test_every_event_has_a_place():
    known = {trigger for _, _, triggers in PARTS.values() for trigger in triggers}
    concrete = {
        kind
        for _, kind in inspect.getmembers(ev, inspect.isclass)
        if issubclass(kind, ev.Event) and not kind.__subclasses__()
    }
    assert concrete - known == {ev.WarningsChanged}  # changes no state: `step` notes it


@pytest.mark.parametrize("part", PARTS)
def test_the_machines_hold_exactly_the_rows(part):
    _, rows, triggers = PARTS[part]
    machine = MACHINES[part]
    assert set(machine.events) == {trigger_name(trigger) for trigger in triggers}
    for (source, trigger), cell in cells(rows).items():
        held = machine.get_transitions(trigger_name(trigger), source)
        assert [(t.source, t.dest) for t in held] == [
            (row.source.name, row.dest.name if row.dest else None) for row in cell
        ]
        assert [[c.func for c in t.conditions] for t in held] == [[row.guard] if row.guard else [] for row in cell]
        assert [t.before for t in held] == [[row.reaction] if row.reaction else [] for row in cell]


@pytest.mark.parametrize("part", PARTS)
def test_every_state_can_be_reached(part):
    states, rows, _ = PARTS[part]
    reached = {next(iter(states))}
    while True:
        further = {row.dest for row in rows if row.source in reached and row.dest} | reached
        if further == reached:
            break
        reached = further
    assert reached == set(states)


def test_no_guard_and_no_reaction_is_left_over():
    used = {row.guard for row in EVERY_ROW} | {row.reaction for row in EVERY_ROW}
    for module in (guards, reactions):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                helper = f"{name}(" in inspect.getsource(module).replace(f"def {name}(", "")
                assert function in used or helper, name


def test_a_row_to_its_own_state_stays():
    row = table.row(Service.READY, ev.ProbePassed, None, Service.READY, None, "known")
    assert row == Row(Service.READY, ev.ProbePassed, None, None, None, "known")
