"""The real vLLM fails: how soon after its end the cause is in the health file.

VLLM_FSM_TEST_VLLM names the command. Its end is when its pidfd becomes readable, which is before anybody reaps it. It
is started behind `env`, so that its version is not known and a flag that it lacks is left to it to find.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time

import figure
from figure import Bound, Figure
from real import ARGUMENTS, ENVIRONMENT, START, command
from rig import Renames, Rig

from support.fake_hub import FakeHub
from support.tiny_model import make

SIZE = 3
LIMIT = Bound("max", 300)


def measure(size: int = SIZE) -> list[Figure]:
    """Let the engine fail `size` times in each way; nothing without a command."""
    vllm = command()
    if vllm is None:
        print("VLLM_FSM_TEST_VLLM is not set: the failures of the real vLLM are left out", file=sys.stderr)
        return []
    with Rig(engine=("env", vllm)) as rig, FakeHub(rig.root / "hub") as hub:
        hub.repo("org/gated", gated=True)
        model = str(make(rig.root / "tiny-model"))
        ways = {
            "BadArguments": (model, *ARGUMENTS, "--no-such-flag"),
            # With this flag nobody but the engine asks the hub.
            "GatedRepo": ("org/gated", *ARGUMENTS, "--code-revision", "main"),
            "ContextTooLong": (model, *ARGUMENTS, "--max-model-len", "4096"),
        }
        taken: dict[str, list[float]] = {reason: [] for reason in ways}
        for number in range(size):
            for reason, arguments in ways.items():
                attempt = number * len(ways) + list(ways).index(reason) + 1
                rig.serve(*arguments, **ENVIRONMENT, HF_ENDPOINT=hub.url)
                taken[reason].append(1e3 * _fails(rig, attempt, reason))
    name = "real vLLM's exit → cause in health.json"
    return [Figure(f"{name}, {reason}", "ms", values, LIMIT) for reason, values in taken.items()]


def _fails(rig: Rig, attempt: int, reason: str) -> float:
    """Return the seconds from the end of engine start number `attempt` to its `reason` in the health file."""
    end = _End(rig.says("engine-started", START, attempt=attempt)["pid"])
    renames = Renames(rig.run_dir)
    limit = time.monotonic() + START
    while (rest := limit - time.monotonic()) > 0.0:
        seen = renames.wait(rest)
        health = rig.health()
        if health["attempt"] == attempt and health["reason"] is not None:
            break
    renames.close()
    assert health["reason"] == reason, f"{health}\n" + "".join(rig.raw[-40:])
    return seen - end.wait()


class _End:
    """Waits beside everything else for the end of a process."""

    def __init__(self, pid: int) -> None:
        self._pidfd = os.pidfd_open(pid)
        self._at = 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        select.select((self._pidfd,), (), ())
        self._at = time.monotonic()

    def wait(self) -> float:
        """Return when it ended."""
        self._thread.join(START)
        os.close(self._pidfd)
        return self._at


if __name__ == "__main__":
    figure.main(measure, SIZE, "ends in each way")
