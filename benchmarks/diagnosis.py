"""How fast the engine's output is understood and passed on, in how much memory, and how soon its end is explained.

The output is that of real engines (`tests/unit/data/recordings`). What vLLM prints at its most is the largest number of
lines within one second of any of them. Passing a line on is all that the controller does with it: it is understood,
redacted, written to the log as JSON and recorded; what becomes of the log is left out. The end is that of a shell that
prints a recording and exits: from its last command to the health file with the cause.
"""

from __future__ import annotations

import json
import shlex
import tempfile
import time
import tracemalloc
from itertools import cycle, islice
from pathlib import Path

import figure
from figure import Bound, Figure
from rig import LIMIT, Renames, Rig

from support import recordings
from vllm_fsm import journal
from vllm_fsm.core.snapshot import Secret
from vllm_fsm.diagnosis.stream import Diagnosis
from vllm_fsm.record import Record
from vllm_fsm.redaction import Redactor

SIZE = 20
ROUNDS = 5
"""Times that all recordings are read, each in every round by a diagnosis of its own."""
FLOOD = 200_000
"""Lines of which the memory is measured."""
ENDS = {"b1_unknown_flag": 2, "c4_gated_no_token": 1, "e2_max_len_exceeds_kv_cache": 1}
"""An argparse error, a gated repository, a context that is too long: with their exit status."""
ENGINE = """\
cat {log}
echo "last now $*" > "$RUDE_STAMPS"
exit {status}
"""


def measure(size: int = SIZE) -> list[Figure]:
    """Read everything, and let `size` engines end in each way."""
    most = max(_most(name) for name in recordings.names())
    rates = [_rate() for _ in range(ROUNDS)]
    passed_on = [_rate(relayed=True) for _ in range(ROUNDS)]
    rows = [
        Figure("diagnosis, of the most that vLLM prints", "times", [rate / most for rate in rates], _at_least(20), 0),
        Figure("… lines read", "lines/s", rates, digits=0),
        Figure(
            "… and passed on, of the most that vLLM prints", "times", [r / most for r in passed_on], _at_least(20), 0
        ),
        Figure("… lines passed on", "lines/s", passed_on, digits=0),
        Figure("… lines that vLLM prints at its most", "lines/s", [most], digits=0),
        Figure("… memory after 200,000 lines", "kB", [_memory(FLOOD) / 1e3], Bound("max", 500)),
        Figure("… memory after 2,000 lines", "kB", [_memory(FLOOD // 100) / 1e3]),
    ]
    told = "engine's exit → cause in health.json"
    return rows + [Figure(f"{told}, {name}", "ms", _ends(name, size), Bound("max", 300)) for name in ENDS]


def _at_least(limit: float) -> Bound:
    return Bound("median", limit, least=True)


def _most(name: str) -> float:
    """Return how many lines of one recording came within a second at most."""
    at = json.loads((recordings.DIRECTORY / f"{name}.json").read_text())["line_seconds"]
    first, most = 0, 0
    for last in range(len(at)):
        while at[last] - at[first] > 1.0:
            first += 1
        most = max(most, last - first + 1)
    return float(most)


def _rate(*, relayed: bool = False) -> float:
    """Return how many lines are read in a second; those behind a stop, which cost nothing, are left out."""
    runs = [recordings.load(name) for name in recordings.names()]
    count = sum(len(run.lines[: run.asked]) for run in runs)
    redactor = Redactor([Secret("k" * 32)])
    log = journal.logger(_Nowhere(), redactor.scrub_value, lambda: "2026-01-02T12:00:00.000Z", console=False)
    with tempfile.TemporaryDirectory() as state:
        record = Record(Path(state))
        began = time.perf_counter()
        for attempt, run in enumerate(runs, 1):
            diagnosis = Diagnosis(redact=redactor.line)
            for line in run.lines[: run.asked]:
                diagnosis.feed(line)
                if relayed:
                    shown = redactor.line(line)
                    log(journal.ENGINE_LINE, line=shown)
                    record.write(attempt, shown)
        took = time.perf_counter() - began
        record.close()
    return count / took


class _Nowhere:
    """Takes lines of the log."""

    def msg(self, line: str) -> None:
        """Forget it."""


def _memory(lines: int) -> int:
    """Return the bytes that are held while failures are printed without end."""
    runs = [recordings.load(name).lines for name in ("e10_disk_full_while_downloading", "c12_weights_stall_forever")]
    diagnosis = Diagnosis()
    diagnosis.feed("Traceback (most recent call last):")
    tracemalloc.start()
    for line in islice(cycle([line for run in runs for line in run]), lines):
        diagnosis.feed(line)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def _ends(name: str, size: int) -> list[float]:
    """Return the milliseconds from an engine's last command to its cause in the health file."""
    taken = []
    reason = recordings.load(name).finding().reason
    with Rig() as rig:
        script = rig.root / "engine.sh"
        log = shlex.quote(str(recordings.DIRECTORY / f"{name}.log"))
        script.write_text(ENGINE.format(log=log, status=ENDS[name]))
        for number in range(size):
            rig.linger()
            renames = Renames(rig.run_dir)
            written = rig.edit(number)
            ended = rig.stamps.wait("last", written, str(number))
            seen = _told(rig.run_dir, renames, number, reason)
            renames.close()
            taken.append(1e3 * (seen - ended))
    return taken


def _told(run_dir: Path, renames: Renames, number: int, reason: str) -> float:
    """Return when the health file gave `reason` for the engine with `number`."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        seen = renames.wait()
        health = json.loads((run_dir / "health.json").read_bytes())
        if health["reason"] == reason and health["target"] and str(number) in health["target"]["arguments"]:
            return seen
    raise TimeoutError(f"{reason} was not told")


if __name__ == "__main__":
    figure.main(measure, SIZE, "ends in each way")
