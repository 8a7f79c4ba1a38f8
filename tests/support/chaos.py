"""Random acts on a real controller with the rude fake engine, and a look at everything after each of them.

What must come of an act follows from the files, from the hub, and from what was ready before: `Chaos.missing`. Whatever
happened, it must come within `SETTLE` seconds, with one engine or none, no orphan, no zombie, the key as the file has
it, a log without gaps, times by the clock as it is set now, and no file of the model cache taken for whole that is not.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from statistics import median_low
from typing import Any

from support import chaos_acts, hub_acts
from support.chaos_acts import MOMENT, PAUSE, Act
from support.chaos_hub import TOKEN, WRONG_TOKEN, ChaosHub
from support.controller import Controller
from support.obstacle import Choice, Obstacle
from support.volume import mount
from support.wait import LIMIT, wait_for
from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.process.reaper import INTERVAL

SETTLE = 30.0
"""Seconds within which everything is as the files ask, on a busy machine too."""
NOTICED = 0.4
"""Seconds after which an edit is noticed, on a busy machine too."""
INEXACT = 30.0
"""Seconds by which a time may be off on a busy machine. The clock is set by hours."""
AGED = 100_000
"""Names that come and go in a controller before its life, if what it holds is compared over time."""
LOOKS = 9
"""Looks at what a controller holds, a moment apart."""
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
    "download_tries": 3,
}
"""As usual, but quick, and never tired: a chaos of hours is one of minutes here."""
IMPATIENT = {"pulse": 0.2, "silence": 2.0}
"""A start of the fake engine takes far less, on a busy machine too; a real one may be silent for longer."""
PACE = {"health_every": 0.2, "step_every": 1.0, "canary_limit": 5.0, "canary_idle": 1.0}

STALL, STALL_OF_A_REAL_ENGINE = "3s", "8s"
"""Without a byte for so long, an attempt is given up; importing what it needs takes longer beside a real engine."""
SPARE = 1 << 20
"""Bytes that a download leaves free."""

OFTEN = 3
"""Acts that take no download come up so many times as often as the others, which take longer."""
ACTS: tuple[Act, ...] = (*chaos_acts.ACTS * OFTEN, *hub_acts.ACTS)


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
    cycles: int = 0
    """In so many cycles each act is done at least once, if it finds something to act upon; 0: that may take longer."""
    acts: Counter[str] = field(default_factory=Counter)
    """How often each was done; what found nothing to act upon does not count."""
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
        self.hub = ChaosHub(self.root / "hub", random.Random(self.seed), whole=bool(self.engine))
        self.controller = self._new()
        self.wanted: Choice | None = None
        """What the store asks for; None: nothing."""
        self.obstacle: Obstacle | None = None
        """What stands in the way of that."""
        self.key = ""
        self.keys: set[str] = set()
        """Those that were in force in this cycle, and the tokens."""
        self.cycle = 0
        self.history: list[str] = []
        self._deal = random.Random(self.seed)
        """Deals the acts; what they draw themselves shifts nothing here."""
        self._untried = list(dict.fromkeys(self._acts))
        """Acts that come before any is chosen by chance."""
        self._deal.shuffle(self._untried)
        self._in_vain: list[Act] = []
        """Acts that found nothing to act upon, and come again besides those that are dealt."""
        self._outlasted = False
        """The obstacle was there at the end of the last cycle."""
        self.stranger: socket.socket | None = None
        """Who has the port."""
        self._told = "NoModel"
        """The state that the log came to."""
        self._told_at = time.monotonic()
        """When."""

    @property
    def _acts(self) -> tuple[Act, ...]:
        left_out: list[Act] = []
        left_out += (*chaos_acts.REPLACING, *hub_acts.REPLACING) if self.lasting else ()
        left_out += () if self.mounted else (*chaos_acts.ON_VOLUME, *hub_acts.ON_VOLUME)
        left_out += chaos_acts.RUDE if self.engine else ()
        return tuple(act for act in ACTS if act not in left_out)

    @property
    def left(self) -> tuple[str, ...]:
        """The acts that have not come up."""
        return tuple(dict.fromkeys(act.__name__ for act in self._acts if not self.acts[act.__name__]))

    def _new(self) -> Controller:
        options: dict[str, Any] = {"engine": self.engine} if self.engine else {}
        flags = ["--stop-timeout", "1s", "--stall-timeout", STALL_OF_A_REAL_ENGINE if self.engine else STALL]
        if self.fallback:
            flags += ["--fallback", "last-good"]
        settings = SETTINGS if self.engine else SETTINGS | IMPATIENT
        overrides = {"settings": settings, "pace": PACE, "wall": str(self._wall), "spare": SPARE}
        overrides |= {"aged": AGED} if self.lasting else {}
        return Controller(self.root, *flags, overrides=overrides, environment={"HF_ENDPOINT": self.hub.url}, **options)

    def __enter__(self) -> Chaos:
        self.hub.start()
        self.controller.start()
        self.controller.until("NoModel", self.settle)
        self.note_key()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.free_port()
        try:
            self.controller.__exit__(kind)
        finally:
            self.hub.__exit__()
            if self.mounted:
                subprocess.run(("umount", "--lazy", str(self.root / "data")), check=True)
            shutil.rmtree(self.root, ignore_errors=True)

    # --- one cycle -----------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Do some acts, each kind once before any comes again, then see that all is as it must be."""
        self.cycle += 1
        self.history = []
        self.keys = {self.key, TOKEN, WRONG_TOKEN}
        del self._offsets[:-1]
        for number, act in enumerate(self._dealt()):
            self.random = random.Random(f"{self.seed} {self.cycle} {number}")
            self._do(act)
            time.sleep(self.random.choice(PAUSE))
        began = time.monotonic()
        self._end_what_hinders(outlasts=self._deal.random() < 0.5)
        self.settles()
        self.times.append(time.monotonic() - began)
        self._look()

    def _dealt(self) -> list[Act]:
        """Take one to three acts, or as many as it takes.

        With a real engine, those that begin when all has settled come first: it takes its time to settle.
        """
        count = self._deal.choice((1, 1, 2, 3))
        left = self.cycles - self.cycle + 1
        if left > 0:
            count = max(count, -(-len(self._untried) // left))
        dealt = [self._untried.pop() if self._untried else self._deal.choice(self._acts) for _ in range(count)]
        if self.engine:
            dealt.sort(key=lambda act: act not in hub_acts.SETTLED)
        again = [act for act in dict.fromkeys(self._in_vain) if not self.acts[act.__name__]] if self.cycles else []
        self._in_vain.clear()
        return dealt + again

    def _do(self, act: Act) -> None:
        self.history.append(act.__name__)
        self.note_key()
        self._expect_less(act)
        try:
            found = act(self)
        except Unsettled:
            raise
        except AssertionError as error:
            raise Unsettled(f"{self}: {error}\n{self._tail()}") from error
        if found is False:
            self._in_vain.append(act)
        else:
            self.acts[act.__name__] += 1

    def _expect_less(self, act: Act) -> None:
        """See what `act` means to an obstacle that is there."""
        if self.obstacle is None or act in chaos_acts.BESIDE:
            return
        if act in chaos_acts.REPLACING or (act in chaos_acts.ANEW and self.stranger is not None):
            self.obstacle = replace(self.obstacle, sure=False)
        elif act not in chaos_acts.ANEW:
            self.relent()

    def _end_what_hinders(self, *, outlasts: bool) -> None:
        """At the end of a cycle: all of it, or all but an obstacle that `outlasts` it, for one cycle more."""
        if self.obstacle is not None and outlasts and not self._outlasted:
            self._outlasted = True
            self.free_port()
        else:
            self.relent()

    def __str__(self) -> str:
        return f"seed {self.seed}, cycle {self.cycle}, {' + '.join(self.history)}"

    def relent(self) -> None:
        """End what only hinders: the stranger on the port, and the faults of the hub."""
        self.free_port()
        self.hub.relent()
        if self.obstacle is not None:
            assert self.wanted is not None
            if not self.obstacle.passing:  # nobody looks again by himself
                model = self.model
                if model is not None:
                    self.hub.change(model)
                self.serve(model=model, anew=True)
        self.obstacle = None
        self._outlasted = False

    def free_port(self) -> None:
        """Send the stranger away."""
        if self.stranger is not None:
            self.stranger.close()
            self.stranger = None

    @property
    def model(self) -> str | None:
        """The hub's model that is wanted; None: another one, or nothing."""
        name = self.wanted[0][0] if self.wanted is not None else ""
        return name if name.startswith("org/") else None

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
        obstacle = self.obstacle
        serving = self.wanted if obstacle is None else obstacle.instead
        if obstacle is not None and not obstacle.sure and health["state"] != "Ready":
            serving = None
        if not (self._serves(health, serving) if serving is not None else self._waits(health)):
            return f"{self.wanted} is wanted ({obstacle or 'can be served'}), {health} is"
        if not self.note_key():
            return "there is no key"
        if len(self.fetchers()) > (obstacle is not None and obstacle.passing):
            return f"downloads: {self.fetchers()}"
        sessions = {found.session for pid in self.controller.pids_left() if (found := procfs.read(pid)) is not None}
        engine = {health["pid"]} if serving is not None else set()
        # A daemon of the engine at hand has a session of its own.
        daemons = 1 if serving is not None and "RUDE_DAEMON" in serving[1] else 0
        if not engine <= sessions or len(sessions) > len(engine) + daemons:
            return f"one engine or none: there are sessions {sessions}, health says {engine}"
        return self._unkeyed(health["pid"]) if serving is not None else None

    def _serves(self, health: dict[str, Any], choice: Choice) -> bool:
        """Whether health says so, and why it is not what is wanted."""
        arguments, variables = choice
        active = health.get("active") or {}
        fallback = self.obstacle is not None and self.obstacle.fallback
        unsure = self.obstacle is not None and not self.obstacle.sure
        return (
            health["state"] == "Ready"
            and tuple(active.get("arguments", ())) == arguments
            and set(active.get("environment", ())) == set(variables)
            and (health["fallback"] is fallback or unsure)
            and self._explained(health)
            and not health["warnings"]
        )

    def _waits(self, health: dict[str, Any]) -> bool:
        """Whether health says that nothing serves, why, and whether it is tried again."""
        if health.get("engine") != "Absent" or not self._explained(health):
            return False
        if self.wanted is None:
            return health["state"] == "NoModel"
        assert self.obstacle is not None
        if not self.obstacle.passing:
            return health["state"] == "Failed" and health["nextTry"] is None
        return health["state"] == "Downloading" or (health["state"] == "Failed" and health["nextTry"] is not None)

    def _explained(self, health: dict[str, Any]) -> bool:
        if self.obstacle is None:
            return health["reason"] is None
        return health["reason"] in self.obstacle.reasons

    def fetchers(self) -> list[int]:
        """The children that fetch for a controller of ours."""
        mark = f"HF_HUB_CACHE={self.models}".encode()
        return [
            process.pid
            for process in procfs.processes()
            if not process.gone
            and procfs.cmdline(process.pid).endswith(b"/fetcher.py\0")
            and mark in procfs.environ(process.pid).split(b"\0")
        ]

    @property
    def models(self) -> Path:
        """The model cache."""
        return self.controller.data / "models"

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
        self.must(not wait_gone(zombies), f"zombies: {zombies}")
        wrong = self.hub.wrong_in(self.models, self.model if self.obstacle is None else None)
        self.must(wrong is None, str(wrong))
        log = "".join(controller.raw)
        for key in self.keys:
            self.must(key not in log, "a key or a token is in the log")
        try:
            wait_for(self._timely, what="times by the clock as it is")
        except Unsettled:
            raise
        except AssertionError:
            self.must(False, f"times by a clock that is {self._offsets[-1]:g} s ahead: {controller.health()}")

    def _read_log(self) -> None:
        """See that each transition of a life begins where the last one ended; then forget what was read.

        More may be said meanwhile: what was not read stays.
        """
        controller = self.controller
        count = len(controller.times)  # the last of the three that a line is added to
        for line, at in zip(controller.lines[:count], controller.times, strict=False):
            self.must(line["event"] != "bug", f"a bug of ours: {line}")
            self.must(line["event"] != "not-json", f"no JSON in the log: {line}")
            said = moment(line["time"]) - (time.time() - time.monotonic() + at)
            self.must(any(abs(said - offset) < INEXACT for offset in self._offsets), f"not the time: {line}")
            if line["event"] == "started":
                self._told, self._told_at = "NoModel", at
            elif line["event"] == "transition":
                self.must(line["from"] == self._told, f"a transition is missing before {line}")
                self.must(abs(line["lasted"] - (at - self._told_at)) < INEXACT, f"it did not last so long: {line}")
                self._told, self._told_at = line["to"], at
        for said in (controller.lines, controller.raw, controller.times):
            del said[:count]

    def _timely(self) -> bool:
        """Whether the health file says by the clock as it is set now since when the state lasts."""
        self._read_log()
        lasted = time.time() + self._offsets[-1] - moment(self.controller.health()["since"])
        return abs(lasted - (time.monotonic() - self._told_at)) < INEXACT

    def must(self, holds: bool, promise: str) -> None:
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

    def serve(
        self,
        *,
        model: str | None = None,
        also: tuple[str, ...] = (),
        rude: Mapping[str, object] | None = None,
        in_place: bool = False,
        anew: bool = False,
    ) -> None:
        """Choose arguments: with the model that is always in the cache or the hub's `model`, and what comes `also`.

        `anew`: not the same ones again.
        """
        first = self.arguments if model is None else (model, *self.arguments[1:])
        lengths = [(*first, "--max-model-len", length, *also) for length in ("128", "192", "256")]
        if anew and self.wanted is not None and self.wanted[0] in lengths:
            lengths.remove(self.wanted[0])
        arguments = self.random.choice(lengths)
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

    def strike(self, pid: int | None, number: int) -> bool:
        """Send a signal; return whether there was somebody to get it."""
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                return True
        return False

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
