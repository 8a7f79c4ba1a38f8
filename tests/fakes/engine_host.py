"""A parent like the controller, to be killed: runs one EngineProcess and prints what happens, one JSON line each.

engine_host.py start ROOT PORT [NAME=VALUE …]   recover, start the rude engine, and stay
engine_host.py recover ROOT PORT                recover, say so, and end in order
engine_host.py spawn ROOT PORT                  bring the shim to where it waits, and stay
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))

from support.rude import COMMAND
from vllm_fsm.adapters.process import launch
from vllm_fsm.adapters.process.engine import EngineProcess
from vllm_fsm.core import effects
from vllm_fsm.core.events import Event
from vllm_fsm.core.snapshot import Secret, Target


def say(what: str, **fields: Any) -> None:
    print(json.dumps({"what": what, **fields}, default=str), flush=True)


def post(event: Event) -> None:
    say(type(event).__name__, pid=getattr(event, "pid", None), finding=str(getattr(event, "finding", "")))


async def main(mode: str, root: Path, port: int, rude: list[str]) -> None:
    engine = EngineProcess(
        post=post,
        clock=time.monotonic,
        log=lambda event, /, **fields: say(event, **fields),
        relay=lambda line: say("line", text=line),
        command=COMMAND,
        host="127.0.0.1",
        port=port,
        data=root / "data",
        run_dir=root / "run",
        state_dir=root / "state",
        link_cache=None,
    )
    if mode == "spawn":
        spawned = launch.spawn(("sleep", "600"), dict(os.environ))
        say("spawned", pid=spawned.process.pid)
        await asyncio.Event().wait()
    await engine.recover()
    say("recovered", guardian=engine.guardian)
    if mode == "start":
        pairs = tuple((f"RUDE_{name}", value) for name, _, value in (pair.partition("=") for pair in rude))
        engine.start(effects.StartEngine(1, Target(("org/model",), pairs, Secret("secret"), "org/model")))
        await asyncio.Event().wait()
    await engine.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
