"""The price of watchfiles' step: how fast a change is noticed, against what watching costs while nothing happens.

    python benchmarks/watch.py [--idle SECONDS] [--writes N] [--steps MS,MS,…]

Each row is a process of its own that watches a store and its credentials: milliseconds from the end of a write to the
hint, CPU time of the process while nothing happens, and its memory.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vllm_fsm.adapters.watch import STEP, FileWatch

STEPS = "40,50,60,70,80,100"


def pss() -> int:
    """Proportional set size of this process, KiB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


async def reactions(data: Path, noticed: asyncio.Event, writes: int) -> dict[str, list[float]]:
    """Return the milliseconds from the end of each write to its hint, for each way of writing."""
    draw = random.Random(1)
    times: dict[str, list[float]] = {"rename": [], "in place": []}
    for number in range(writes):
        for way, taken in times.items():
            # At no fixed phase to the steps, and after all hints of the write before.
            await asyncio.sleep(0.2 + 0.1 * draw.random())
            noticed.clear()
            path = data / ("new" if way == "rename" else "store.json")
            path.write_text(json.dumps({"serveArgs": [str(number)]}))
            if way == "rename":
                path.rename(data / "store.json")
            start = time.perf_counter()
            await noticed.wait()
            taken.append(1000 * (time.perf_counter() - start))
    return times


async def measure(step: float, idle: float, writes: int) -> dict[str, object]:
    """Return the figures of one row."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        noticed = asyncio.Event()
        files = (data / "store.json", data / "credentials.json")
        watch = FileWatch(files, noticed.set, lambda *_, **__: None, step=step)
        task = asyncio.create_task(watch.run())
        await noticed.wait()
        times = await reactions(data, noticed, writes)
        await asyncio.sleep(0.5)
        start, spent = time.monotonic(), time.process_time()
        await asyncio.sleep(idle)
        share = (time.process_time() - spent) / (time.monotonic() - start)
        memory = pss()
        await watch.close()
        await task
    return {
        **{way: [statistics.median(taken), sorted(taken)[int(0.95 * len(taken))]] for way, taken in times.items()},
        "idle": 100 * share,
        "memory": memory,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle", type=float, default=20.0, help="seconds for which each row is idle")
    parser.add_argument("--writes", type=int, default=60, help="writes of each kind")
    parser.add_argument("--steps", default=STEPS, help=f"milliseconds; ours is {1000 * STEP:g}")
    parser.add_argument("--row", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(asyncio.run(measure(arguments.row / 1000, arguments.idle, arguments.writes))))
        return
    print("step       rename, ms     in place, ms          idle  PSS, KiB")
    print("  ms    median    p95    median    p95      % of a core")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    for step in arguments.steps.split(","):
        command = [sys.executable, __file__, "--row", step, "--idle", str(arguments.idle)]
        command += ["--writes", str(arguments.writes)]
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout)
        times = "  ".join(f"{row[way][0]:8.1f}  {row[way][1]:5.1f}" for way in ("rename", "in place"))
        print(f"{step:>4}  {times}  {row['idle']:15.3f}  {row['memory']:8}", flush=True)


if __name__ == "__main__":
    main()
