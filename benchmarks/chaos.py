"""Random acts on a real controller, with a rude fake engine and a real one, and a look at everything after each cycle.

python benchmarks/chaos.py [--cycles N] [--real N] [--seed N] [--jobs N] [--out FILE]

The real engine is the vllm that VLLM_FSM_TEST_VLLM names. `--real 0` leaves it out, `--cycles 0` the fake one; then the
page is not written. `tests/support/chaos.py` has the acts and what must hold. Exit code 1 if something did not.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from figure import ROOT, commit, machine, today

sys.path.insert(0, str(ROOT / "tests"))

from support.chaos import ACTS, Chaos, Resources, Unsettled
from support.volume import own_mounts

EARLY = 50
"""The cycle after which a controller has made all that it makes once: every act was done several times."""
GROWTH = 0.02
"""What a controller may hold more of at the end."""
PAGE = """\
# Chaos

Written by `make chaos`: random acts on a real controller, one to three in each cycle, each kind once before any comes
again. They concern files, processes, the port, the clock and the volume
([tests/support/chaos_acts.py](../tests/support/chaos_acts.py)), and downloads, which the real huggingface_hub makes
from a fake hub ([tests/support/hub_acts.py](../tests/support/hub_acts.py)). An act that found nothing to act upon does
not count. After each cycle there must be:

- the state that the files and the hub ask for, with its reason, and with a next try where one can help: where a model
  cannot be had, what was ready before goes on serving;
- one engine or none, no process of an earlier one or of a download that has ended, no zombie;
- the key in the engine as in its file, and none of the cycle's keys and tokens in any line of the log;
- a log in which every transition begins where the last one ended, and times that go by the clock as it is set;
- a model cache in which every file that counts as whole has the hash that the hub lists, and in which nothing is
  missing of a model that serves.

What keeps a model from being had may last for another cycle, so that its acts meet it too.

{machine}.
{date}, {commit}.

## With the rude fake engine

Every second controller runs with `--fallback last-good`. A model has 0.3 MB.

{fake}

## What is held

A controller that was never replaced, beside an engine that is ready; at most {growth:g} % more is allowed.

{held}

PSS counts a page in parts where other processes have it too, so that it follows how many Python processes the machine
has at the moment. Therefore its two sides are judged and not their sum: what the controller allocated, and the pages of
files counted whole.

What comes once is there before the first look. One such thing takes hundreds of engine starts to come by itself: the
interpreter's table of names, such as those of files, is made anew when it is full of names that have gone; it takes a
megabyte then, and stays so. Names that come and go before the controller starts bring that about here.

No thread is kept for what is done beside the event loop, nor what belonged to an engine that has ended, but for the
time of a heartbeat. What may grow has a bound: lines that wait for the log's reader, 4 MiB; secrets that are still
redacted after they were replaced, 100; the patterns of `diagnosis/causes.py`, each compiled when it is first needed,
0.1 MB; of one engine start what `diagnosis/` keeps of its output. The history of transitions and what engines printed
are in files.

## With the real vLLM

vLLM's CPU build with tiny models, `--stop-timeout 1s`. In each cycle so many acts that each kind comes up. Acts that
only the fake engine can take are left out, and those on a volume of its own.

{real}

## Not among the acts

A GPU. Xet, which the fake hub does not speak. The clock that is stepped is the one of the controller's Python: not the
engine's, not the one by which the kernel stamps files, not the one that watchfiles asks.
"""


@dataclass
class Outcome:
    """What came of one controller's cycles."""

    seed: int
    cycles: int = 0
    acts: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    early: Resources | None = None
    late: Resources | None = None
    left: tuple[str, ...] = ()
    """Acts that never came up."""
    failure: str = ""


def run(seed: int, cycles: int, real: bool = False) -> Outcome:
    """Let one controller go through `cycles`; that of an even seed is never replaced, and is measured.

    Every second one has a fallback, replaced or not: the second and third of four seeds.
    """
    own_mounts()
    outcome = Outcome(seed)
    try:
        with real_chaos(seed, cycles) if real else fake_chaos(seed, cycles) as chaos:
            outcome.acts, outcome.times = chaos.acts, chaos.times
            for number in range(1, cycles + 1):
                chaos.turn()
                outcome.cycles, outcome.left = number, chaos.left
                if chaos.lasting and number == EARLY < cycles:
                    outcome.early = chaos.resources()
            if outcome.early:
                outcome.late = chaos.resources()
    except Unsettled as error:
        outcome.failure = str(error)
    except Exception:
        outcome.failure = traceback.format_exc()
    return outcome


def fake_chaos(seed: int, cycles: int) -> Chaos:
    """Make a controller with the rude fake engine on a small volume."""
    return Chaos(seed, mounted=True, lasting=seed % 2 == 0, fallback=seed % 4 in (1, 2), cycles=cycles)


