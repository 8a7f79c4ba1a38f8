"""Ten million events in seeded worlds on all cores: what was exercised how often, what never, which seeds fail.

python benchmarks/soak.py [--total N] [--minutes N] [--first SEED] [--events N] [--out FILE]
python benchmarks/soak.py --show SEED [--events N]      the last events of one seed

Each seed runs so many events with all faults, then the faults end and the world must settle to what its files ask for,
as `tests/simulation/test_seeds.py` has it. Here is more of it, and every second seed is ruder than usual in one way.
Seeds follow one another until there were `--total` events or the time is over. Exit code 1 if a seed fails, 2 if the
time was over first.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path

from figure import ROOT, commit, machine, today

sys.path.insert(0, str(ROOT / "tests"))

from support import faults
from support.rows import EVERY_ROW, counting, shown
from support.world import Faults, World
from vllm_fsm.core import events as ev
from vllm_fsm.core.machine import late
from vllm_fsm.core.states import Service
from vllm_fsm.core.table import SERVICE, SERVICE_TRIGGERS, trigger_name

Cell = tuple[str, str]
SETTLE = 7200.0
"""Seconds of virtual time."""
CELLS: list[Cell] = [(state.value, trigger_name(trigger)) for trigger in SERVICE_TRIGGERS for state in Service]
DONE = {(row.source.value, trigger_name(row.trigger)) for row in SERVICE if row.guard or row.dest or row.reaction}
"""Cells in which the table does something; the others stay and say why."""
SHOWN = 40
FAULTS = [f.name for f in fields(Faults)]
ROWS: Counter[int] = Counter()
"""Of this process: how often each row was taken."""
PAGE = """\
# Soak

Written by `make soak`: seeded worlds as in [tests/support/world.py](../tests/support/world.py), with every invariant
checked after every event, and settled in the end.

{machine}.
{date}, {commit}.

{summary}

## Events by state

How often each event met each public state. What came too late, from an engine, a download or a timer that is over, is
not counted; where there is a dot, the table does nothing and says why.

{cells}

{unseen}

## Faults by state

How often each kind of bad news met each public state; *late* is what belongs to an engine, a fetch or a timer that is
over.

{faults}

How often the world was rude, as [tests/support/world.py](../tests/support/world.py) says it: {struck}.

## Rows

How often each row of the table was taken.

{untaken}

{rows}
"""


@dataclass(frozen=True)
class Outcome:
    """What came of one seed."""

    seed: int
    events: int
    late: int
    cells: Counter[Cell]
    met: Counter[Cell]
    struck: Counter[str]
    rows: Counter[int]
    failure: str | None


class Counted(World):
    """A world that counts what meets the service table."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cells: Counter[Cell] = Counter()
        self.met: Counter[Cell] = Counter()
        self.late = 0

    def feed(self, event: ev.Event) -> None:
        """Hand the event to the core."""
        before = self.snapshot
        fault = faults.name(before, event)
        if fault:
            self.met[fault, before.state.value] += 1
        if late(before, event):
            self.late += 1
        elif not before.stopping or isinstance(event, ev.StopRequested):
            self.cells[before.state.value, type(event).__name__] += 1
        super().feed(event)


