"""An EngineProcess with everything round it that a test needs, and a look for leaks at its end."""

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, TypeVar

from support.rude import COMMAND, free_port
from support.wait import LIMIT, await_for
from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.process.engine import EngineProcess
from vllm_fsm.core import effects, events
from vllm_fsm.core.snapshot import Secret, Target

E = TypeVar("E", bound=events.Event)
KEY = "kRudeKey0123456789abcd"


def target(*arguments: str, key: str = KEY, **rude: object) -> Target:
    """What to serve: `rude` names modes of the fake engine without their prefix."""
    environment = tuple(sorted((f"RUDE_{name}", str(value)) for name, value in rude.items()))
    return Target(arguments or ("org/model",), environment, Secret(key), "org/model")


def alive(session: int) -> list[procfs.Process]:
    """The processes of `session` that still run."""
    return [process for process in procfs.processes() if process.session == session and not process.gone]


def runs(pid: int) -> bool:
    """Whether process `pid` exists and is not only waiting to be reaped."""
    process = procfs.read(pid)
    return process is not None and not process.gone


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Rig:
    """`async with Rig() as rig`: directories, a port, an engine adapter, all it posted, logged and relayed."""

    def __init__(self, **options: Any) -> None:
        # A short path: the engine makes Unix sockets below it.
        self.root = Path(tempfile.mkdtemp(prefix="vf"))
        self.run_dir = self.root / "run"
        self.state_dir: Path = options.get("state_dir", self.root / "state")
        self.port = free_port()
        self.events: list[events.Event] = []
        self.phases: list[events.PhaseEntered] = []
        """Apart from the other events: they come whenever the engine prints."""
        self.logs: list[tuple[str, dict[str, object]]] = []
        self.lines: list[str] = []
        settings: dict[str, Any] = {
            "post": self._post,
            "clock": time.monotonic,
            "log": lambda event, /, **fields: self.logs.append((event, fields)),
            "relay": self.lines.append,
            "command": COMMAND,
            "host": "127.0.0.1",
            "port": self.port,
            "data": self.root / "data",
            "run_dir": self.run_dir,
            "state_dir": self.state_dir,
            "link_cache": None,
            "close_limit": LIMIT,
        }
        self.engine = EngineProcess(**settings | options)
        self.epoch = 0

    def _post(self, event: events.Event) -> None:
        if isinstance(event, events.PhaseEntered):
            self.phases.append(event)
        else:
            self.events.append(event)

    async def __aenter__(self) -> "Rig":
        self._before = descriptors()
        await self.engine.recover()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        await self.engine.close()
        leftovers = self.leftovers()
        shutil.rmtree(self.root)
        if kind is None:
            assert leftovers == []
            assert descriptors() == self._before
            assert [name for name, _ in self.logs if name == "effect-failed"] == []

    def leftovers(self) -> list[str]:
        """The files that an engine start leaves while it is not cleared up."""
        files = [*self.run_dir.glob("engine-*"), *self.state_dir.glob("engine-*"), *self.run_dir.glob("t/*")]
        return [str(file) for file in files]

    def logged(self, name: str) -> list[dict[str, object]]:
        return [fields for event, fields in self.logs if event == name]

    async def next(self, kind: type[E], timeout: float = LIMIT) -> E:
        """Take the first event of `kind`; earlier ones stay."""
        found: E = await await_for(
            lambda: next((event for event in self.events if isinstance(event, kind)), None),
            timeout,
            f"{kind.__name__}; there are {self.events}",
        )
        self.events.remove(found)
        return found

    def start(self, wanted: Target) -> None:
        self.epoch += 1
        self.engine.start(effects.StartEngine(self.epoch, wanted))

    async def started(self, wanted: Target) -> events.EngineStarted:
        self.start(wanted)
        return await self.next(events.EngineStarted)

    async def serving(self, wanted: Target) -> events.EngineStarted:
        """Start, and wait until the fake engine listens: its children and segments exist then."""
        started = await self.started(wanted)
        await await_for(lambda: any("startup complete" in line for line in self.lines), what="listening")
        self.lines.clear()
        return started

    def terminate(self) -> None:
        self.engine.terminate(effects.TerminateEngine(self.epoch))

    def kill(self) -> None:
        self.engine.kill(effects.KillSession(self.epoch))

    async def vacated(self, memory_wait: float = LIMIT) -> events.EngineVacated:
        self.engine.confirm_vacancy(effects.ConfirmVacancy(self.epoch, memory_wait))
        return await self.next(events.EngineVacated)

    async def ended(self) -> events.EngineExited:
        """Kill everything and see it gone, as the core does at the end of the stop ladder."""
        self.kill()
        exited = await self.next(events.EngineExited)
        await self.vacated()
        return exited
