"""A figure: what was measured and what is to be reached; the table of many; the machine."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADINGS = ("figure", "to reach", "median", "p95", "max", "n", "")


@dataclass(frozen=True)
class Bound:
    """What one statistic of the values must be: at most `limit`, or at least `limit` where `least` is set."""

    statistic: str
    limit: float
    least: bool = False

    def met(self, values: Sequence[float]) -> bool:
        """Whether `values` keep it."""
        found = STATISTICS[self.statistic](values)
        return found >= self.limit if self.least else found <= self.limit


@dataclass(frozen=True)
class Figure:
    """Values of one kind, in `unit`; without a bound it is there to be read beside the others."""

    name: str
    unit: str
    values: Sequence[float]
    bound: Bound | None = None
    digits: int = 1

    @property
    def met(self) -> bool:
        """Whether what is to be reached is reached."""
        return self.bound is None or self.bound.met(self.values)

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        shown = [f"{self._shown(STATISTICS[name](self.values))}" for name in ("median", "p95", "max")]
        if len(self.values) == 1:
            shown[1:] = ["", ""]
        verdict = "" if self.bound is None else "met" if self.met else "**missed**"
        return (self.name, self._to_reach(), *shown, f"{len(self.values):,}", verdict)

    def _to_reach(self) -> str:
        if self.bound is None:
            return ""
        statistic = f"{self.bound.statistic} " if len(self.values) > 1 else ""
        return f"{statistic}{'≥' if self.bound.least else '≤'} {self._shown(self.bound.limit, exact=True)}"

    def _shown(self, value: float, *, exact: bool = False) -> str:
        return f"{value:,g} {self.unit}".rstrip() if exact else f"{value:,.{self.digits}f} {self.unit}".rstrip()


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of all do not exceed (nearest rank)."""
    return sorted(values)[max(0, ceil(percent / 100 * len(values)) - 1)]


STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "median": statistics.median,
    "p95": lambda values: percentile(values, 95),
    "max": max,
}


def table(figures: Iterable[Figure]) -> str:
    """Return the figures as a Markdown table whose columns also line up in a terminal."""
    rows = [HEADINGS, *(figure.cells() for figure in figures)]
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(HEADINGS))]
    aligned = [
        "| " + " | ".join(_pad(cell, widths[column], column) for column, cell in enumerate(row)) + " |" for row in rows
    ]
    rule = "|" + "|".join("-" * (w + 1) + (":" if _right(column) else "-") for column, w in enumerate(widths)) + "|"
    return "\n".join([aligned[0], rule, *aligned[1:]])


def _right(column: int) -> bool:
    return 2 <= column <= 5


def _pad(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if _right(column) else cell.ljust(width)


def machine() -> str:
    """Name what this runs on: CPU model, cores, kernel, Python, and how busy it was."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{model}, {cores} cores, Linux {platform.release()}, {python}; load average at the start {load:.1f}"


def commit() -> str:
    """Name the commit, and whether files differ from it."""
    try:
        named = _git("rev-parse", "--short=10", "HEAD")
        changed = _git("status", "--porcelain", "--", "src", "tests/support", "tests/fakes", "benchmarks")
    except (OSError, subprocess.CalledProcessError):
        return "no commit"
    return f"commit {named}{' with changes' if changed else ''}"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ("git", *arguments), cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ).stdout.strip()


def today() -> str:
    """The date, UTC."""
    return datetime.now(UTC).date().isoformat()


def main(measure: Callable[[int], list[Figure]], size: int, meaning: str = "measurements") -> None:
    """Measure and print: the command of one script. `size` is what `-n` says unless it is given."""
    import argparse

    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("-n", type=int, default=size, metavar="N", help=f"number of {meaning} (default: {size})")
    size = parser.parse_args().n
    where = machine()
    figures = measure(size)
    print(f"{where}; {commit()}\n\n{table(figures)}")
    sys.exit(not all(figure.met for figure in figures))
