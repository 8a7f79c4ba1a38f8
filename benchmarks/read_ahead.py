"""Ready with weights that are not in the page cache: read ahead, and not, with the real vLLM, turn by turn.

A model of 2.1 GB on the CPU build, by the disk as it is, and by the disk slowed down to what a hard disk or a small
network volume gives (cgroup v1's `blkio.throttle.read_bps_device`, which needs root; left out where there is none). A
start of the controller, then a change of the arguments. VLLM_FSM_TEST_VLLM names the command; without it nothing is
measured. Not part of `all.py`: it takes 20 minutes.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import figure
from figure import Bound, Figure
from real import command
from rig import ROOT  # noqa: F401 - the tests' support can be imported after it

from support.page_cache import cool, resident
from support.real_vllm import Service
from support.tiny_model import make
from support.wait import wait_for

SIZE = 3
LIMIT = 600.0
SIZE_MB, SHARDS = 2048, 4
DISKS = {"150 MB/s": 150_000_000, "as it is": None}
LEAST_GAIN = {"150 MB/s": 0.5, "as it is": 1.0}
"""What loading may take of the time that it takes without; by a fast disk much of it is copying."""
WAYS = {"not read ahead": False, "read ahead": True}
GROUP = Path("/sys/fs/cgroup/blkio/vllm-fsm-bench")
THROTTLE = "blkio.throttle.read_bps_device"
LOADED = re.compile(r"Loading weights took ([\d.]+) seconds")
BEGUN = "Starting to load model"


def measure(size: int = SIZE) -> list[Figure]:
    """Start and change `size` times in each way, by each disk."""
    if command() is None:
        print("VLLM_FSM_TEST_VLLM is not set: nothing is measured", file=sys.stderr)
        return []
    figures = []
    with group() as slowed:
        for disk, rate in DISKS.items():
            if rate is None or slowed:
                figures += by_disk(disk, rate, size)
            else:
                print(f"{THROTTLE} cannot be used: {disk} is left out", file=sys.stderr)
    return figures


@contextmanager
def group() -> Iterator[bool]:
    """A cgroup whose reads can be slowed down; whether there is one."""
    try:
        GROUP.mkdir(exist_ok=True)
    except OSError:
        yield False
        return
    try:
        yield (GROUP / THROTTLE).exists()
    finally:
        wait_for(lambda: not (GROUP / "cgroup.procs").read_text(), what="an empty cgroup")
        GROUP.rmdir()


def by_disk(disk: str, rate: int | None, size: int) -> list[Figure]:
    """Measure by a disk that gives `rate` bytes per second, None: all that it has."""
    taken: dict[str, list[float]] = {}
    prefix: tuple[str, ...] = ()
    if rate is not None:
        prefix = ("sh", "-c", f'echo $$ > {GROUP}/cgroup.procs && exec "$@"', "sh")
    with Service(prefix=prefix) as service:
        if rate is not None:
            number = os.stat(service.root).st_dev
            (GROUP / THROTTLE).write_text(f"{os.major(number)}:{os.minor(number)} {rate}")
        shutil.rmtree(service.model)
        service.model = str(make(service.root / "model", shards=SHARDS, size_mb=SIZE_MB))
        shards = sorted(Path(service.model).glob("*.safetensors"))
        service.wish(64)
        service.comes_up(0)  # vLLM keeps what it learns of the model's class
        for _ in range(size):
            for way, ahead in WAYS.items():
                assert service.stop(60.0) == 0
                cold(shards)
                service.wish(64)
                service.again(read_ahead=ahead)
                watch(service, 0, shards, taken, f"start, {way}")
                cold(shards)
                service.wish(65)
                watch(service, 1, shards, taken, f"change, {way}")
    return list(rows(disk, taken))


def cold(shards: list[Path]) -> None:
    """Have none of the weights in the page cache."""
    for shard in shards:
        cool(shard)


def watch(service: Service, after: int, shards: list[Path], taken: dict[str, list[float]], what: str) -> None:
    """Note how long a start takes, how long its loading, and how much was cached when that began."""
    began = time.monotonic()
    mark = len(service.lines) if after else 0

    def said(pattern: str) -> re.Match[str] | None:
        lines = (line.get("line", "") for line in service.lines[mark:] if line["event"] == "engine-output")
        return next((found for line in lines if (found := re.search(pattern, line))), None)

    wait_for(lambda: said(BEGUN), LIMIT, BEGUN)
    there = sum(map(resident, shards)) / sum(shard.stat().st_size for shard in shards)
    service.comes_up(after)
    passed = time.monotonic() - began
    loaded = said(LOADED.pattern)
    assert loaded is not None
    for name, value in (("Ready", passed), ("load", float(loaded[1])), ("there", 100 * there)):
        taken.setdefault(f"{what}: {name}", []).append(value)
    ahead: Any = [line for line in service.lines[mark:] if line["event"] == "weights-read-ahead"]
    print(f"{what}: {passed:.1f} s, load {loaded[1]} s, there {there:.0%}, {ahead}", file=sys.stderr, flush=True)


def rows(disk: str, taken: dict[str, list[float]]) -> Iterator[Figure]:
    """The figures of one disk."""
    for begin, meaning in (("start", "start → Ready"), ("change", "change → Ready, the old engine drains first")):
        for way in WAYS:
            yield Figure(f"disk {disk}: {meaning}, {way}", "s", taken[f"{begin}, {way}: Ready"])
            yield Figure("… of it vLLM's loading of weights", "s", taken[f"{begin}, {way}: load"])
            yield Figure("… in the page cache when it began", "%", taken[f"{begin}, {way}: there"])
        ready, load = (
            [statistics.median(taken[f"{begin}, {way}: {what}"]) for way in WAYS] for what in ("Ready", "load")
        )
        yield Figure("… gained", "s", [ready[0] - ready[1]])
        yield Figure(
            "… loading of weights, read ahead ÷ not", "", [load[1] / load[0]], Bound("median", LEAST_GAIN[disk]), 2
        )


if __name__ == "__main__":
    figure.main(measure, SIZE, "starts and changes in each way, by each disk")
