"""What is compared: each metric with its fixed definition, and how its values are said."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rivals.outcome import Outcome

CANNOT, UNKNOWN = "cannot", "not measured"


@dataclass(frozen=True)
class Metric:
    """One line of the table. Less is better in all of them."""

    key: str
    title: str
    meaning: str
    unit: str = ""
    digits: int = 0
    milliseconds: float = 0.0
    """Of one unit, for a latency that a person may notice; 0 for what is none."""
    followed: bool = False
    """Whether it needs somebody who follows the file."""
    word: str = ""
    """What a value is, when it is not a figure to be compared: a fault of its own."""

    def number(self, values: Sequence[float]) -> str:
        """Return the median and, of several values, the worst."""
        shown = [f"{statistics.median(values):,.{self.digits}f}"]
        if len(values) > 1:
            shown.append(f"{max(values):,.{self.digits}f}")
        return " / ".join(shown)


CRASH = Metric(
    "crash-exec",
    "crash → exec, ms",
    "SIGKILL of the server's leader until the next one is executed. Between two crashes lies a change, so that every "
    "crash is a first one: none is slowed down by a back-off for repeated crashes, which several have, ours included",
    "ms",
    1,
    milliseconds=1,
)
TERM = Metric(
    "change-term",
    "change → SIGTERM, ms",
    "the write of the file until the server is asked to end, half of the writes by rename, half in place; the moment "
    "right before the rename, or before the file is opened to be written",
    "ms",
    1,
    milliseconds=1,
    followed=True,
)
EXEC = Metric(
    "change-exec",
    "change → new exec, ms",
    "the same write until the next server is executed; the old one ends at once when it is asked",
    "ms",
    1,
    milliseconds=1,
    followed=True,
)
LOST = Metric(
    "lost",
    "changes lost",
    "20 writes with distinct values, 0 to 20 ms apart, then a look: lost is a last value that the listening server "
    "does not run with 5 s later. 50 such series, half by rename, half in place, are 1,000 changes; after 80 s it ends "
    "early, for the SDK loop after 40 s, as losses and slow restarts take their time. Their number stands behind",
    followed=True,
)
READY = Metric(
    "ready",
    "ready noticed, ms",
    "the server's `listen()` until the supervisor says that it is ready, in its own way, after every change and crash",
    "ms",
    1,
    milliseconds=1,
)
FALSE_READY = Metric(
    "false-ready",
    "false ready",
    "a healthy stranger holds the port; the server comes to its port 2 s after it was executed and ends for want of "
    "it. Said is how soon, within 12 s, the supervisor called that ready all the same",
    "s",
    1,
    word="yes, after {} s",
)
ORPHANS = Metric(
    "orphans",
    "orphans",
    "what of the server, which has one child, is there 5 s after SIGKILL of the supervisor's own process",
)
LEFTOVER = Metric(
    "leftover",
    "left by a crash",
    "what of the server is there 5 s after SIGKILL of its leader, beside the next server",
)
DEAF = Metric(
    "deaf",
    "stop of a deaf child, s",
    "the order to stop, with a grace of 5 s, until a leader that ignores SIGTERM is gone; once",
    "s",
    2,
    milliseconds=1000,
)
DEAF_CHILD = Metric("deaf-child", "… what it leaves", "what of that server is there 2 s later; its child is deaf too")
PSS = Metric(
    "pss",
    "PSS, MB",
    "proportional set size of the supervisor's own processes and its helper's, not the server's, beside a server that "
    "listens, with nothing else running; 10⁶ bytes",
    "MB",
    1,
)
IDLE = Metric(
    "idle",
    "idle CPU, % of a core",
    "CPU time of the same processes, and of children that ended, over 30 s beside a server that nobody asks anything; "
    "its unit is 10 ms, 0.03 %; all supervisors at the same time",
    "%",
    2,
)
METRICS = (CRASH, TERM, EXEC, LOST, READY, FALSE_READY, ORPHANS, LEFTOVER, DEAF, DEAF_CHILD, PSS, IDLE)


def absent(metric: Metric, outcome: Outcome) -> str:
    """Say why there is no figure: that of a supervisor that has no means for it, or of a phase that broke off."""
    dumb = metric in (READY, FALSE_READY) and not outcome.readiness
    return CANNOT if dumb or (metric is CRASH and not outcome.restarts) else UNKNOWN
