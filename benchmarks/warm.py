"""Ready again: a start from a warm parent against a plain one, with the real vLLM and a tiny model, turn by turn.

One controller; a change or a crash before the parent is made is a plain start, one after that a warm one. Then the
costs of the parent, and 200 warm starts of a package that only pretends to be vLLM, while everything goes wrong.
VLLM_FSM_TEST_VLLM names the real command; without it only the last part is done.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import figure
from figure import Bound, Figure
from real import command
from rig import ROOT  # noqa: F401 - the tests' support can be imported after it

from support.controller import Controller
from support.real_vllm import Service
from support.wait import wait_for
from support.warm_vllm import install
from vllm_fsm.adapters import procfs

SIZE = 5
LIMIT = 900.0
"""Seconds for a start or a parent on a busy machine."""
SETTLE = 6.0
"""Seconds after Ready in which a plain start can still be had."""
STARTS = 200
"""Warm starts under chaos, for SIZE; a share of them for less."""
IDLE = 30.0


def measure(size: int = SIZE) -> list[Figure]:
    """Start `size` times in each way."""
    figures = []
    if command() is None:
        print("VLLM_FSM_TEST_VLLM is not set: the real vLLM is left out", file=sys.stderr)
    else:
        figures += real(size)
    return figures + chaos(max(10, STARTS * size // SIZE))


# --- the real one -----------------------------------------------------------------------------------------------------


class Watcher:
    """Asks for `/health` all the time, and notes when it was answered."""

    STEP = 0.02

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.answers: list[float] = []

    def _run(self) -> None:
        while not self._over.wait(self.STEP):
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=1)
            with suppress(OSError, http.client.HTTPException), closing(connection):
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    self.answers.append(time.monotonic())

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def gap(self) -> float:
        """The longest time without an answer."""
        return max(after - before for before, after in zip(self.answers, self.answers[1:], strict=False))


def real(size: int) -> list[Figure]:
    """Changes and crashes, plain and warm in turn."""
    taken: dict[str, list[float]] = {f"{what} {way}": [] for what in ("change", "gap", "crash") for way in "pw"}
    with Service("--warm", "on", overrides={"settle": SETTLE}) as service:
        service.wish(64)
        _proven(service, 0)
        _warmed(service)  # the first warm start only shows what the engine spawns, unless it was seen already
        memory, seconds, idle = _costs(service)
        _change(service, 65, taken, None)
        for number in range(size):
            _change(service, 100 + 2 * number, taken, "p")
            _warmed(service)
            _change(service, 101 + 2 * number, taken, "w")
            _crash(service, taken, "p")
            _warmed(service)
            _crash(service, taken, "w")
        missed = [line["difference"] for line in service.lines if line["event"] == "warm-child-not-used"]
    ratio = {what: _ratio(taken[f"{what} w"], taken[f"{what} p"]) for what in ("change", "gap", "crash")}
    return [
        Figure("change of arguments → Ready, plain", "s", taken["change p"]),
        Figure("… warm", "s", taken["change w"]),
        Figure("… warm ÷ plain", "", [ratio["change"]], Bound("median", 0.6), 2),
        Figure("SIGKILL of the leader → Ready, plain", "s", taken["crash p"]),
        Figure("… warm", "s", taken["crash w"]),
        Figure("… warm ÷ plain", "", [ratio["crash"]], Bound("median", 0.6), 2),
        Figure("change with everything cached: without service, plain", "s", taken["gap p"]),
        Figure("… warm", "s", taken["gap w"]),
        Figure("… warm ÷ plain", "", [ratio["gap"]], Bound("median", 0.5), 2),
        Figure("warm parent: memory (PSS of its processes)", "MB", [memory / 1e6], digits=0),
        Figure("… CPU time to make one", "s", [seconds]),
        Figure("… CPU while it waits", "%", [idle], digits=3),
        Figure("… children that had to be spawned anew", "", [float(len(missed))], digits=0),
    ]


def _ratio(warm: list[float], plain: list[float]) -> float:
    return statistics.median(warm) / statistics.median(plain)


def _proven(service: Service, after: int) -> dict[str, Any]:
    def settled() -> dict[str, Any] | None:
        health = service.health()
        return health if health["state"] in ("Ready", "Failed") and health["attempt"] > after else None

    health = wait_for(settled, LIMIT, "Ready")
    assert health["state"] == "Ready", f"{health}\n{service.last_lines()}"
    return health


def _warmed(service: Service) -> None:
    wait_for(lambda: service.health()["warm"]["state"] == "ready", LIMIT, "a warm parent")


def _check(service: Service, way: str | None) -> None:
    state = service.health()["warm"]["state"]
    assert way is None or (state == "ready") == (way == "w"), f"{way}: {state}"


def _change(service: Service, length: int, taken: dict[str, list[float]], way: str | None) -> None:
    _check(service, way)
    before = service.health()["attempt"]
    with Watcher(service.port) as watcher:
        wait_for(lambda: watcher.answers, what="service")
        began = time.monotonic()
        service.wish(length)
        _proven(service, before)
        passed = time.monotonic() - began
        count = len(watcher.answers)
        wait_for(lambda: len(watcher.answers) > count, what="service")
    assert service.length() == length
    if way is not None:
        taken[f"change {way}"].append(passed)
        taken[f"gap {way}"].append(watcher.gap())


def _crash(service: Service, taken: dict[str, list[float]], way: str) -> None:
    _check(service, way)
    health = service.health()
    began = time.monotonic()
    os.kill(health["pid"], signal.SIGKILL)
    _proven(service, health["attempt"])
    taken[f"crash {way}"].append(time.monotonic() - began)
    service.generates()


def _costs(service: Service) -> tuple[float, float, float]:
    """Bytes of the waiting parent, CPU seconds that it took, and its share of a core now, in percent."""
    warm = service.health()["warm"]
    session = service.says("warm-parent-ready")["pid"]
    family = [process.pid for process in procfs.processes() if process.session == session]
    before = sum(map(procfs.cpu_seconds, family))
    time.sleep(IDLE)
    used = sum(map(procfs.cpu_seconds, family)) - before
    return warm["memory"], warm["cpuSeconds"], 100 * used / IDLE


# --- chaos ------------------------------------------------------------------------------------------------------------


class Chaos(Controller):
    """A controller whose engine is the package, and one who makes trouble."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.script = install(root / "env")
        (self.version_file,) = (root / "env").glob("lib/*/site-packages/vllm/_version.py")
        self.draw = random.Random(1)
        self.number = self.version = 0
        self.variables = {"FAKE_REPORT": str(root / "report"), "FAKE_SPAWN": str(root / "child"), "CHAOS": "0"}
        self.wrong = dict.fromkeys(("environment", "version", "orphans", "key"), 0)
        self.warm = self.plain = 0
        # A real engine that crashed so often would be given up.
        overrides = {"settle": 0.2, "settings": {"restart_intensity": 1_000_000, "restart_longest": 0.5}}
        super().__init__(root, "--warm", "on", engine=(str(self.script),), overrides=overrides)

    def step(self) -> None:
        """Look at the parent, make trouble, ask for another engine or crash this one, and look at what comes."""
        if self.draw.random() < 0.9:
            wait_for(lambda: self.health()["warm"]["state"] == "ready", LIMIT, "a warm parent")
            self._look_at_parent()
        before = self.health()
        self._trouble()
        cause = self.draw.choice(("arguments", "key", "crash"))
        self.number += 1
        if cause == "arguments":
            self.ask()
        elif cause == "key":
            text = json.dumps({"apiKey": f"kChaos{self.number:016d}"})
            fresh = self.public / "fresh"
            fresh.write_text(text)
            fresh.replace(self.public / "credentials.json")
        else:
            with suppress(ProcessLookupError):
                os.kill(before["pid"], signal.SIGKILL)
        health = self._ready_after(before["attempt"])
        self._look_at_engine(health)

    def ask(self) -> None:
        """Write what is wanted now."""
        self.serve("tiny", "--seed", str(self.number), **self.variables)

    def _ready_after(self, attempt: int) -> dict[str, Any]:
        def ready() -> dict[str, Any] | None:
            health = self.health()
            return health if health["state"] == "Ready" and health["attempt"] > attempt else None

        return wait_for(ready, LIMIT, f"Ready after {attempt}: {self.raw[-20:]}")

    def _parent(self) -> int | None:
        health = self.health()
        if health["warm"]["state"] != "ready":
            return None
        # The log may lag behind the health file: a parent that became an engine is none any more.
        pids = [line["pid"] for line in self.events("warm-parent-ready")]
        return pids[-1] if pids and pids[-1] not in {health["pid"], *self.sessions} else None

    def _trouble(self) -> None:
        """Half of the time, none."""
        parent = self._parent()
        match self.draw.randrange(12):
            case 0:
                self.variables["CHAOS"] = str(self.number)
            case 1:
                self.version += 1
                self.version_file.write_text(f"NUMBER = {self.version}\n")
            case 2 | 3 if parent is not None:
                with suppress(ProcessLookupError):
                    os.kill(parent, self.draw.choice((signal.SIGSTOP, signal.SIGKILL)))
            case 4 | 5 if parent is not None:
                for child in [p for p in procfs.processes() if p.parent == parent]:
                    procfs.send(child, self.draw.choice((signal.SIGSTOP, signal.SIGKILL)))

    def _look_at_parent(self) -> None:
        parent = self._parent()
        if parent is None:
            return
        for process in [p for p in procfs.processes() if p.session == parent]:
            shown = procfs.environ(process.pid) + procfs.cmdline(process.pid)
            self.wrong["key"] += self.key.encode() in shown or self.key.encode() in _memory(process.pid)

    def _look_at_engine(self, health: dict[str, Any]) -> None:
        facts = json.loads((self.root / "report").read_text())
        if facts["pid"] != health["pid"]:
            return  # it crashed right now, or another start is on its way
        self.warm += facts["warm"]
        self.plain += not facts["warm"]
        for name in ("imported", "entered"):
            chaos = facts[name].get("CHAOS") == (self.asked() or {}).get("CHAOS")
            key = facts[name].get("VLLM_API_KEY") == self.key or (name == "imported" and facts["warm"])
            self.wrong["environment"] += not (chaos and key)
        differ = {key for key in facts["entered"] if facts["entered"][key] != facts["imported"].get(key)}
        self.wrong["environment"] += bool(differ - {"VLLM_API_KEY"})
        self.wrong["version"] += facts["version"] != self.version
        ours = {health["pid"], self._parent()}
        known = set(self.sessions) | {line["pid"] for line in tuple(self.lines) if line["event"] == "warm-parent-ready"}

        def orphans() -> list[procfs.Process]:
            return [p for p in procfs.processes() if p.session in known - ours and not p.gone]

        end = time.monotonic() + 30
        while orphans() and time.monotonic() < end:
            time.sleep(0.02)
        self.wrong["orphans"] += len(orphans())

    def asked(self) -> dict[str, str] | None:
        """The variables in the store."""
        return {one["name"]: one["value"] for one in json.loads(self.store.read_text())["serveEnv"]}


