"""Every figure, one after the other, into `docs/figures.md`.

python benchmarks/all.py [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path

import cache
import changes
import crashes
import diagnosis
import downloading
import edits
import failures
import health_command
import idle
import readiness
import real
import startup
import swap
import throughput
import warm
import worlds
from figure import ROOT, Figure, commit, machine, table, today

SCRIPTS = (
    edits,
    changes,
    readiness,
    crashes,
    diagnosis,
    idle,
    real,
    failures,
    startup,
    health_command,
    throughput,
    downloading,
    swap,
    cache,
    warm,
    worlds,
)
PAGE = """\
# Figures

Written by `make bench`; [benchmarks/README.md](../benchmarks/README.md) says what each one is and what it is not.

{machine}.
{date}, {commit}. {minutes:.0f} minutes.

{table}
"""


def main() -> None:
    """Measure, print, and write the page; exit with 1 if something was not reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, to see whether it runs; no page")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "figures.md", help="the page (default: %(default)s)"
    )
    options = parser.parse_args()
    where, began = machine(), time.monotonic()
    figures: list[Figure] = []
    missing = ""
    for script in SCRIPTS:
        print(f"{script.__name__} …", file=sys.stderr, flush=True)
        try:
            figures += script.measure(max(2, script.SIZE // 10) if options.quick else script.SIZE)
        except Exception as error:  # the others took their time, and are not lost for it
            traceback.print_exc()
            missing += f"\n`{script.__name__}` could not be measured: {type(error).__name__}.\n"
    minutes = (time.monotonic() - began) / 60
    text = PAGE.format(machine=where, date=today(), commit=commit(), minutes=minutes, table=table(figures) + missing)
    print(text)
    if not options.quick:
        options.out.write_text(text)
    sys.exit(bool(missing) or not all(figure.met for figure in figures))


if __name__ == "__main__":
    main()
