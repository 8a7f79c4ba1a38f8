"""Every situation that can be reached, for both settings of swaps, on all cores; and each of them settled.

python benchmarks/situations.py [--minutes N] [--every N] [--out FILE]

The search of `tests/simulation/test_exhaustive.py` with no limit but the time. Exit code 1 if a promise is broken, 2
if the time was over before everything was visited.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from figure import ROOT, commit, machine, percentile, today

sys.path.insert(0, str(ROOT / "tests"))

from support.rows import counting, never_taken, shown
from support.search import CELLS, REASONS, SMALL, Search
from vllm_fsm.core.states import Service

PAGE = """\
# Situations

Written by `make situations`: every situation of the core and the world around it that can be reached from a controller
that has just begun, as [tests/support/search.py](../tests/support/search.py) tells them apart: the snapshot, with times
reduced to whether they still count; the engine's process; what was asked of it; the fetch under way; the effects that
failed. From each, every event that could come is fed, with each of its values; so are late and repeated ones; and each
effect that can fail fails, too. All invariants are checked after every event. Then the faults end, and the world must
settle to what its files ask for.

Numbers are small here: 2 crashes before a rest, 2 attempts at a download, 2 unanswered requests. Situations that look
the same are one, and the first that was found stands for all of them: it is no proof for other times.

{machine}.
{date}, {commit}.

{summaries}

## Cells

How many events of each kind met each public state.

{cells}

{unmet}

## Faults

How many of each kind met each public state.

{faults}

## Rows never taken

{rows}
"""


@dataclass(frozen=True)
class Outcome:
    """What came of one search."""

    summary: str
    complete: bool
    cells: Counter[tuple[str, str]]
    faults: Counter[tuple[str, str]]
    rows: Counter[int]


def visit(job: tuple[bool, float, int]) -> Outcome:
    """Search with one setting of swaps until a time, then settle."""
    after_download, until, every = job
    with counting() as rows:
        search = Search(
            replace(SMALL, swap_after_download=after_download, fallback=not after_download), until=until
        ).run()
        taken = rows.copy()
    began = time.monotonic()
    times = [search.settle(index) for index in range(0, len(search.situations), every)]
    name = "after the download" if after_download else "at once, with a fallback"
    summary = (
        f"- Swaps {name}: {search}, in {search.seconds:.0f} s. {len(times):,} of them settled, in "
        f"{time.monotonic() - began:.0f} s: after {percentile(times, 50):.0f} simulated seconds (median), "
        f"{max(times):,.0f} at most."
    )
    return Outcome(summary, search.complete, search.cells, search.faults, taken)


def table(counts: Counter[tuple[str, str]], names: list[str], by_state_first: bool) -> str:
    """Return counts by state, as Markdown."""
    states = [state.value for state in Service]
    lines = [f"| | {' | '.join(states)} |", f"|---|{'---:|' * len(states)}"]
    for name in names:
        numbers = [counts[(state, name) if by_state_first else (name, state)] for state in states]
        lines.append(f"| {name} | {' | '.join(f'{number:,}' for number in numbers)} |")
    return "\n".join(lines)


def main() -> None:
    """Search, settle, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="time that the search may take (default: 30)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="settle one of N (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "situations.md", help="page")
    options = parser.parse_args()
    where, named = machine(), commit()
    until = time.monotonic() + options.minutes * 60
    jobs = [(after_download, until, options.every) for after_download in (True, False)]
    with multiprocessing.Pool(min(len(jobs), len(os.sched_getaffinity(0)))) as pool:
        outcomes = pool.map(visit, jobs, chunksize=1)
    cells = sum((outcome.cells for outcome in outcomes), Counter())
    faults = sum((outcome.faults for outcome in outcomes), Counter())
    rows = sum((outcome.rows for outcome in outcomes), Counter())
    unmet = [cell for cell in CELLS if not cells[cell]]
    text = f"{len(CELLS) - len(unmet)} of {len(CELLS)} cells were met. Not met, with what the table says of each:\n\n"
    text += "\n".join(f"- {event} in {state}: {REASONS[state, event]}" for state, event in unmet)
    page = PAGE.format(
        machine=where,
        date=today(),
        commit=named,
        summaries="\n".join(outcome.summary for outcome in outcomes),
        cells=table(cells, list(dict.fromkeys(event for _, event in CELLS)), by_state_first=True),
        unmet=text,
        faults=table(faults, sorted({fault for fault, _ in faults}), by_state_first=False),
        rows="\n".join(f"- {shown(row)}: {row.why}" for row in never_taken(rows)) or "None.",
    )
    print(page)
    options.out.write_text(page)
    sys.exit(0 if all(outcome.complete for outcome in outcomes) else 2)


if __name__ == "__main__":
    main()
