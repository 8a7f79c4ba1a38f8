"""Deliberate defects in `core/`, one line each: which tier of tests finds them.

python benchmarks/mutations.py [--all] [--only WORD] [--out FILE]

Each defect is made in a copy of the sources; the tiers are asked in order, and the first test that fails is the finder.
With `--all` every tier is asked about every defect, so that one sees what each is worth alone. Only tests of behaviour
are asked: neither the comparison of `states.md` nor the coverage is. Exit code 1 if a defect is not found. A defect
whose line is gone, or is there twice, is an error that names it.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from figure import ROOT, commit, machine, today

CORE = Path("src/vllm_fsm/core")
LIMIT = 900.0
"""Seconds that a tier may take; one that a defect keeps from ending has found it."""
TIERS: dict[str, tuple[str, ...]] = {
    "unit": (
        "tests/unit/test_step.py",
        "tests/unit/test_policy.py",
        "tests/unit/test_table.py",
        "tests/unit/test_loading.py",
        "tests/unit/test_next_start.py",
    ),
    "simulation": ("tests/simulation/test_seeds.py", "tests/simulation/test_stateful.py"),
    "exhaustive": ("tests/simulation/test_exhaustive.py",),
}
PAGE = """\
# Defects that the tests must find

Written by `make mutations`: one line of `core/` is made wrong, and the tiers are asked whether they notice.

{machine}.
{date}, {commit}.

{summary}

