"""A controller with the real vLLM, and what tests look at from outside: requests, processes, shared memory."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.controller import Controller
from support.tiny_model import make
from support.wait import LIMIT, wait_for
from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.procfs import Process

START = 180.0
"""Seconds that a start may take: 25 to 35 on two idle cores, several times that on busy ones."""
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
PLAIN = ("--dtype", "float32", "--enforce-eager", "--served-model-name", "tiny")


def command() -> str:
    """The vllm command that the tests run."""
    named = os.environ.get("VLLM_FSM_TEST_VLLM", "")
    if not os.path.isfile(named) or not os.access(named, os.X_OK):
        pytest.fail(
            f"VLLM_FSM_TEST_VLLM must be the path of a vllm command, not {named!r}: run `make engine`, which sets it "
            "and installs the CPU build if need be",
            pytrace=False,
        )
    return os.path.abspath(named)


def python() -> list[str]:
    """How to run the interpreter that has vLLM: the one beside the command, else what its first line names."""
    beside = Path(command()).with_name("python")
    if beside.exists():
        return [str(beside)]
    with open(command(), encoding="utf-8") as script:
        return shlex.split(script.readline().removeprefix("#!"))


def run_python(script: Path, *arguments: str, given: object = None) -> str:
    """Run a script by the interpreter that has vLLM, with `given` as JSON on its input; return what it prints."""
    done = subprocess.run(
        [*python(), str(script), *arguments],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "VLLM_LOGGING_LEVEL": "CRITICAL"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def parse(lines: list[list[str]]) -> dict[str, Any]:
    """Return what vLLM's own parser makes of command lines; see `real_parser.py`. One process: importing takes 10 s."""
    answer: dict[str, Any] = json.loads(run_python(Path(__file__).with_name("real_parser.py"), given=lines))
    return answer