@contextlib.contextmanager
def real_chaos(seed: int, cycles: int) -> Iterator[Chaos]:
    """Make a controller with the real vLLM and a model."""
    from support.real_vllm import ENVIRONMENT, PLAIN, command
    from support.tiny_model import make

    with tempfile.TemporaryDirectory(prefix="vf") as folder:
        model = str(make(Path(folder) / "tiny-model"))
        variables: dict[str, object] = dict(ENVIRONMENT)
        arguments = (model, *PLAIN)
        with Chaos(
            seed, engine=(command(),), settle=240.0, arguments=arguments, variables=variables, cycles=cycles
        ) as chaos:
            yield chaos


def section(outcomes: list[Outcome]) -> str:
    """Say what came out, with a table of the acts."""
    cycles = sum(one.cycles for one in outcomes)
    times = sorted(time for one in outcomes for time in one.times)
    failed = [one for one in outcomes if one.failure]
    acts: Counter[str] = sum((one.acts for one in outcomes), Counter())
    words = [f"{cycles:,} cycles, {acts.total():,} acts. Failed: {len(failed)}."]
    if times:
        words.append(f"As the files ask after {median(times):.2f} s (median), {times[-1]:.1f} s at most.")
    left = [name for name in dict.fromkeys(name for one in outcomes for name in one.left) if not acts[name]]
    if left:
        words.append(f"Never came up: {', '.join(map(spoken, left))}.")
    names = [act.__name__ for act in dict.fromkeys(ACTS) if acts[act.__name__]]
    rows = [f"| {spoken(name)} | {acts[name]} |" for name in names]
    return "\n".join([*words, "", "| act | times |", "|---|---:|", *rows])


def spoken(name: str) -> str:
    """Return the name of an act for people."""
    return name.replace("_", " ")


def held(one: Outcome) -> list[tuple[str, float, float, int, bool]]:
    """Return what a controller held early and late: name, both numbers, their digits, whether it is judged."""
    early, late = one.early, one.late
    if early is None or late is None:
        return []
    return [
        ("file descriptors", early.descriptors, late.descriptors, 0, True),
        ("threads", early.threads, late.threads, 0, True),
        ("memory of its own, MB", early.own / 1e6, late.own / 1e6, 2, True),
        ("pages of files, MB", early.files / 1e6, late.files / 1e6, 2, True),
        ("PSS, MB", early.pss / 1e6, late.pss / 1e6, 2, False),
    ]


def held_table(outcomes: list[Outcome]) -> str:
    """Show it, with the verdicts."""
    tables = []
    for one in outcomes:
        if not held(one):
            continue
        tables += ["", f"| seed {one.seed} | after {EARLY} cycles | after {one.cycles:,} | more | |"]
        tables += ["|---|---:|---:|---:|---|"]
        for name, early, late, digits, judged in held(one):
            verdict = ("**missed**" if grown(early, late) else "met") if judged else ""
            numbers = f"{early:.{digits}f} | {late:.{digits}f} | {100 * (late / early - 1):.1f} %"
            tables.append(f"| {name} | {numbers} | {verdict} |")
    return "\n".join(tables[1:])


def grown(early: float, late: float) -> bool:
    """Whether it is more than is allowed."""
    return late > early * (1 + GROWTH)


def main() -> int:
    """Run the cycles and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cycles", type=int, default=1000, help="with the fake engine, in all (default: 1000)")
    parser.add_argument("--real", type=int, default=10, help="with the real vLLM (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the first controller (default: 0)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="controllers with a fake engine at a time"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "chaos.md", help="page (default: docs/chaos.md)")
    arguments = parser.parse_args()
    if arguments.real and not os.environ.get("VLLM_FSM_TEST_VLLM"):
        parser.error("VLLM_FSM_TEST_VLLM names no vllm: set it, or leave the real one out by --real 0")
    named = {"machine": machine(), "date": today(), "commit": commit()}
    fake: list[Outcome] = []
    real: list[Outcome] = []
    if arguments.cycles:
        share = -(-arguments.cycles // arguments.jobs)
        with multiprocessing.Pool(arguments.jobs, maxtasksperchild=1) as pool:
            fake = pool.starmap(run, [(arguments.seed + job, share) for job in range(arguments.jobs)], chunksize=1)
        print(f"{section(fake)}\n\n{held_table(fake)}", flush=True)
    if arguments.real:
        with multiprocessing.Pool(1) as pool:
            real = [pool.apply(run, (arguments.seed, arguments.real, True))]
        print(f"\nWith the real vLLM:\n{section(real)}", flush=True)
    if fake and real:
        told = {"fake": section(fake), "real": section(real), "held": held_table(fake), "growth": 100 * GROWTH}
        arguments.out.write_text(PAGE.format(**named, **told))
    for one in (*fake, *real):
        if one.failure:
            print(f"seed {one.seed} failed in cycle {one.cycles + 1}:\n{one.failure}", file=sys.stderr)
    more = [row for one in fake for row in held(one) if row[4] and grown(row[1], row[2])]
    return 1 if more or any(one.failure for one in (*fake, *real)) else 0


if __name__ == "__main__":
    sys.exit(main())
