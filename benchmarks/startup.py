"""`vllm-fsm run` with its files in place: from the start of the process until the engine is executed.

Where it runs as root in a container, ldconfig goes first; its time is no time of ours. It is left out by telling the
controller that this is no container, and shown on top in a row of its own where it would run.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time

import figure
from figure import Bound, Figure
from rig import Rig

from support.wait import wait_for
from vllm_fsm.adapters.process import ldconfig

SIZE = 10
COMMAND = "import sys; from vllm_fsm.cli import main; sys.exit(main())"
"""What the installed command does."""
NO_CONTAINER = """
import gc
gc.disable()
from vllm_fsm.cli import run
from vllm_fsm.adapters.process import ldconfig
ldconfig.in_container = lambda *_: False
"""
"""Goes first, and imports what the command would import, with the collector off as the command has it."""


def measure(size: int = SIZE) -> list[Figure]:
    """Start `size` controllers in each way."""
    figures = [Figure("run → engine executed, no ldconfig", "ms", starts(size, NO_CONTAINER), Bound("median", 400))]
    if os.geteuid() == 0 and ldconfig.in_container(os.environ):
        figures.append(Figure("… with ldconfig", "ms", starts(size, "")))
    return figures


def starts(size: int, before: str) -> list[float]:
    """Return the milliseconds of each start; an uncounted first one makes the key and compiles what is not."""
    with Rig() as rig:
        rig.edit(0)
        rig.proven(0)
        rig.stop()
        return [_start(rig, before) for _ in range(size)]


def _start(rig: Rig, before: str) -> float:
    command = [sys.executable, "-c", before + COMMAND, "run", "--data", str(rig.data), "--public", str(rig.public)]
    command += ["--run-dir", str(rig.run_dir), "--port", str(rig.port), "--host", "127.0.0.1"]
    command += ["--engine", shlex.join(rig.engine), "--log-format", "json"]
    null = subprocess.DEVNULL
    rig.stamps.forget()
    began = time.monotonic()
    controller = subprocess.Popen(
        command, stdin=null, stdout=null, env={**os.environ, **rig.environment}, start_new_session=True
    )
    try:
        taken = rig.stamps.wait("exec", began) - began
        rig.until("Ready", also=lambda health: health["pid"] is not None)
        controller.terminate()
        controller.wait(20)
    finally:
        controller.kill()
        controller.wait()
    wait_for(lambda: not rig.left(), what="nothing is left of the engine")
    return 1e3 * taken


if __name__ == "__main__":
    figure.main(measure, SIZE, "starts")