def world_of(seed: int) -> Counted:
    """Return the world of a seed: the usual one, or with one fault after the other at least every second time."""
    if seed % 2 == 0:
        return Counted(seed)
    usual, name = Faults(), FAULTS[seed // 2 % len(FAULTS)]
    return Counted(seed, faults=replace(usual, **{name: max(0.5, getattr(usual, name))}))


def count_rows() -> None:
    """Have the rows counted for as long as this process lives."""
    global COUNTING, ROWS
    COUNTING = counting()
    ROWS = COUNTING.__enter__()


def failure_of(world: World, events: int) -> str | None:
    """Let so many events happen and the world settle; return what is wrong then."""
    try:
        world.run(events)
        world.settle(SETTLE)
        return world.settled()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def soak(job: tuple[int, int]) -> Outcome:
    """Run one seed for so many events and let it settle."""
    seed, events = job
    world = world_of(seed)
    ROWS.clear()
    failure = failure_of(world, events)
    return Outcome(
        seed, sum(world.counts.values()), world.late, world.cells, world.met, world.struck, ROWS.copy(), failure
    )


def show(seed: int, events: int) -> None:
    """Print how one seed ends."""
    world = world_of(seed)
    world.keep_log = True
    failure = failure_of(world, events)
    print(*world.log[-SHOWN:], sep="\n")
    sys.exit(failure or 0)


def cells_table(seen: Counter[Cell]) -> str:
    """Return how often each cell was met, as Markdown; in cells with a dot the table does nothing."""
    states = [state.value for state in Service]
    lines = [f"| event | {' | '.join(states)} |", f"|---|{'---:|' * len(states)}"]
    for trigger in SERVICE_TRIGGERS:
        name = trigger_name(trigger)
        shown = [f"{seen[state, name]:,}" + ("" if (state, name) in DONE else " ·") for state in states]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def unseen_list(seen: Counter[Cell]) -> str:
    """Return how many cells were met, and the names of those that were not although the table does something there."""
    met = sum(bool(seen[cell]) for cell in CELLS)
    done = [cell for cell in CELLS if cell in DONE]
    unseen = [f"{name} in {state}" for state, name in done if not seen[state, name]]
    text = f"{met} of {len(CELLS)} cells were met, {len(done) - len(unseen)} of the {len(done)} that do something."
    return f"{text} Never met of these: {', '.join(unseen)}." if unseen else text


def faults_table(met: Counter[Cell]) -> str:
    """Return how often each fault met each state, as Markdown."""
    states = [state.value for state in Service]
    lines = [f"| fault | {' | '.join(states)} |", f"|---|{'---:|' * len(states)}"]
    lines.extend(
        f"| {fault} | {' | '.join(f'{met[fault, state]:,}' for state in states)} |"
        for fault in sorted({fault for fault, _ in met})
    )
    return "\n".join(lines)


def struck_list(struck: Counter[str]) -> str:
    """Return how often the world decided for each fault."""
    return ", ".join(f"{fault} {number:,}" for fault, number in sorted(struck.items()))


def rows_table(rows: Counter[int]) -> str:
    """Return how often each row was taken, as Markdown."""
    lines = ["| row | taken |", "|---|---:|"]
    lines.extend(f"| {shown(row)} | {rows[number]:,} |" for number, row in enumerate(EVERY_ROW))
    return "\n".join(lines)


def untaken_list(rows: Counter[int]) -> str:
    """Return the rows that do something and were not taken."""
    doing = [(number, row) for number, row in enumerate(EVERY_ROW) if row.reaction or row.dest]
    missing = [shown(row) for number, row in doing if not rows[number]]
    text = f"{sum(bool(n) for n in rows.values())} of {len(EVERY_ROW)} rows were taken, "
    text += f"{len(doing) - len(missing)} of the {len(doing)} that do something."
    return "\n- ".join([f"{text} Never taken of these:\n", *missing]) if missing else text


def main() -> None:
    """Run, print, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total", type=int, default=10_000_000, help="events of all seeds (default: 10,000,000)")
    parser.add_argument("--minutes", type=float, default=15.0, help="time that it may take (default: 15)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first one (default: 0)")
    parser.add_argument("--events", type=int, default=2000, help="events of each before it settles (default: 2000)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "soak.md", help="page (default: docs/soak.md)")
    parser.add_argument("--show", type=int, metavar="SEED", help="print how this one ends instead")
    options = parser.parse_args()
    if options.show is not None:
        show(options.show, options.events)
    where, named, cores = machine(), commit(), len(os.sched_getaffinity(0))
    began = time.monotonic()
    seeds = itertools.count(options.first)
    seen: Counter[Cell] = Counter()
    met: Counter[Cell] = Counter()
    struck: Counter[str] = Counter()
    rows: Counter[int] = Counter()
    failures: list[Outcome] = []
    events = dropped = ran = 0
    with multiprocessing.Pool(cores, initializer=count_rows) as pool:
        while events < options.total and time.monotonic() - began < options.minutes * 60:
            jobs = [(next(seeds), options.events) for _ in range(100)]
            for outcome in pool.imap_unordered(soak, jobs, chunksize=5):
                seen.update(outcome.cells)
                met.update(outcome.met)
                struck.update(outcome.struck)
                rows.update(outcome.rows)
                events, dropped, ran = events + outcome.events, dropped + outcome.late, ran + 1
                if outcome.failure:
                    failures.append(outcome)
    lasted = time.monotonic() - began
    summary = (
        f"{ran:,} seeds from {options.first} on, {events:,} events in {lasted:.0f} s on {cores} cores: "
        f"{events / lasted:,.0f} a second. {dropped:,} of them came too late. Seeds that failed: {len(failures)}."
    )
    if events < options.total:
        summary += f" The time was over before there were {options.total:,} events."
    for outcome in sorted(failures, key=lambda one: one.seed):
        summary += f"\n\n- seed {outcome.seed}: {(outcome.failure or '')[:300]}"
        summary += f"\n  `python benchmarks/soak.py --show {outcome.seed} --events {options.events}`"
    page = PAGE.format(
        machine=where,
        date=today(),
        commit=named,
        summary=summary,
        cells=cells_table(seen),
        unseen=unseen_list(seen),
        faults=faults_table(met),
        struck=struck_list(struck),
        untaken=untaken_list(rows),
        rows=rows_table(rows),
    )
    print(page)
    options.out.write_text(page)
    sys.exit(1 if failures else 2 if events < options.total else 0)


if __name__ == "__main__":
    main()
