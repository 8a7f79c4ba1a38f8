"""The real vLLM with a tiny model: what it adds to Ready, and what watching it costs while nobody asks it anything.

VLLM_FSM_TEST_VLLM names the command. Listening is the line "Application startup complete." in the relayed output, which
comes right before; the relay is counted as the engine's time.
"""

from __future__ import annotations

import os
import sys
import time

import figure
import idle
import readiness
from figure import Figure
from rig import Renames, Rig

from support.tiny_model import make
from support.wait import wait_for

SIZE = 60
START = 300.0
"""Seconds that a start may take on a busy machine; 25 on two idle cores."""
LISTENING = "Application startup complete."
ARGUMENTS = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "256", "--served-model-name", "tiny")
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def command() -> str | None:
    """Return the vllm command that is to be run, if any."""
    return os.environ.get("VLLM_FSM_TEST_VLLM")


def measure(size: int = SIZE) -> list[Figure]:
    """Start one engine, then look at it for `size` seconds; nothing without a command."""
    vllm = command()
    if vllm is None:
        print("VLLM_FSM_TEST_VLLM is not set: the real vLLM is left out", file=sys.stderr)
        return []
    with Rig(engine=(vllm,)) as rig:
        model = make(rig.root / "tiny-model")
        renames = Renames(rig.run_dir)
        rig.serve(str(model), *ARGUMENTS, **ENVIRONMENT)
        seen = _success(rig, renames)
        renames.close()
        passed = rig.says("probe-passed")
        whole = 1e3 * (seen - wait_for(lambda: _listened(rig), what=LISTENING))
        rows = readiness.rows("real vLLM", [whole], [sum(passed["answers"].values())])
        return [*rows, *idle.watch(rig, size, "real vLLM")]


def _success(rig: Rig, renames: Renames) -> float:
    end = time.monotonic() + START
    while (rest := end - time.monotonic()) > 0.0:
        seen = renames.wait(rest)
        health = rig.health()
        if health["state"] == "Ready":
            return seen
        if health["state"] == "Failed":
            break
    raise AssertionError(f"not Ready: {rig.health()}\n" + "".join(rig.raw[-40:]))


def _listened(rig: Rig) -> float | None:
    """Return when the line was read here."""
    for line, at in zip(tuple(rig.lines), tuple(rig.times), strict=False):
        if line["event"] == "engine-output" and LISTENING in line["line"]:
            return at
    return None


if __name__ == "__main__":
    figure.main(measure, SIZE, "seconds of idling")