{table}
"""


@dataclass(frozen=True)
class Defect:
    """One line made wrong: in `file`, within the function `within` (or anywhere), `old` becomes `new`."""

    file: str
    within: str
    old: str
    new: str | None
    """None: the whole line goes."""
    breaks: str


def row(old: str, new: str | None, breaks: str) -> Defect:
    """Make a defect of the table."""
    return Defect("table.py", "", old, new, breaks)


DEFECTS: list[Defect] = [
    row(
        "row(FAILED, ev.EngineStepped, if_.unresponsive, READY,",
        "row(FAILED, ev.EngineStepped, if_.unresponsive, FAILED,",
        "an engine that answers again stays Failed",
    ),
    row("row(READY, ev.WantedChanged, if_.rekeyed, LOADING,", None, "an engine serves on with the old key"),
    row("row(ALIVE, ev.EngineStarted, if_.executed, ALIVE,", None, "a repeated notice of the start counts anew"),
    row("row(LOADING, ev.EngineExited, if_.asked, LOADING,", None, "an end that we asked for counts as a crash"),
    row("row(FAILED, ev.StopRequested, if_.stopping, FAILED,", None, "asked twice to end, it waits on"),
    row(
        "row(LOADING, ev.WeightsComplete, None, LOADING, do.adopt",
        "row(LOADING, ev.WeightsComplete, None, LOADING, do.hurry",
        "found weights are not taken over",
    ),
    row(
        "row(DOWNLOADING, ev.RestartDue, None, DOWNLOADING, do.start",
        "row(DOWNLOADING, ev.RestartDue, None, DOWNLOADING, None",
        "the earlier engine is not tried again beside a download",
    ),
    row(
        "row(LOADING, ev.NextDue, if_.next_not_fetched, LOADING, do.fetch_again",
        "row(LOADING, ev.NextDue, if_.next_not_fetched, LOADING, None",
        "the next model is forgotten while the earlier one restarts",
    ),
    row(
        "row(FAILED, ev.RestartDue, if_.has_active, LOADING, do.start",
        "row(FAILED, ev.RestartDue, if_.has_active, LOADING, None",
        "the slow retry starts nothing",
    ),
    row(
        "row(TERMINATING, ev.GraceExpired, None, TERMINATING, do.kill_session",
        "row(TERMINATING, ev.GraceExpired, None, TERMINATING, do.nudge",
        "a deaf engine is asked again instead of killed",
    ),
    row(
        "row(TERMINATING, ev.EngineVacated, None, ABSENT,",
        "row(TERMINATING, ev.EngineVacated, None, TERMINATING,",
        "an engine's place never becomes free",
    ),
    row(
        "row(RUNNING, Command.CANCEL, None, IDLE, do.end_fetch",
        "row(RUNNING, Command.CANCEL, None, IDLE, None",
        "a cancelled download runs on",
    ),
    row(
        "row(FAILED, ev.ProbePassed, None, READY,",
        "row(FAILED, ev.ProbePassed, None, LOADING,",
        "a late engine is ready and called Loading",
    ),
    row(
        "row(DOWNLOADING, ev.PulseTaken, if_.hung, DOWNLOADING,",
        None,
        "the earlier engine may hang beside a download",
    ),
    row("row(LOADING, ev.PulseTaken, if_.hung_again, LOADING,", None, "a start that hangs gets no second try"),
    row("row(LOADING, ev.PulseTaken, if_.hung, FAILED,", None, "a start that hangs again is left to hang"),
    row("row(FAILED, ev.PulseTaken, if_.hung_again, LOADING,", None, "a late start that hangs gets no second try"),
    row("row(FAILED, ev.PulseTaken, if_.hung, FAILED,", None, "a late start that hangs again is left to hang"),
    Defect("guards.py", "reverted", " and not turn.snapshot.failed", "", "a given-up engine counts as what runs"),
    Defect(
        "policy.py", "may_start", " and snapshot.due(RestartDue) is None", "", "a delay before a restart is skipped"
    ),
    Defect(
        "guards.py",
        "dead_and_explained",
        "turn.event.finding.reason != ",
        "turn.event.finding.reason == ",
        "why a dead engine died is told only where nobody knows",
    ),
    Defect(
        "loading.py",
        "loading",
        " and policy.may_start(snapshot)",
        "",
        "weights are read ahead for an engine that is not started again",
    ),
    Defect("next_start.py", "calm", " and not snapshot.pending", "", "a next start is prepared that nobody wants"),
    Defect("next_start.py", "soon", " and policy.may_start(snapshot)", "", "what is not started is started in haste"),
    Defect(
        "guards.py",
        "comes_again",
        "waits_for_restart(turn) or ",
        "",
        "a model that rests is dropped when the next one cannot be had",
    ),
    Defect("reactions.py", "check", "turn.arm(events.LookOverdue", None, "a disk that does not answer is not named"),
    Defect("reactions.py", "_slow_retry", ", asked)", ", 0.0)", "a hub is asked sooner than it wants"),
    Defect("guards.py", "first_strike", " + 1 <", " + 1 <=", "one more unanswered request is needed"),
    Defect("guards.py", "leader_gone", "is None", "is not None", "the second request to end waits for what is gone"),
    Defect("guards.py", "swap_at_once", "not turn", "turn", "the setting of swaps is inverted"),
    Defect(
        "guards.py",
        "port_still_ours",
        "is not Engine.ABSENT",
        "is Engine.ABSENT",
        "the port is looked at while our engine may hold it",
    ),
    Defect(
        "guards.py",
        "active_goes_on",
        " and not turn.snapshot.failed",
        "",
        "a failed earlier engine counts as one that goes on",
    ),
    Defect(
        "machine.py",
        "late",
        "event.epoch != snapshot.epoch",
        "event.epoch > snapshot.epoch",
        "what an earlier engine says counts for the present one",
    ),
    Defect(
        "machine.py",
        "late",
        "return snapshot.engine is not Engine.ALIVE",
        "return False",
        "a probe of an engine that is being stopped counts",
    ),
    Defect(
        "machine.py",
        "late",
        "event.fetch != snapshot.fetch or ",
        "",
        "what an earlier fetch says counts for the present one",
    ),
    Defect("machine.py", "late", "!= event.due", "is None", "a timer that was set anew fires at its old time"),
    Defect(
        "machine.py", "_over", " and snapshot.engine is Engine.ABSENT", "", "the controller leaves its engine behind"
    ),
    Defect(
        "machine.py",
        "_effects",
        "if entry not in before.timers",
        "if entry[0] not in dict(before.timers)",
        "a timer that is set anew keeps its old time",
    ),
    Defect(
        "policy.py",
        "after_failure",
        "count >= settings.restart_intensity",
        "count > settings.restart_intensity",
        "one crash too many before it rests",
    ),
    Defect("policy.py", "after_failure", "and not steady(", "and steady(", "after a rest it crashes on at full speed"),
    Defect("policy.py", "after_failure", " and snapshot.offline", "", "a missing file is looked for at once for ever"),
    Defect("policy.py", "silence_limit", "PATIENCE.get(phase.phase, 1.0)", "1.0", "a compiler is called hung"),
    Defect("policy.py", "falls_back", "snapshot.settings.fallback and ", "", "it falls back without the setting"),
    Defect(
        "policy.py",
        "falls_back",
        " and not good.target.same_but_key(target)",
        "",
        "it falls back to what has just failed",
    ),
    Defect(
        "policy.py",
        "falls_back",
        "not good.target.same_but_key(target)",
        "good.target != target",
        "it falls back to what has just failed with another key",
    ),
    Defect("policy.py", "download_delay", "max(spread", "min(spread", "the hub's request to wait is ignored"),
    Defect(
        "reactions.py", "launch", "turn.snapshot.epoch + 1", "turn.snapshot.epoch", "two starts have the same number"
    ),
    Defect("reactions.py", "doubt", "turn.arm(", None, "a hanging engine is left for ever"),
    Defect("reactions.py", "_leave", "proven=False, ", "", "Ready while the engine is being stopped"),
    Defect("reactions.py", "vacate", "confirm(turn)", None, "nobody looks whether the engine is gone"),
    Defect("reactions.py", "attend", "turn.arm(events.DeadlinePassed", None, "a start may take for ever"),
    Defect("reactions.py", "note_pulse", "turn.arm(", None, "a start is looked at once only, moving or not"),
    Defect(
        "reactions.py",
        "launch",
        "policy.memory_needed(turn.snapshot)",
        "None",
        "the GPU memory that a start lacked is not waited for",
    ),
    Defect("reactions.py", "prove", "turn.set(last_good=", None, "what was ready last is not remembered"),
    Defect("reactions.py", "clear", ", last_good=None", "", "what was ready last outlives a cleared selection"),
    Defect(
        "reactions.py",
        "_fall_back",
        "replace(good.target, key=target.key)",
        "good.target",
        "the fallback is started with the key of its time",
    ),
    Defect(
        "reactions.py",
        "follow",
        "elif not turn.snapshot.pending",
        "elif turn.snapshot is None",
        "what runs is looked for when only its key is new",
    ),
    Defect("reactions.py", "adopt", "Command.STOP, Command.START", "Command.START", "the swap leaves the old engine"),
    Defect(
        "reactions.py",
        "note_download_problem",
        "turn.arm(",
        "turn.cancel(events.NextDue) if finding else turn.arm(",
        "the next model is looked for only once",
    ),
    Defect(
        "reactions.py",
        "download",
        "turn.snapshot.fetch + 1",
        "turn.snapshot.fetch",
        "two attempts have the same number",
    ),
    Defect("reactions.py", "repeat", "turn.arm(", None, "what failed in itself is not done again"),
]


def mutated(defect: Defect, source: str) -> str:
    """Return the source with the defect. Raises LookupError where its line is not there exactly once."""
    lines = source.splitlines(keepends=True)
    first, last = 0, len(lines)
    if defect.within:
        found = [
            node
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.FunctionDef) and node.name == defect.within
        ]
        if len(found) != 1:
            raise LookupError(f"{defect.file} has {len(found)} functions {defect.within!r}: {defect}")
        first, last = found[0].lineno - 1, found[0].end_lineno or len(lines)
    hits = [number for number in range(first, last) if defect.old in lines[number]]
    if len(hits) != 1:
        raise LookupError(f"{len(hits)} lines of {defect.file} have {defect.old!r}, one is to: {defect}")
    line = lines[hits[0]]
    indent = line[: len(line) - len(line.lstrip())]
    lines[hits[0]] = line.replace(defect.old, defect.new, 1) if defect.new is not None else f"{indent}{gone(defect)}\n"
    made = "".join(lines)
    compile(made, defect.file, "exec")
    return made


def gone(defect: Defect) -> str:
    """What stands in a line that is taken out."""
    return "pass" if defect.within else ""


def ask(place: Path, tier: str) -> str | None:
    """Return the first test of `tier` that fails in the copy at `place`, None when all pass."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "--hypothesis-seed=0",
        *TIERS[tier],
    ]
    environment = {**os.environ, "PYTHONPATH": str(place / "src")}
    try:
        done = subprocess.run(
            command,
            cwd=place,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return "does not end"
    if done.returncode == 0:
        return None
    named = re.search(r"^(?:FAILED|ERROR) \S*?([\w.]+\.py)(?:::(\S+))?", done.stdout, re.MULTILINE)
    if done.returncode != 1 or named is None:
        raise RuntimeError(f"the tests could not be run:\n{done.stdout[-2000:]}")
    return named[2] or named[1]


def copy(origin: Path, place: Path) -> None:
    """Copy what the tiers need, with what is compiled of it."""
    ignored = shutil.ignore_patterns(".hypothesis", "data")
    for name in ("src", "tests/support", "tests/unit", "tests/simulation"):
        shutil.copytree(origin / name, place / name, ignore=ignored if name == "tests/unit" else None, symlinks=True)
    shutil.copy(origin / "pyproject.toml", place)


def hunt(origin: Path, defect: Defect, every: bool) -> dict[str, str | None]:
    """Ask the tiers about one defect; return what each found, until one did or of all."""
    found: dict[str, str | None] = {}
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        place = Path(folder)
        copy(origin, place)
        path = place / CORE / defect.file
        path.write_text(mutated(defect, path.read_text()))
        for tier in TIERS:
            found[tier] = ask(place, tier)
            if found[tier] and not every:
                break
    return found


def shown(defect: Defect, found: dict[str, str | None]) -> str:
    """Return one row of the page."""
    where = f"`{defect.file}`" + (f" `{defect.within}`" if defect.within else "")
    change = f"`{defect.old.strip()}` → " + (f"`{defect.new.strip() or ' '}`" if defect.new is not None else "gone")
    cells = [f"`{found[tier]}`" if found.get(tier) else "not found" if tier in found else "" for tier in TIERS]
    return f"| {defect.breaks} | {where} | {change.replace('|', '')} | {' | '.join(cells)} |"


def main() -> None:
    """Make the defects, ask, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="ask every tier about every defect")
    parser.add_argument("--only", default="", metavar="WORD", help="only defects that are described with it")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "mutations.md", help="page")
    options = parser.parse_args()
    defects = [defect for defect in DEFECTS if options.only in defect.breaks]
    for defect in defects:
        mutated(defect, (ROOT / CORE / defect.file).read_text())
    where, named, cores, began = machine(), commit(), len(os.sched_getaffinity(0)), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder, ThreadPoolExecutor(cores) as pool:
        origin = Path(folder)
        copy(ROOT, origin)  # what is edited meanwhile does not matter
        sound = {tier: ask(origin, tier) for tier in TIERS}
        if any(sound.values()):
            sys.exit(f"without a defect the tests fail already: {sound}")
        results = [*pool.map(lambda defect: told(origin, defect, options.all), defects)]
    caught = sum(any(found.values()) for found in results)
    by_tier = ", ".join(f"{tier} {sum(bool(found.get(tier)) for found in results)}" for tier in TIERS)
    lasted = time.monotonic() - began
    summary = f"{caught} of {len(defects)} defects are found, in {lasted:.0f} s on {cores} cores: {by_tier}."
    summary += (
        " Each tier was asked about each defect."
        if options.all
        else " A tier is asked only about what the ones before it did not find."
    )
    table = "\n".join(
        [
            f"| what it breaks | where | the line | {' | '.join(TIERS)} |",
            f"|{'---|' * (3 + len(TIERS))}",
            *(shown(defect, found) for defect, found in zip(defects, results, strict=True)),
        ]
    )
    page = PAGE.format(machine=where, date=today(), commit=named, summary=summary, table=table)
    print(page)
    if not options.only:
        options.out.write_text(page)
    sys.exit(caught != len(defects))


def told(origin: Path, defect: Defect, every: bool) -> dict[str, str | None]:
    """Hunt one defect and say what came of it."""
    found = hunt(origin, defect, every)
    finder: Sequence[str] = [f"{tier}: {test}" for tier, test in found.items() if test]
    print(f"{defect.breaks}: {'; '.join(finder) or 'NOT FOUND'}", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
