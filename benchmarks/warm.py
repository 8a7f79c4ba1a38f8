"""Ready again: plain starts, warm ones and hasty ones, with the real vLLM and a tiny model, turn by turn.

Two controllers side by side, one of them without warm parents; the other one's start is warm when a parent stands
ready, and hasty before that. Then the costs of the parent, and 200 warm starts of a package that only pretends to be
vLLM, while everything goes wrong. VLLM_FSM_TEST_VLLM names the real command; without it only the last part is done.
"""

from __future__ import annotations

import http.client
import itertools
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
from collections.abc import Container
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
"""Seconds after Ready in which a hasty start can still be had."""
PLAIN, WARM, HASTY = "plain", "warm", "in haste"
STARTS = 200
"""Warm starts under chaos, for SIZE; a share of them for less."""
IDLE = 30.0
IMPORT = 0.2
"""Seconds that the imports take under chaos, so that they can be disturbed."""


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
    """Changes, crashes and starts of the controller in each way in turn."""
    taken: dict[str, list[float]] = {f"{what} {way}": [] for what in WHAT for way in (PLAIN, WARM, HASTY)}
    starts: dict[str, list[float]] = {PLAIN: [], HASTY: []}
    lengths = itertools.count(64)
    with (
        Service("--warm", "off") as without,
        Service("--warm", "on", overrides={"warm": {"settle": SETTLE}}) as service,
    ):
        for one in (without, service):
            one.wish(next(lengths))
            _proven(one, 0)
        _warmed(service)  # by then it is known what the engine spawns
        memory, seconds, idle = _costs(service)
        for _ in range(size):
            _change(without, next(lengths), taken, PLAIN)
            _warmed(service)
            _change(service, next(lengths), taken, WARM)
            _change(service, next(lengths), taken, HASTY)
            # After a change the first crash is followed by a start at once.
            _crash(without, taken, PLAIN)
            _warmed(service)
            _crash(service, taken, WARM)
            _change(service, next(lengths), None, HASTY)
            _crash(service, taken, HASTY)
        missed = _missed(service)
        for _ in range(size):
            starts[PLAIN].append(_start(without))
            starts[HASTY].append(_start(service, warm={"settle": SETTLE}))
            parent = service.says("warm-parent-ready")
            assert parent["pid"] == service.health()["pid"], "the first start was no hasty one"
            missed += _missed(service)
    return [
        *(figure for what in WHAT for figure in _compared(what, taken)),
        Figure(f"start of the controller → Ready, {PLAIN}", "s", starts[PLAIN]),
        Figure(f"… {HASTY}", "s", starts[HASTY]),
        Figure(f"… {HASTY} ÷ {PLAIN}", "", [_ratio(starts[HASTY], starts[PLAIN])], digits=2),
        Figure("warm parent: memory (PSS of its processes)", "MB", [memory / 1e6], digits=0),
        Figure("… CPU time to make one", "s", [seconds]),
        Figure("… CPU while it waits", "%", [idle], digits=3),
        Figure("… children that had to be spawned anew", "", [float(missed)], digits=0),
    ]


WHAT = {
    "change": ("change of arguments → Ready", 0.6),
    "crash": ("SIGKILL of the leader → Ready", 0.6),
    "gap": ("change with everything cached: without service", 0.5),
}
"""What each is, and the most that a warm start may take of a plain one."""


