"""What real vLLMs printed, with how they ended: `tests/unit/data/recordings`, a `.log` and a `.json` for each run.

The text is that of both streams in the order of its arrival; machine paths are replaced. `events` of the sidecar says
when somebody sent a signal, `line_seconds` when each line came.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vllm_fsm.core.snapshot import Finding
from vllm_fsm.diagnosis.ending import End, Site
from vllm_fsm.diagnosis.stream import Diagnosis

DIRECTORY = Path(__file__).parents[1] / "unit" / "data" / "recordings"
SITE = Site("org/given", "hub.example", 8000)


@dataclass(frozen=True)
class Recording:
    """One run."""

    name: str
    lines: tuple[str, ...]
    status: int
    asked: int | None
    """How many lines there were when it was asked to end; None when it was not."""

    def finding(self, change: Callable[[list[str]], Iterable[str]] = list, **end: int) -> Finding:
        """Diagnose the run; `change` is what happens to its lines."""
        diagnosis = self.heard(change)
        return diagnosis.finding(End(self.status, self.asked is not None, **end))

    def heard(self, change: Callable[[list[str]], Iterable[str]] = list) -> Diagnosis:
        """Read the run's lines."""
        diagnosis = Diagnosis(SITE)
        for line in change(list(self.lines[: self.asked])):
            diagnosis.feed(line)
        if self.asked is not None:
            diagnosis.stop()
            for line in self.lines[self.asked :]:
                diagnosis.feed(line)
        return diagnosis


@cache
def load(name: str) -> Recording:
    """Return the run of this name."""
    lines = tuple((DIRECTORY / f"{name}.log").read_text().splitlines())
    run = json.loads((DIRECTORY / f"{name}.json").read_text())
    status = run["exit_code"] if run["exit_code"] is not None else -getattr(signal, run["signal"])
    asked = [at for at, what in run["events"] if re.match("SIG(TERM|INT) sent", what)]
    first = sum(at <= min(asked) for at in run["line_seconds"]) if asked else None
    if first is None and run["facts"].get("recorder_killed_it"):
        first = len(lines)
    return Recording(name, lines, status, first)


def names() -> list[str]:
    """The names of all runs."""
    return sorted(path.stem for path in DIRECTORY.glob("*.log"))
