"""Random acts on a real controller with a rude fake engine, and a look at everything after each cycle of them.

python benchmarks/chaos.py [--cycles N] [--seed N] [--jobs N] [--out FILE]
python benchmarks/chaos.py --real N       so many cycles with the vllm that VLLM_FSM_TEST_VLLM names

`tests/support/chaos.py` has the acts and what must hold. Exit code 1 if something did not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from figure import ROOT, commit, machine, today

sys.path.insert(0, str(ROOT / "tests"))

from support.chaos import ACTS, Chaos, Resources, Unsettled
from support.volume import own_mounts

EARLY = 50
"""The cycle after which a controller has made all that it makes once."""
PAGE = """\
# Chaos

Written by `make chaos`: random acts on a real controller with the rude fake engine, one to three in each cycle, as
[tests/support/chaos.py](../tests/support/chaos.py) has them. After each cycle: the state that the files ask for, one
engine or none, no process of an earlier one, no zombie, the key in the engine as in its file, none of the cycle's keys
in any line of the log, and a log in which every transition begins where the last one ended. Every second controller
runs with `--fallback last-good`.

{machine}.
{date}, {commit}.

{summary}

| act | times |
|---|---:|
{acts}

Not among the acts: steps of the wall clock, which would be felt by the whole machine (the simulation and
`tests/unit` have them), and a GPU.
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
    failure: str = ""


def run(seed: int, cycles: int, real: bool = False) -> Outcome:
    """Let one controller go through `cycles`; that of an even seed is never replaced, and is measured.

    Every second one has a fallback, replaced or not: the second and third of four seeds.
    """
    own_mounts()
    outcome = Outcome(seed)
    try:
        with chaos_of(seed, real) as chaos:
            outcome.acts, outcome.times = chaos.acts, chaos.times
            for number in range(1, cycles + 1):
                chaos.turn()
                outcome.cycles = number
                if chaos.lasting and number in (EARLY, cycles):
                    outcome.early, outcome.late = outcome.early or chaos.resources(), chaos.resources()
    except Unsettled as error:
        outcome.failure = str(error)
    except Exception:
        outcome.failure = traceback.format_exc()
    return outcome


def chaos_of(seed: int, real: bool) -> Chaos:
    """Make the controller and its surroundings."""
    if not real:
        return Chaos(seed, mounted=True, lasting=seed % 2 == 0, fallback=seed % 4 in (1, 2))
    from support.real_vllm import ENVIRONMENT, PLAIN, command
    from support.tiny_model import make

    model = str(make(Path("/tmp") / f"chaos-{os.getpid()}" / "tiny-model"))
    return Chaos(seed, engine=(command(),), settle=240.0, arguments=(model, *PLAIN), variables=dict(ENVIRONMENT))


def summary(outcomes: list[Outcome]) -> str:
    """Say in a paragraph what came out."""
    cycles = sum(one.cycles for one in outcomes)
    times = sorted(time for one in outcomes for time in one.times)
    failed = [one for one in outcomes if one.failure]
    words = [f"{cycles:,} cycles, {sum(sum(one.acts.values()) for one in outcomes):,} acts. Failed: {len(failed)}."]
    if times:
        words.append(f"As the files ask after {median(times):.2f} s (median), {times[-1]:.1f} s at most.")
    words += [held(one, one.early, one.late) for one in outcomes if one.early and one.late]
    return "\n".join(words)


def held(one: Outcome, early: Resources, late: Resources) -> str:
    """Say what a controller held early and late."""
    return (
        f"The controller of seed {one.seed}, after {EARLY} cycles and after {one.cycles}: "
        f"{early.descriptors} and {late.descriptors} file descriptors, {early.threads} and {late.threads} threads, "
        f"{early.pss / 1e6:.1f} and {late.pss / 1e6:.1f} MB PSS."
    )


def main() -> int:
    """Run the cycles and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cycles", type=int, default=1000, help="in all (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first controller (default: 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="controllers at a time")
    parser.add_argument("--real", type=int, metavar="N", help="so many cycles with the real vLLM instead")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "chaos.md", help="page (default: docs/chaos.md)")
    arguments = parser.parse_args()
    if arguments.real:
        with multiprocessing.Pool(1) as pool:
            outcomes = [pool.apply(run, (arguments.seed, arguments.real, True))]
    else:
        share = -(-arguments.cycles // arguments.jobs)
        with multiprocessing.Pool(arguments.jobs, maxtasksperchild=1) as pool:
            outcomes = pool.starmap(run, [(arguments.seed + job, share) for job in range(arguments.jobs)], chunksize=1)
    told = summary(outcomes)
    print(told)
    for one in outcomes:
        if one.failure:
            print(f"seed {one.seed} failed in cycle {one.cycles + 1}:\n{one.failure}", file=sys.stderr)
    if not arguments.real:
        acts: Counter[str] = sum((one.acts for one in outcomes), Counter())
        rows = "\n".join(f"| {act.__name__.replace('_', ' ')} | {acts[act.__name__]} |" for act in dict.fromkeys(ACTS))
        page = PAGE.format(machine=machine(), date=today(), commit=commit(), summary=told, acts=rows)
        arguments.out.write_text(page)
    return 1 if any(one.failure for one in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