def _compared(what: str, taken: dict[str, list[float]]) -> list[Figure]:
    name, most = WHAT[what]
    plain, warm, hasty = (taken[f"{what} {way}"] for way in (PLAIN, WARM, HASTY))
    return [
        Figure(f"{name}, {PLAIN}", "s", plain),
        Figure(f"… {WARM}", "s", warm),
        Figure(f"… {HASTY}", "s", hasty),
        Figure(f"… {WARM} ÷ {PLAIN}", "", [_ratio(warm, plain)], Bound("median", most), 2),
        Figure(f"… {HASTY} ÷ {PLAIN}", "", [_ratio(hasty, plain)], digits=2),
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


def _check(service: Service, way: str) -> None:
    report = service.health()["warm"]
    found = PLAIN if report is None else WARM if report["state"] == "ready" else HASTY
    assert found == way, f"{way}: {report}"


def _change(service: Service, length: int, taken: dict[str, list[float]] | None, way: str) -> None:
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
    if taken is not None:
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


def _missed(service: Service) -> int:
    """How many children had to be spawned anew in this life of the controller."""
    assert service.events("warm-parent-failed") == []
    return len(service.events("warm-child-not-used"))


def _start(service: Service, **overrides: Any) -> float:
    """End the controller, and let the next one start over what it left; return the seconds to Ready."""
    assert service.stop() == 0
    began = time.monotonic()
    service.again(**overrides)
    _proven(service, 0)
    passed = time.monotonic() - began
    service.generates()
    return passed


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
        self.variables["FAKE_IMPORT_TIME"] = str(IMPORT)
        # A compiled file is known by whole seconds and the size of its source: two versions within a second are one to
        # Python, in plain starts too.
        self.variables["PYTHONDONTWRITEBYTECODE"] = "1"
        self.wrong = dict.fromkeys(("environment", "version", "orphans", "key"), 0)
        self.warm = self.hasty = self.plain = 0
        self.hit: set[int] = set()
        """Sessions of parents that were hit while they imported."""
        # A real engine that crashed so often would be given up.
        overrides = {
            "warm": {"settle": 0.2, "rest": 0.5},
            "settings": {"restart_intensity": 1_000_000, "restart_longest": 0.5},
        }
        super().__init__(root, "--warm", "on", engine=(str(self.script),), overrides=overrides)

    def step(self) -> None:
        """Look at the parent, make trouble, ask for another engine or crash this one, and look at what comes."""
        calm = self.draw.random() < 0.6
        if calm:
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
        if not calm and self.draw.random() < 0.4:
            self._hit_imports()
        health = self._ready_after(before["attempt"])
        self._look_at_engine(health, calm)

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

    def _hit_imports(self) -> None:
        """Stop or kill one of the processes that import, if there is one soon."""
        end = time.monotonic() + 2 * IMPORT
        while time.monotonic() < end:
            marked = [p for p in procfs.processes() if b"warm/parent.py\0" in procfs.cmdline(p.pid)]
            ours = [p for p in marked if str(self.root).encode() in procfs.cmdline(p.pid)]
            if ours:
                process = self.draw.choice(ours)
                self.hit.add(process.session)
                procfs.send(process, self.draw.choice((signal.SIGSTOP, signal.SIGKILL)))
                return
            time.sleep(0.01)

    def _look_at_parent(self) -> None:
        parent = self._parent()
        if parent is None:
            return
        for process in [p for p in procfs.processes() if p.session == parent]:
            shown = procfs.environ(process.pid) + procfs.cmdline(process.pid)
            self.wrong["key"] += self.key.encode() in shown or self.key.encode() in _memory(process.pid)

    def _look_at_engine(self, health: dict[str, Any], calm: bool) -> None:
        facts = json.loads((self.root / "report").read_text())
        if facts["pid"] != health["pid"]:
            return  # it crashed right now, or another start is on its way
        self.warm += facts["warm"]
        self.hasty += facts["warm"] and not calm
        self.plain += not facts["warm"]
        for name in ("imported", "entered"):
            chaos = facts[name].get("CHAOS") == (self.asked() or {}).get("CHAOS")
            key = facts[name].get("VLLM_API_KEY") == self.key or (name == "imported" and facts["warm"])
            self.wrong["environment"] += not (chaos and key)
        differ = {key for key in facts["entered"] if facts["entered"][key] != facts["imported"].get(key)}
        self.wrong["environment"] += bool(differ - {"VLLM_API_KEY"})
        if facts["version"] != self.version:
            self.wrong["version"] += 1
            print(f"version {facts['version']} instead of {self.version}, warm: {facts['warm']}", file=sys.stderr)
        ours = {health["pid"], self._parent()}
        end = time.monotonic() + 30
        while self.left(ours) and time.monotonic() < end:
            time.sleep(0.02)
        self.wrong["orphans"] += len(self.left(ours))

    def left(self, ours: Container[int | None] = ()) -> list[procfs.Process]:
        """What still runs of all engines and parents that there were, but those of the sessions `ours`."""
        parents = {line["pid"] for line in tuple(self.lines) if line["event"] == "warm-parent-ready"}
        known = {*self.sessions, *self.hit, *parents}
        return [p for p in procfs.processes() if p.session in known and p.session not in ours and not p.gone]

    def asked(self) -> dict[str, str] | None:
        """The variables in the store."""
        return {one["name"]: one["value"] for one in json.loads(self.store.read_text())["serveEnv"]}


def _memory(pid: int) -> bytes:
    """What a process has in its writable memory."""
    parts = []
    with suppress(OSError):
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
        try:
            for line in map(bytes.decode, procfs.maps(pid)):
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
            rig.wrong["orphans"] += len(rig.left())
        print(f"{rig.warm} warm starts ({rig.hasty} hasty), {rig.plain} plain ones between them", file=sys.stderr)
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
