"""Input that means harm, on all cores: how much of it, and what did not hold.

python benchmarks/fuzz.py [--inputs N] [--minutes M] [--out FILE]

The targets are those of `tests/support/hostile.py`. It ends after so many inputs in all, or so many minutes. Each
process takes one target for some seconds, in an empty folder of its own. Exit code 1 if anything did not hold.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from figure import ROOT, commit, machine, today
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

sys.path.insert(0, str(ROOT / "tests"))

from support.hostile import PATIENCE, TARGETS, in_time

SLICE = 15.0
"""Seconds that a process has for one target."""
EXAMPLES = 200
"""Of one seed."""
MEMORY = Path("/dev/shm")
"""Where each process makes a folder of its own, if there is such a place."""
PAGE = """\
# Fuzzing

Written by `make soak`: input that means harm, as [tests/support/hostile.py](../tests/support/hostile.py) makes it, and
what must hold of every answer: no exception, an answer within {patience} s, no secret, no order to a terminal, no
forged line, and no file changed that should not be.

{machine}.
{date}, {commit}.

{summary}

| target | inputs |
|---|---:|
{rows}
"""


@dataclass(frozen=True)
class Outcome:
    """What came of one slice."""

    target: str
    seed: int
    inputs: int
    failure: str | None


def fuzz(job: tuple[str, int, float]) -> Outcome:
    """Check one target from a seed on, until the time of the slice is over or something does not hold."""
    name, first, ends = job
    target, inputs = TARGETS[name], 0
    ends = min(ends, time.monotonic() + SLICE)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None, ignore_cleanup_errors=True) as folder:
        check = target.check(Path(folder))
        for seed in itertools.count(first):

            @seeded(seed)
            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            )
            @given(target.examples)
            def run(example: object) -> None:
                nonlocal inputs
                with in_time():
                    inputs += check(example)

            try:
                run()
            except BaseException as error:
                traceback.print_exc()
                return Outcome(name, seed, inputs, f"{type(error).__name__}: {error}")
            if time.monotonic() >= ends:
                break
    return Outcome(name, first, inputs, None)


def jobs(began: float, minutes: float) -> Iterator[tuple[str, int, float]]:
    """Yield slices, every target in turn, as long as there is time."""
    ends = began + 60 * minutes
    for number, name in enumerate(itertools.cycle(TARGETS)):
        if time.monotonic() >= ends:
            return
        yield name, number * 1_000_000, ends


def main() -> None:
    """Run, print, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many in all (default: 1000000)")
    parser.add_argument("--minutes", type=float, default=60.0, help="at most so long (default: 60)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "fuzz.md", help="page (default: docs/fuzz.md)")
    options = parser.parse_args()
    where, cores, began = machine(), len(os.sched_getaffinity(0)), time.monotonic()
    counts: Counter[str] = Counter()
    failures: list[Outcome] = []
    # What a target changes of its process ends with it.
    with multiprocessing.Pool(cores, maxtasksperchild=1) as pool:
        slots, over = threading.Semaphore(2 * cores), threading.Event()

        def drawn() -> Iterator[tuple[str, int, float]]:
            for job in jobs(began, options.minutes):
                slots.acquire()
                if over.is_set():
                    return
                yield job

        for outcome in pool.imap_unordered(fuzz, drawn()):
            slots.release()
            counts[outcome.target] += outcome.inputs
            if outcome.failure is not None:
                failures.append(outcome)
            if counts.total() >= options.inputs:
                # Else the thread that draws jobs would wait for ever, and the pool for that thread.
                over.set()
                slots.release()
                break
    lasted = time.monotonic() - began
    summary = (
        f"{counts.total():,} inputs in {lasted:.0f} s on {cores} cores: {counts.total() / lasted:,.0f} a second. "
        f"Slices in which something did not hold: {len(failures)}."
    )
    for outcome in failures:
        summary += f"\n\n- {outcome.target}, seed {outcome.seed}: {(outcome.failure or '')[:300]}"
    page = PAGE.format(
        patience=PATIENCE,
        machine=where,
        date=today(),
        commit=commit(),
        summary=summary,
        rows="\n".join(f"| {name} | {counts[name]:,} |" for name in TARGETS),
    )
    print(page)
    options.out.write_text(page)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
