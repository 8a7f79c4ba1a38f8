"""A long download: memory of controller and child, and what health.json says against what lies on the disk.

The model is 50 GB in 500 files; some minutes of its download are looked at, not all of it. For the progress it is 1 GB
in 8 files, of which 1 % is as much as the 10 MiB that are allowed.
"""

from __future__ import annotations

import time
from pathlib import Path

import figure
from figure import Bound, Figure
from idle import memory
from rig import LIMIT, Rig

from support.fake_hub import FakeHub
from support.wait import wait_for
from vllm_fsm.adapters import procfs

SIZE = 120
FILES, BYTES = 500, 100_000_000
RATE = 6_000_000
"""Bytes per second of each of the eight connections."""
MIB = 1 << 20


def measure(size: int = SIZE) -> list[Figure]:
    """Look at the large download for `size` seconds, and at the small one to its end."""
    with Rig() as rig, FakeHub(rig.root / "hub") as hub:
        hub.bandwidth(RATE)
        hub.repo("org/large", sparse={f"model-{n:05}.safetensors": BYTES + n for n in range(FILES)})
        hub.repo("org/small", sparse={f"model-{n:05}.safetensors": 125_000_000 + n for n in range(8)})
        return [*_memory(rig, hub, size), *_progress(rig, hub)]


def _memory(rig: Rig, hub: FakeHub, seconds: int) -> list[Figure]:
    rig.serve("org/large", HF_ENDPOINT=hub.url)
    rig.until("Downloading", LIMIT, also=lambda health: bool((health["download"] or {}).get("total")))
    assert rig.process is not None
    controller, child = rig.process.pid, _child(rig)
    samples: list[tuple[float, float]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(1.0)
        samples.append((memory(controller, "Pss"), memory(child, "Pss")))
    half = len(samples) // 2
    sums = [sum(sample) for sample in samples]
    grown = max(sums[half:]) - max(sums[:half])
    return [
        Figure("50 GB in 500 files: controller, PSS", "MB", [ours for ours, _ in samples], Bound("max", 45)),
        Figure("… download child, PSS", "MB", [theirs for _, theirs in samples], Bound("max", 90)),
        Figure("… both, second half of the time against the first", "MB", [grown], Bound("max", 2)),
    ]


def _progress(rig: Rig, hub: FakeHub) -> list[Figure]:
    rig.serve("org/small", HF_ENDPOINT=hub.url)
    blobs = rig.data / "models/models--org--small/blobs"
    apart: list[float] = []

    def told() -> bool:
        health = rig.health()
        download = health.get("download") or {}
        if download.get("repo") == "org/small" and download.get("total"):
            apart.append(abs(download["done"] - _lies(blobs)) / MIB)
        return health["state"] == "Ready"

    wait_for(told, 120.0, "the small model")
    return [Figure("1 GB: progress shown, off what is on the disk", "MiB", apart, Bound("max", 10))]


def _lies(blobs: Path) -> int:
    total = 0
    for blob in blobs.iterdir():
        try:
            total += blob.stat().st_size
        except FileNotFoundError:
            total += blob.with_suffix("").stat().st_size  # it became complete this moment
    return total


def _child(rig: Rig) -> int:
    assert rig.process is not None
    family = [process.pid for process in procfs.processes() if process.parent == rig.process.pid]
    (child,) = [pid for pid in family if b"fetcher.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return child


if __name__ == "__main__":
    figure.main(measure, SIZE, "seconds of the large download")