def _memory(pid: int) -> bytes:
    """What a process has in its writable memory."""
    parts = []
    with suppress(OSError):
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
        try:
            for line in procfs.maps(pid).decode().splitlines():
                where, access, *_ = line.split()
                if access.startswith("rw"):
                    start, end = (int(number, 16) for number in where.split("-"))
                    with suppress(OSError, OverflowError):
                        parts.append(os.pread(memory, end - start, start))
        finally:
            os.close(memory)
    return b"".join(parts)


def chaos(starts: int) -> list[Figure]:
    """Make trouble until there were `starts` warm starts."""
    root = Path(tempfile.mkdtemp(prefix="vf"))
    try:
        with Chaos(root) as rig:
            rig.ask()
            rig._ready_after(0)
            while rig.warm < starts:
                rig.step()
            assert rig.stop() == 0
            left = [p for p in procfs.processes() if p.session in rig.sessions and not p.gone]
            rig.wrong["orphans"] += len(left)
        print(f"{rig.warm} warm starts, {rig.plain} plain ones between them", file=sys.stderr)
        return [
            Figure(f"{starts} warm starts under chaos: {what}", "", [float(rig.wrong[name])], Bound("max", 0), 0)
            for name, what in (
                ("environment", "wrong environment"),
                ("version", "stale version"),
                ("orphans", "orphans"),
                ("key", "key in a waiting parent"),
            )
        ]
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    figure.main(measure, SIZE, "starts in each way")