class Service(Controller):
    """A controller with the real vLLM and a tiny model, in a directory of its own with a short path.

    `start`: another command line that starts it.
    """

    def __init__(self, *flags: str, start: Sequence[str] = (), **options: Any) -> None:
        engine = tuple(start) or (command(),)
        self.root = Path(tempfile.mkdtemp(prefix="vf"))
        self.model = str(make(self.root / "tiny-model"))
        super().__init__(self.root, *flags, engine=engine, **options)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        shutil.rmtree(self.root)

    def again(self, **overrides: Any) -> None:
        """Start the next controller over what the last one left, with other overrides; what was said is forgotten."""
        assert self.ended
        self.overrides = overrides
        self.lines, self.times, self.raw = [], [], []
        self.start()
        self.says("started")

    # --- files and states --------------------------------------------------------------------------------------------

    def wish(self, length: int, *arguments: str) -> None:
        """Ask for the tiny model with a context of `length` tokens."""
        self.serve(self.model, *PLAIN, "--max-model-len", str(length), *arguments, **ENVIRONMENT)

    def comes_up(self, after: int) -> dict[str, Any]:
        """Wait until an engine start later than number `after` is Ready; a verdict of Failed ends the waiting."""

        def settled() -> dict[str, Any] | None:
            health = self.health()
            over = health["state"] in ("Ready", "Failed") and health["attempt"] > after
            return health if over or self.ended else None

        health = wait_for(settled, START, f"Ready after start {after}: {self.health()}\n{self.last_lines()}")
        assert health["state"] == "Ready", f"{health}\n{self.last_lines()}"
        self.says("transition", to="Ready", attempt=health["attempt"])  # the log may lag behind the health file
        return health

    @property
    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def last_lines(self) -> str:
        return "".join(self.raw[-60:])

    def started(self, attempt: int, within: float = LIMIT) -> dict[str, Any]:
        """Wait until the controller says that engine start number `attempt` was executed."""
        return self.says("engine-started", within, attempt=attempt)

    def own_files(self) -> Iterator[Path]:
        """Every regular file below the run directory and the state directory."""
        for folder in (self.run_dir, self.data / ".vllm-fsm"):
            yield from (path for path in folder.rglob("*") if path.is_file())

    def marks(self) -> list[Path]:
        return [*self.run_dir.glob("engine-*.mark"), *(self.data / ".vllm-fsm").glob("engine-*.mark")]

    def scratch(self) -> list[str]:
        """The TMPDIRs that exist."""
        return [str(path) for path in self.run_dir.glob("t/*")]

    # --- requests ----------------------------------------------------------------------------------------------------

    def ask(self, path: str, key: str | None = None, body: object = None, timeout: float = 60.0) -> tuple[int, Any]:
        """One request; the status and the JSON of the answer, or its text."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)) as connection:
            if body is None:
                connection.request("GET", path, headers=headers)
            else:
                connection.request(
                    "POST", path, json.dumps(body).encode(), headers | {"Content-Type": "application/json"}
                )
            with connection.getresponse() as response:
                text = response.read().decode()
                status = response.status
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def length(self) -> int:
        """The context length that the running engine names."""
        status, answer = self.ask("/v1/models", self.key)
        assert status == 200
        (card,) = answer["data"]
        assert card["id"] == "tiny"
        return int(card["max_model_len"])

    def generates(self) -> None:
        """See that a completion through the key has tokens in it."""
        status, answer = self.ask(
            "/v1/completions", self.key, {"model": "tiny", "prompt": "Hello", "max_tokens": 8, "ignore_eos": True}
        )
        assert status == 200
        assert answer["usage"]["completion_tokens"] == 8

    # --- processes ---------------------------------------------------------------------------------------------------

    def family(self) -> dict[str, Process]:
        """The four processes of the running engine, by what they are."""
        leader = self.health()["pid"]
        found = {"leader": procfs.read(leader)}
        for process in procfs.processes():
            if process.session != leader or process.pid == leader:
                continue
            if process.name.startswith("VLLM::EngineCor"):
                found["core"] = process
            elif process.name.startswith("VLLM::Worker"):
                found["worker"] = process
            elif b"resource_tracker" in procfs.cmdline(process.pid):
                found["tracker"] = process
        assert set(found) == {"leader", "core", "worker", "tracker"}, found
        return found

    def ours(self) -> list[Process]:
        """Every process of any engine that this controller started, in both of its lives."""
        return [process for process in procfs.processes() if process.session in self.sessions and not process.gone]

    def guardian(self) -> Process:
        """The controller's process that ends the engine after the controller's violent end."""
        assert self.process is not None
        (found,) = (
            process
            for process in procfs.processes()
            if process.parent == self.process.pid and b"guardian" in procfs.cmdline(process.pid)
        )
        return found


def runs(process: Process) -> bool:
    """Whether exactly this process still runs."""
    now = procfs.read(process.pid)
    return now is not None and now.start == process.start and not now.gone


def shared_memory(*processes: Process) -> set[str]:
    """The files in /dev/shm that these processes map.

    Found by inode: whoever makes a semaphore maps it under a first name, which is gone once it has its own.
    """
    inodes = set()
    for process in processes:
        for line in procfs.maps(process.pid):
            # address permissions offset device inode path
            fields = line.decode().rstrip().split(None, 5)
            if fields[-1].startswith("/dev/shm/"):
                inodes.add(int(fields[4]))
    return {entry.path for entry in os.scandir("/dev/shm") if entry.inode() in inodes}


class Census:
    """Counts, many times a second, how many engines of a controller live at once."""

    STEP = 0.02

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._seen: list[frozenset[int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)

    def __enter__(self) -> Census:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _count(self) -> None:
        while not self._stop.wait(self.STEP):
            self._look()

    def _look(self) -> None:
        self._seen.append(frozenset(p.session for p in procfs.processes() if not p.gone))

    @property
    def engines(self) -> list[set[int]]:
        """The engines that lived at each look, without repetitions. A session's number is known once it was logged."""
        ours = set(self._controller.sessions)
        looks: list[set[int]] = []
        for seen in self._seen:
            if not looks or looks[-1] != seen & ours:
                looks.append(set(seen & ours))
        return looks


def refused(port: int) -> bool:
    """Whether nobody listens on the port."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)) as connection:
        try:
            connection.connect()
        except ConnectionRefusedError:
            return True
    return False
