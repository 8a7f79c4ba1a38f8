"""Many seeds of the simulated world on all cores: how many events, which cells of the table, which seeds fail.

python benchmarks/soak.py [--seeds N] [--first SEED] [--events N] [--out FILE]
python benchmarks/soak.py --show SEED [--events N]      the last events of one seed

Each seed runs so many events with all faults, then the faults end and the world must settle to what its files ask for,
as `tests/simulation/test_seeds.py` has it; here is only more of it. Exit code 1 if a seed fails.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from figure import ROOT, commit, machine, today

sys.path.insert(0, str(ROOT / "tests"))

from support.world import World
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
PAGE = """\
# Soak

Written by `make soak`: seeded worlds as in [tests/support/world.py](../tests/support/world.py), with every invariant
checked after every event, and settled in the end.

{machine}.
{date}, {commit}.

{summary}

How often each event met each public state. What came too late, from an engine, a download or a timer that is over, is
not counted; where there is a dot, the table does nothing and says why.

{cells}

{unseen}
"""


@dataclass(frozen=True)
class Outcome:
    """What came of one seed."""

    seed: int
    events: int
    late: int
    cells: Counter[Cell]
    failure: str | None


class Counted(World):
    """A world that counts what meets the service table."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cells: Counter[Cell] = Counter()
        self.late = 0

    def feed(self, event: ev.Event) -> None:
        """Hand the event to the core."""
        before = self.snapshot
        if late(before, event):
            self.late += 1
        elif not before.stopping or isinstance(event, ev.StopRequested):
            self.cells[before.state.value, type(event).__name__] += 1
        super().feed(event)


def world_of(seed: int) -> Counted:
    """Return the world of a seed."""
    return Counted(seed)


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
    failure = failure_of(world, events)
    return Outcome(seed, sum(world.counts.values()), world.late, world.cells, failure)


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


def main() -> None:
    """Run, print, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2000, help="how many (default: 2000)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first one (default: 0)")
    parser.add_argument("--events", type=int, default=2000, help="events of each before it settles (default: 2000)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "soak.md", help="page (default: docs/soak.md)")
    parser.add_argument("--show", type=int, metavar="SEED", help="print how this one ends instead")
    options = parser.parse_args()
    if options.show is not None:
        show(options.show, options.events)
    where, cores = machine(), len(os.sched_getaffinity(0))
    began = time.monotonic()
    jobs = [(seed, options.events) for seed in range(options.first, options.first + options.seeds)]
    with multiprocessing.Pool(cores) as pool:
        outcomes = list(pool.imap_unordered(soak, jobs, chunksize=4))
    lasted = time.monotonic() - began
    seen: Counter[Cell] = sum((outcome.cells for outcome in outcomes), Counter())
    events, dropped = sum(o.events for o in outcomes), sum(o.late for o in outcomes)
    failures = sorted((o for o in outcomes if o.failure), key=lambda o: o.seed)
    summary = (
        f"{options.seeds:,} seeds from {options.first} on, {events:,} events in {lasted:.0f} s on {cores} cores: "
        f"{events / lasted:,.0f} a second. {dropped:,} of them came too late. Seeds that failed: {len(failures)}."
    )
    for outcome in failures:
        summary += f"\n\n- seed {outcome.seed}: {(outcome.failure or '')[:300]}"
        summary += f"\n  `python benchmarks/soak.py --show {outcome.seed} --events {options.events}`"
    page = PAGE.format(
        machine=where,
        date=today(),
        commit=commit(),
        summary=summary,
        cells=cells_table(seen),
        unseen=unseen_list(seen),
    )
    print(page)
    options.out.write_text(page)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
