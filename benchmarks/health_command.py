"""`vllm-fsm health` against a running controller: the time of the whole process, and its memory at most (RSS).

The processes are counted by `spawner.py`, which is small itself: the kernel counts the memory of whoever starts a
process as memory of that process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import figure
from figure import Bound, Figure
from rig import Rig

SIZE = 20
SPAWNER = Path(__file__).with_name("spawner.py")


def measure(size: int = SIZE) -> list[Figure]:
    """Ask `size` times."""
    with Rig() as rig:
        rig.edit(0)
        rig.proven(0)
        command = [*_installed(), "health", "--run-dir", str(rig.run_dir)]
        spawned = [sys.executable, "-I", "-S", str(SPAWNER), str(size), *command]
        runs = json.loads(subprocess.run(spawned, check=True, stdout=subprocess.PIPE).stdout)
    return [
        Figure("vllm-fsm health: time", "ms", [1e3 * run["wall"] for run in runs], Bound("median", 60)),
        Figure("vllm-fsm health: memory", "MB", [run["rss"] / 1e6 for run in runs], Bound("max", 20)),
    ]


def _installed() -> list[str]:
    command = Path(sys.executable).with_name("vllm-fsm")
    return [str(command)] if command.exists() else [sys.executable, "-m", "vllm_fsm"]


if __name__ == "__main__":
    figure.main(measure, SIZE, "commands")
