"""Several supervisors at the same job, in one run: keep one server running, and follow one file.

python benchmarks/compare.py [--quick]

Installs what is not on PATH below `build/compare`, measures, and writes `docs/comparison.md` and `docs/comparison.svg`.
What each metric is stands in `rivals/metric.py`, from where the page takes it. A supervisor that cannot be had is a
column that says so. Ends by itself within some minutes and leaves no process behind.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from dataclasses import asdict
from functools import partial

from figure import ROOT, commit, machine, today
from rivals import measure, page, plot, tools
from rivals.ours import Ours
from rivals.outcome import Outcome
from rivals.pm2 import Pm2
from rivals.runit import Runit
from rivals.s6 import S6
from rivals.startos_loop import StartOS
from rivals.supervisord import Supervisord
from rivals.watchfiles_cli import Watchfiles

KINDS: tuple[measure.Kind, ...] = (Ours, Supervisord, Pm2, S6, Runit, Watchfiles, StartOS)
ROUNDS, SERIES, WRITES, BUDGET, IDLE = 10, 50, 20, 80.0, 30.0
RECORD = tools.FOLDER / "outcomes.json"


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of everything, to see whether it runs; no page")
    options = parser.parse_args()
    # So that the places are left in order, with all that runs in them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    where, missing = machine(), tools.install()
    began = time.monotonic()
    outcomes = [_outcome(kind, missing.get(kind.program, "")) for kind in KINDS]
    pairs = [pair for pair in zip(KINDS, outcomes, strict=True) if not pair[1].missing]
    part = 5 if options.quick else 1
    _measure(pairs, part)
    RECORD.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    text = page.page(
        outcomes,
        machine=where,
        date=today(),
        commit=commit(),
        minutes=(time.monotonic() - began) / 60,
        rounds=ROUNDS // part,
    )
    print(text)
    if not options.quick:
        (ROOT / "docs" / "comparison.md").write_text(text)
        (ROOT / "docs" / "comparison.svg").write_text(plot.plot(outcomes))


def _outcome(kind: measure.Kind, missing: str) -> Outcome:
    version = "" if missing else kind.version()
    return Outcome(kind.name, version, kind.how, kind.helper, missing, kind.restarts, kind.readiness)


def _measure(pairs: measure.Pairs, part: int) -> None:
    """Run all phases, each to one `part`th."""
    for kind, outcome in pairs:
        print(f"{kind.name} …", file=sys.stderr, flush=True)
        measure.guarded(partial(measure.latencies, rounds=ROUNDS // part), kind, outcome)
    changes = partial(measure.lost, batches=SERIES // part, size=WRITES)
    several = [pair for pair in pairs if not pair[0].alone]
    measure.together(several, "changes", partial(changes, budget=BUDGET / part))
    for pair in pairs:
        if pair[0].alone:
            measure.together([pair], f"changes, {pair[0].name}", partial(changes, budget=BUDGET / part / 2))
    measure.together(pairs, "orphans", measure.orphans)
    measure.together(pairs, "leftovers", measure.leftovers)
    measure.together(pairs, "deaf", measure.deaf)
    measure.together(pairs, "false ready", measure.false_ready)
    measure.idle(pairs, IDLE / part)


if __name__ == "__main__":
    main()
