"""How fast weights are fetched, against `hf download` of the same files from the same hub, turn by turn.

Both are whole processes, from their start to the last file in place; ours checks every byte's hash on the way, `hf` the
sizes. Plain HTTP, an unlimited hub on this machine: hub and client share its cores.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import figure
from figure import Bound, Figure
from rig import ROOT

from support.fake_hub import FakeHub
from vllm_fsm.adapters.download.downloader import PROGRAM

SIZE = 5
SHARDS, BYTES = 8, 125_000_000
"""A model of 1 GB. Sizes differ by a byte, since equal files are one blob."""


def measure(size: int = SIZE) -> list[Figure]:
    """Fetch the model `size` times in each way, into an empty cache each time."""
    root = Path(tempfile.mkdtemp(prefix="bench"))
    try:
        with FakeHub(root / "hub") as hub:
            folder = hub.repo("org/model", sparse={f"model-{n:05}.safetensors": BYTES + n for n in range(SHARDS)})
            total = SHARDS * BYTES + sum(file.stat().st_size for file in folder.iterdir())
            given = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
            ours, theirs = [], []
            for _ in range(size):
                theirs.append(_timed(root, given, _hf))
                ours.append(_timed(root, given, _fetcher))
    finally:
        shutil.rmtree(root)
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    return [
        Figure("throughput, of that of hf download", "", ratios, Bound("median", 0.95, least=True), 2),
        Figure("… ours", "MB/s", [total / 1e6 / seconds for seconds in ours]),
        Figure("… hf download", "MB/s", [total / 1e6 / seconds for seconds in theirs]),
    ]


def _timed(root: Path, given: dict[str, str], fetch: object) -> float:
    """Return the seconds that one way takes into an empty cache."""
    models = root / "models"
    began = time.monotonic()
    fetch(models, given)  # type: ignore[operator]
    lasted = time.monotonic() - began
    assert len(list(models.glob("models--org--model/snapshots/*/*.safetensors"))) == SHARDS + 1
    shutil.rmtree(models)
    return lasted


def _hf(models: Path, given: dict[str, str]) -> None:
    command = [str(Path(sys.executable).with_name("hf")), "download", "org/model", "--cache-dir", str(models)]
    subprocess.run(command, env=given, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)


def _fetcher(models: Path, given: dict[str, str]) -> None:
    repo = {"id": "org/model", "revision": "main", "role": "model", "load_format": "auto"}
    place = {"parent": os.getpid(), "models": str(models), "repos": [repo], "kept": []}
    order = {**place, "mark": "", "silence": 60.0, "spare": 0, "xet": False}
    command = [sys.executable, "-P", PROGRAM]
    done = subprocess.run(command, env=given, check=True, input=json.dumps(order), stdout=subprocess.PIPE, text=True)
    assert '"complete"' in done.stdout.splitlines()[-1], done.stdout


if __name__ == "__main__":
    figure.main(measure, SIZE, "fetches in each way")
