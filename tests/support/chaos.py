"""Random acts on a real controller with the rude fake engine, and a look at everything after each of them.

What must come of an act follows from the files, and with a fallback from what was ready before: `Chaos.missing`.
Whatever happened, it must come within `SETTLE` seconds, with one engine or none, no orphan, no zombie, the key as the
file has it, a log without gaps, and times by the clock as it is set now.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median_low
from typing import Any

from support.controller import Controller
from support.volume import mount
from support.wait import LIMIT, wait_for
from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.process.reaper import INTERVAL

SETTLE = 30.0
"""Seconds within which everything is as the files ask, on a busy machine too."""
NOTICED = 0.4
"""Seconds after which an edit is noticed, on a busy machine too."""
MOMENT = 0.3
"""Seconds that an act takes something away: the length of the act, in which nothing is waited for."""
INEXACT = 30.0
"""Seconds by which a time may be off on a busy machine. The clock is set by hours."""
HOURS = 48
"""The furthest that the controller's wall clock is from the true one, either way."""
AGED = 100_000
"""Names that come and go in a controller before its life, if what it holds is compared over time."""
LOOKS = 9
"""Looks at what a controller holds, a moment apart."""
PAUSE = (0.0, 0.05, 0.3)
"""Seconds between two acts of one cycle, at random."""
SETTINGS = {
    "nudge_after": 0.2,
    "port_retry": 0.2,
    "restart_first": 0.05,
    "restart_longest": 0.2,
    "kill_again": 0.5,
    "restart_intensity": 1_000,
    "stop_timeout": 1.0,
    "slow_retry": 1.0,
    "download_first": 0.1,
    "download_longest": 0.3,
}
"""As usual, but quick, and never tired: a chaos of hours is one of minutes here."""
IMPATIENT = {"pulse": 0.2, "silence": 2.0}
"""A start of the fake engine takes far less, on a busy machine too; a real one may be silent for longer."""
PACE = {"health_every": 0.2, "step_every": 1.0, "canary_limit": 5.0, "canary_idle": 1.0}
KINDS: tuple[dict[str, object], ...] = (
    {},
    {},
    {"RUDE_CHILDREN": 2, "RUDE_CHILDREN_STAY": 1, "RUDE_TITLE": "VLLM::EngineCore"},
    {"RUDE_SIGTERM": "deaf"},
    {"RUDE_SIGTERM": "loading", "RUDE_LISTEN_AFTER": 0.3},
    {"RUDE_DAEMON": "pipe", "RUDE_SHM": 1, "RUDE_SEMAPHORE": 1},
    {"RUDE_CHILDREN": 1, "RUDE_CHILDREN_DEEP": 1, "RUDE_PROGRESS": 50},
    {"RUDE_FLOOD": 1 << 20, "RUDE_BAD_UTF8": 1, "RUDE_PRINT_KEY": 1},
    {"RUDE_SIGTERM": "slow:0.4"},
)
"""Engines that come up, and are rude at other times."""
REFUSING = {"RUDE_EXIT_CODE": 2, "RUDE_LAST_LINE": "vllm: error: unrecognized arguments: --oops"}
HANGING = {"RUDE_NEVER_LISTEN": 1}

Choice = tuple[tuple[str, ...], dict[str, object]]
"""Arguments and variables."""


class Unsettled(AssertionError):
    """Something is not as it must be; the message names the seed and the acts."""


@dataclass
class Resources:
    """What a controller holds."""

    descriptors: int
    threads: int
    pss: int
    """Bytes; pages that other processes have as well count in parts."""
    own: int
    """Bytes that no file has: what it allocated."""
    files: int
    """Bytes of mapped files in memory, whole, whoever else has them."""


@dataclass
class Chaos:
    """One controller in the hands of `seed`. To be used with `with`."""

    seed: int
    engine: tuple[str, ...] = ()
    """Empty: the rude fake one."""
    settle: float = SETTLE
    arguments: tuple[str, ...] = ("tiny",)
    variables: dict[str, object] = field(default_factory=dict)
    mounted: bool = False
    """The data directory is a small volume of its own; needs mounts of our own (`support.volume`)."""
    lasting: bool = False
    """The controller is never replaced, so that what it holds can be compared over time."""
    fallback: bool = False
    """The controller is told to serve what was ready last instead of what cannot be served."""
    acts: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    """Seconds that each cycle needed to settle."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.root = Path(tempfile.mkdtemp(prefix="vf"))
        (self.root / "data").mkdir()
        if self.mounted:
            mount("-t", "tmpfs", "-o", "size=24m", "none", str(self.root / "data"))
        self._wall = self.root / "wall"
        self._offsets: list[float] = []
        self.set_clock(0.0)
        self.controller = self._new()
        self.wanted: Choice | None = None
        """What the store asks for; None: nothing."""
        self.obstacle: str | None = None
        """The reason for which that cannot be served."""
        self.good: Choice | None = None
        """What was ready before that; None: nothing since the selection was cleared."""
        self.key = ""
        self.keys: set[str] = set()
        """Those that were in force in this cycle."""
        self.cycle = 0
        self.history: list[str] = []
        self._untried = list(dict.fromkeys(self._acts))
        """Acts that come before any is chosen by chance."""
        self.random.shuffle(self._untried)
        self._stranger: socket.socket | None = None
        self._told = "NoModel"
        """The state that the log came to."""
        self._told_at = time.monotonic()
        """When."""

    @property
    def _acts(self) -> tuple[Callable[[Chaos], None], ...]:
        left_out: list[Callable[[Chaos], None]] = []
        left_out += REPLACING if self.lasting else ()
        left_out += () if self.mounted else ON_VOLUME
        left_out += RUDE if self.engine else ()
        return tuple(act for act in ACTS if act not in left_out)

    def _new(self) -> Controller:
        options: dict[str, Any] = {"engine": self.engine} if self.engine else {}
        flags = ["--stop-timeout", "1s", "--stall-timeout", "5s"]
        if self.fallback:
            flags += ["--fallback", "last-good"]
        settings = SETTINGS if self.engine else SETTINGS | IMPATIENT
        overrides = {"settings": settings, "pace": PACE, "wall": str(self._wall), "aged": AGED if self.lasting else 0}
        return Controller(self.root, *flags, overrides=overrides, **options)

    def __enter__(self) -> Chaos:
        self.controller.start()
        self.controller.until("NoModel", self.settle)
        self.note_key()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._stranger is not None:
            self._stranger.close()
        try:
            self.controller.__exit__(kind)
        finally:
            if self.mounted:
                subprocess.run(("umount", "--lazy", str(self.root / "data")), check=True)
            shutil.rmtree(self.root, ignore_errors=True)

    # --- one cycle -----------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Do one to three acts, each kind once before any comes again, then see that all is as it must be."""
        self.cycle += 1
        self.history = []
        self.keys = {self.key}
        del self._offsets[:-1]
        for _ in range(self.random.choice((1, 1, 2, 3))):
            act = self._untried.pop() if self._untried else self.random.choice(self._acts)
            self.acts[act.__name__] += 1
            self.history.append(act.__name__)
            self.note_key()
            act(self)
            time.sleep(self.random.choice(PAUSE))
        began = time.monotonic()
        self.relent()
        self.settles()
        self.times.append(time.monotonic() - began)
        self._look()

    def __str__(self) -> str:
        return f"seed {self.seed}, cycle {self.cycle}, {' + '.join(self.history)}"

    def relent(self) -> None:
        """End what only hinders: the stranger on the port, and the volume that cannot be written."""
        if self._stranger is not None:
            self._stranger.close()
            self._stranger = None

    def settles(self) -> None:
        """Wait until all is as the files ask. Raises Unsettled if it does not come to that."""
        try:
            wait_for(self.settled, self.settle, "what the files ask for")
        except AssertionError:
            raise Unsettled(f"{self}: {self.missing()}\n{self._tail()}") from None

    def note_key(self) -> bool:
        """Remember the key that its file has; return whether it has one."""
        try:
            key = json.loads(self.controller.credentials.read_text())["apiKey"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if not isinstance(key, str):
            return False
        self.key = key
        self.keys.add(key)
        return True

    def missing(self) -> str | None:
        """What is not as the files ask, None when all is."""
        health = self.controller.health()
        serving = self.wanted if self.obstacle is None else self.good if self.fallback else None
        if serving is not None:
            arguments, variables = serving
            active = health.get("active") or {}
            good = (
                health["state"] == "Ready"
                and tuple(active.get("arguments", ())) == arguments
                and set(active.get("environment", ())) == set(variables)
                and health["fallback"] is (self.obstacle is not None)
                and health["reason"] == self.obstacle
                and not health["warnings"]
            )
        else:
            state = "NoModel" if self.wanted is None else "Failed"
            good = (health["state"], health["reason"], health.get("engine")) == (state, self.obstacle, "Absent")
        if not good:
            return f"{self.wanted} is wanted ({self.obstacle or 'can be served'}; before: {self.good}), {health} is"
        if not self.note_key():
            return "there is no key"
        sessions = {found.session for pid in self.controller.pids_left() if (found := procfs.read(pid)) is not None}
        engine = {health["pid"]} if serving is not None else set()
        # A daemon of the engine at hand has a session of its own.
        daemons = 1 if serving is not None and "RUDE_DAEMON" in serving[1] else 0
        if not engine <= sessions or len(sessions) > len(engine) + daemons:
            return f"one engine or none: there are sessions {sessions}, health says {engine}"
        return self._unkeyed(health["pid"]) if serving is not None else None

    def _unkeyed(self, pid: int) -> str | None:
        """Whether the engine lacks the key that the file has; a real one overwrites what it shows of itself."""
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            keys = [line for line in environment if line.startswith(b"VLLM_API_KEY=")]
            if keys and keys != [f"VLLM_API_KEY={self.key}".encode()]:
                return "the engine has another key than the file"
        return None

    def settled(self) -> bool:
        """Whether all is as it must be, and still is a little later: what was just written is noticed by then."""
        if self.missing() is not None:
            return False
        time.sleep(NOTICED)
        return self.missing() is None

    def _look(self) -> None:
        """Nothing is there that should not be."""
        controller = self.controller
        assert controller.process is not None
        zombies = [p for p in procfs.processes() if p.parent == controller.process.pid and p.gone]
        self._must(not wait_gone(zombies), f"zombies: {zombies}")
        log = "".join(controller.raw)
        for key in self.keys:
            self._must(key not in log, "a key is in the log")
        try:
            wait_for(self._timely, what="times by the clock as it is")
        except Unsettled:
            raise
        except AssertionError:
            self._must(False, f"times by a clock that is {self._offsets[-1]:g} s ahead: {controller.health()}")

    def _read_log(self) -> None:
        """See that each transition of a life begins where the last one ended; then forget what was read.

        More may be said meanwhile: what was not read stays.
        """
        controller = self.controller
        count = len(controller.times)  # the last of the three that a line is added to
        for line, at in zip(controller.lines[:count], controller.times, strict=False):
            self._must(line["event"] != "bug", f"a bug of ours: {line}")
            self._must(line["event"] != "not-json", f"no JSON in the log: {line}")
            said = moment(line["time"]) - (time.time() - time.monotonic() + at)
            self._must(any(abs(said - offset) < INEXACT for offset in self._offsets), f"not the time: {line}")
            if line["event"] == "started":
                self._told, self._told_at = "NoModel", at
            elif line["event"] == "transition":
                self._must(line["from"] == self._told, f"a transition is missing before {line}")
                self._must(abs(line["lasted"] - (at - self._told_at)) < INEXACT, f"it did not last so long: {line}")
                self._told, self._told_at = line["to"], at
        for said in (controller.lines, controller.raw, controller.times):
            del said[:count]

    def _timely(self) -> bool:
        """Whether the health file says by the clock as it is set now since when the state lasts."""
        self._read_log()
        lasted = time.time() + self._offsets[-1] - moment(self.controller.health()["since"])
        return abs(lasted - (time.monotonic() - self._told_at)) < INEXACT

    def _must(self, holds: bool, promise: str) -> None:
        if not holds:
            raise Unsettled(f"{self}: {promise}\n{self._tail()}")

    def _tail(self) -> str:
        return "".join(line for line in self.controller.raw[-60:] if '"engine-output"' not in line)

    def resources(self) -> Resources:
        """What the controller holds beside an engine that is ready: medians, as probes come and go."""
        self.relent()
        self.serve()
        self.settles()
        seen = []
        for _ in range(LOOKS):
            seen.append(self._held())
            time.sleep(MOMENT)
        return Resources(*(median_low(values) for values in zip(*map(astuple, seen), strict=True)))

    def _held(self) -> Resources:
        assert self.controller.process is not None
        proc = Path(f"/proc/{self.controller.process.pid}")
        rollup = {}
        for line in (proc / "smaps_rollup").read_text().splitlines()[1:]:
            name, size, _ = line.split()
            rollup[name] = int(size) * 1024
        own = rollup["Anonymous:"]
        files = rollup["Rss:"] - own
        return Resources(len(os.listdir(proc / "fd")), len(os.listdir(proc / "task")), rollup["Pss:"], own, files)

    # --- files ---------------------------------------------------------------------------------------------------

    def set_clock(self, offset: float) -> None:
        """Let the controller's wall clock be `offset` seconds ahead of the true one."""
        self._offsets.append(offset)
        file = os.open(self._wall, os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(file, struct.pack("d", offset), 0)  # in place: never empty
        os.close(file)

    def serve(self, *, rude: Mapping[str, object] | None = None, in_place: bool = False) -> None:
        """Choose other arguments."""
        arguments = (*self.arguments, "--max-model-len", str(self.random.choice((128, 192, 256))))
        variables = {**self.variables, **(rude or {})}
        content = json.dumps(
            {
                "serveArgs": list(arguments),
                "serveEnv": [{"name": name, "value": str(value)} for name, value in variables.items()],
            }
        )
        if in_place:
            self.controller.store.write_text(content)
        else:
            new = self.controller.store.with_name(".store.new")
            new.write_text(content)
            new.rename(self.controller.store)
        self.wanted, self.obstacle = (arguments, variables), None

    def pid(self) -> int | None:
        pid = self.controller.health().get("pid")
        return int(pid) if pid else None

    def strike(self, pid: int | None, number: int) -> None:
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def again(self) -> None:
        """Start the controller anew over what the last one left."""
        self.controller.start()
        self.controller.says("started", self.settle)


def moment(text: str) -> float:
    """Return the seconds since 1970 of a time as RFC 3339 has it."""
    return datetime.fromisoformat(text).timestamp()


def wait_gone(processes: list[procfs.Process]) -> bool:
    """Whether one of them stays: an orphan without an owner is reaped two looks of the reaper later."""

    def left() -> bool:
        return any((now := procfs.read(p.pid)) is not None and now.start == p.start and now.gone for p in processes)

    with contextlib.suppress(AssertionError):
        wait_for(lambda: not left(), LIMIT + 2 * INTERVAL)
    return left()


# --- the acts ----------------------------------------------------------------------------------------------------


def edit(chaos: Chaos) -> None:
    chaos.serve(rude=chaos.random.choice(KINDS) if not chaos.engine else None)


def edit_in_place(chaos: Chaos) -> None:
    chaos.serve(in_place=True)


def edit_often(chaos: Chaos) -> None:
    for _ in range(20):
        chaos.serve()


def clear(chaos: Chaos) -> None:
    chaos.controller.store.write_text("{}")
    chaos.wanted = None


def delete_store(chaos: Chaos) -> None:
    chaos.controller.store.unlink(missing_ok=True)
    chaos.wanted = None


def break_store_and_mend_it(chaos: Chaos) -> None:
    chaos.controller.store.write_bytes(chaos.random.choice((b"", b"{", b'{"serveArgs": 7}', b"\xff\xfe", b"[]")))
    time.sleep(chaos.random.choice(PAUSE))
    chaos.serve()


def delete_key(chaos: Chaos) -> None:
    chaos.controller.credentials.unlink(missing_ok=True)


def rotate_key(chaos: Chaos) -> None:
    key = "".join(chaos.random.choices("abcdefghijkmnpqrstuvwxyz23456789", k=22))
    new = chaos.controller.credentials.with_name(".new")
    new.write_text(json.dumps({"apiKey": key}))
    new.rename(chaos.controller.credentials)


def break_key_and_mend_it(chaos: Chaos) -> None:
    path = chaos.controller.credentials
    path.write_text(chaos.random.choice(("{", "[]", '{"apiKey": 7}')))
    time.sleep(chaos.random.choice(PAUSE))
    chaos.note_key()
    path.write_text(json.dumps({"apiKey": "mended" * 4}))


def kill_engine(chaos: Chaos) -> None:
    chaos.strike(chaos.pid(), signal.SIGKILL)


def kill_member(chaos: Chaos) -> None:
    pid = chaos.pid()
    members = [p.pid for p in procfs.processes() if p.session == pid and p.pid != pid and not p.gone]
    if members:
        chaos.strike(chaos.random.choice(members), signal.SIGKILL)


def stop_engine_for_a_moment(chaos: Chaos) -> None:
    pid = chaos.pid()
    chaos.strike(pid, signal.SIGSTOP)
    time.sleep(MOMENT)
    chaos.strike(pid, signal.SIGCONT)


def stop_controller_for_a_moment(chaos: Chaos) -> None:
    chaos.controller.signal(signal.SIGSTOP)
    time.sleep(MOMENT)
    if chaos.random.random() < 0.5:
        edit(chaos)
    chaos.controller.signal(signal.SIGCONT)


def kill_guardian(chaos: Chaos) -> None:
    assert chaos.controller.process is not None
    for process in procfs.processes():
        if process.parent == chaos.controller.process.pid and b"guardian" in procfs.cmdline(process.pid):
            chaos.strike(process.pid, signal.SIGKILL)


def kill_controller(chaos: Chaos) -> None:
    chaos.controller.signal(signal.SIGKILL).ends()
    if chaos.random.random() < 0.5:
        wait_for(lambda: not chaos.controller.left(), what="the engine ends with its controller")
    chaos.again()


def restart_controller(chaos: Chaos) -> None:
    assert chaos.controller.stop(chaos.settle) == 0
    assert not chaos.controller.left()
    chaos.again()


def hang_up(chaos: Chaos) -> None:
    chaos.controller.signal(signal.SIGHUP)


def second_controller(chaos: Chaos) -> None:
    second = Controller(chaos.root, port=chaos.controller.port).start()
    assert second.ends(chaos.settle) == 3


def steal_port(chaos: Chaos) -> None:
    """Take the port while it is free; until the end of the cycle nothing can be served."""
    stranger = socket.socket()
    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        stranger.bind(("127.0.0.1", chaos.controller.port))
        stranger.listen()
    except OSError as error:
        stranger.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return
    if chaos._stranger is not None:
        chaos._stranger.close()
    chaos._stranger = stranger


def steal_port_of_the_next(chaos: Chaos) -> None:
    """Kill the engine and be quicker than the next one."""
    kill_engine(chaos)
    for _ in range(50):
        steal_port(chaos)
        if chaos._stranger is not None:
            return


def touch(chaos: Chaos) -> None:
    """Write what is there already: nothing changes."""
    store = chaos.controller.store
    if store.exists():
        store.write_bytes(store.read_bytes())


def unknown_model_and_back(chaos: Chaos) -> None:
    """A model that the hub does not have; nobody answers there."""
    chaos.controller.serve("org/none", HF_ENDPOINT="http://127.0.0.1:9")
    time.sleep(chaos.random.choice(PAUSE))
    chaos.serve()


def refused_choice_and_another(chaos: Chaos) -> None:
    """An engine that does not know its arguments."""
    cannot_be_served(chaos, REFUSING, "BadArguments")


def hanging_choice_and_another(chaos: Chaos) -> None:
    """An engine that comes to life and never listens."""
    cannot_be_served(chaos, HANGING, "EngineHung")


def cannot_be_served(chaos: Chaos, rude: Mapping[str, object], reason: str) -> None:
    """Choose what fails for good, after something that was ready or after nothing; then something else."""
    chaos.relent()
    chaos.random.choice((edit, clear))(chaos)
    chaos.settles()
    before = chaos.wanted
    chaos.serve(rude=rude)
    if chaos.random.random() < 0.5:
        rotate_key(chaos)
    if chaos.random.random() < 0.5:
        chaos.obstacle, chaos.good = reason, before
        chaos.settles()
        if chaos.random.random() < 0.5:
            rotate_key(chaos)
            chaos.settles()
    else:
        time.sleep(chaos.random.choice(PAUSE))
    chaos.serve()


def step_clock(chaos: Chaos) -> None:
    """Set the controller's wall clock to another time, hours ahead or behind."""
    chaos.set_clock(3600.0 * chaos.random.randint(-HOURS, HOURS))


def fill_volume(chaos: Chaos) -> None:
    """No byte is left on the volume for a while."""
    limits = os.statvfs(chaos.root / "data")
    size = limits.f_bavail * limits.f_frsize
    filler = chaos.root / "data" / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        file.write(bytes(size + (1 << 20)))
    delete_key(chaos)
    kill_engine(chaos)
    time.sleep(MOMENT)
    filler.unlink()


def write_protect_volume(chaos: Chaos) -> None:
    """The volume can only be read for a while."""
    data = str(chaos.root / "data")
    subprocess.run(("mount", "-o", "remount,ro", data), check=False, stderr=subprocess.DEVNULL)
    kill_engine(chaos)
    time.sleep(MOMENT)
    mount("-o", "remount,rw", data)


ACTS: tuple[Callable[[Chaos], None], ...] = (
    *(edit, edit, edit, edit_in_place, edit_often, clear, delete_store, break_store_and_mend_it, touch),
    *(delete_key, rotate_key, break_key_and_mend_it),
    *(kill_engine, kill_engine, kill_member, stop_engine_for_a_moment, stop_controller_for_a_moment),
    *(kill_guardian, kill_controller, restart_controller, hang_up, second_controller),
    *(steal_port, steal_port_of_the_next, unknown_model_and_back, fill_volume, write_protect_volume),
    *(refused_choice_and_another, hanging_choice_and_another, step_clock),
)
REPLACING = (kill_controller, restart_controller)
ON_VOLUME = (fill_volume, write_protect_volume)
"""What needs `Chaos.mounted`."""
RUDE = (refused_choice_and_another, hanging_choice_and_another)
"""What needs the rude fake engine."""
