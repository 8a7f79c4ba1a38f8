"""A real controller in a child process, with directories of its own and the rude fake engine unless told otherwise."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support import hub_cache
from support.rude import COMMAND, free_port
from support.wait import LIMIT, wait_for
from vllm_fsm.adapters import procfs

HOST = Path(__file__).with_name("controller_host.py")


class Controller:
    """One `vllm-fsm run`, its files, and what it says."""

    def __init__(
        self,
        root: Path,
        *flags: str,
        engine: Sequence[str] = COMMAND,
        port: int | None = None,
        environment: dict[str, str] | None = None,
        overrides: dict[str, Any] | None = None,
        prefix: Sequence[str] = (),
        read: bool = True,
    ) -> None:
        self.data, self.public, self.run_dir = root / "data", root / "public", root / "run"
        for directory in (self.data, self.public):
            directory.mkdir(parents=True, exist_ok=True)
        if not (self.data / "models").exists():
            hub_cache.keep(self.data / "models", "tiny")
        self.port = port or free_port()
        self.engine = tuple(engine)
        self.flags = flags
        self.environment = environment or {}
        self.overrides = overrides or {}
        self.read_log = read
        self.prefix = tuple(prefix)
        """What starts the controller, such as `unshare`."""
        self.lines: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.raw: list[str] = []
        self.process: subprocess.Popen[str] | None = None
        self.sessions: dict[int, int | None] = {}
        """Those of the engines, and when their leaders started; None for one that had ended already."""

    # --- life ----------------------------------------------------------------------------------------------------

    def start(self) -> Controller:
        """Start the process; it need not come far."""
        command = [*self.prefix, sys.executable, str(HOST), json.dumps(self.overrides), "run", "--data", str(self.data)]
        command += ["--public", str(self.public), "--run-dir", str(self.run_dir), "--port", str(self.port)]
        command += ["--host", "127.0.0.1", "--engine", shlex.join(self.engine), "--log-format", "json", *self.flags]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            env={**os.environ, **self.environment},
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self.reader.start()
        return self

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            if not self.read_log:
                process.wait()
            for line in process.stdout:
                now = time.monotonic()
                self.raw.append(line)
                try:
                    fields = json.loads(line)
                except ValueError:
                    fields = {"event": "not-json", "line": line}
                if fields.get("event") == "engine-started":
                    leader = procfs.read(fields["pid"])
                    self.sessions[fields["pid"]] = leader.start if leader is not None else None
                self.lines.append(fields)
                self.times.append(now)

    def signal(self, number: int) -> Controller:
        assert self.process is not None
        self.process.send_signal(number)
        return self

    def ends(self, timeout: float = LIMIT) -> int:
        """Wait for the end and return the exit code."""
        assert self.process is not None
        code = self.process.wait(timeout)
        self.reader.join(LIMIT)
        return code

    def stop(self, timeout: float = LIMIT) -> int:
        return self.signal(signal.SIGTERM).ends(timeout)

    def __enter__(self) -> Controller:
        return self if self.process else self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        self.ends()
        wait_for(lambda: not self.left(), what=f"nothing is left of the engine: {self.left()}")

    def left(self) -> list[str]:
        """What is left of any engine of ours, in words."""
        return [f"{process.name} {process.pid}" for process in self._left()]

    def pids_left(self) -> list[int]:
        """The processes that are left of any engine of ours."""
        return [process.pid for process in self._left()]

    def _left(self) -> list[procfs.Process]:
        mark = str(self.data).encode()
        found = []
        processes = procfs.processes()
        for process in processes:
            # A number that was given anew is no session of ours any more.
            if process.pid in self.sessions and process.start != self.sessions[process.pid]:
                del self.sessions[process.pid]
        for process in processes:
            if process.gone:
                continue
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
                if (mark in line and b"\0serve\0" in line) or process.session in self.sessions:
                    found.append(process)
        return found

    # --- files ---------------------------------------------------------------------------------------------------

    @property
    def store(self) -> Path:
        return self.data / "store.json"

    @property
    def credentials(self) -> Path:
        return self.public / "credentials.json"

    @property
    def key(self) -> str:
        return str(json.loads(self.credentials.read_text())["apiKey"])

    def serve(self, *arguments: str, **environment: object) -> Controller:
        """Write the store, by rename."""
        content = {
            "serveArgs": list(arguments),
            "serveEnv": [{"name": name, "value": str(value)} for name, value in environment.items()],
        }
        temporary = self.store.with_name("store.json.new")
        temporary.write_text(json.dumps(content))
        temporary.rename(self.store)
        return self

    # --- what it says --------------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        try:
            document: dict[str, Any] = json.loads((self.run_dir / "health.json").read_text())
        except (FileNotFoundError, ValueError):
            return {"state": None, "message": "", "reason": None}
        return document

    def until(
        self, state: str, timeout: float = LIMIT, *, also: Callable[[dict[str, Any]], bool] | None = None
    ) -> dict[str, Any]:
        """Wait until the health file shows `state` (and `also` holds) and return it."""

        def there() -> dict[str, Any] | None:
            health = self.health()
            return health if health["state"] == state and (also is None or also(health)) else None

        try:
            return wait_for(there, timeout, state)
        except AssertionError:
            raise AssertionError(f"no {state}: {self.health()}\n" + "".join(self.raw[-40:])) from None

    def ready(self, start: int | None = None, timeout: float = LIMIT) -> dict[str, Any]:
        """Wait for Ready, of start number `start` if given, and for the line about it, which may come later."""
        health = self.until("Ready", timeout, also=lambda h: start is None or h["attempt"] == start)
        if self.read_log:
            self.says("transition", to="Ready", attempt=health["attempt"])
        return health

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == name]

    def says(self, name: str, timeout: float = LIMIT, **fields: Any) -> dict[str, Any]:
        """Wait for a log line with these fields and return it."""

        def said() -> dict[str, Any] | None:
            for line in self.events(name):
                if all(line.get(key) == value for key, value in fields.items()):
                    return line
            return None

        try:
            return wait_for(said, timeout, f"a line {name} {fields}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n" + "".join(self.raw[-40:])) from None

    def path(self) -> list[str]:
        """The states it went through, by its log, which may lag behind the health file."""

        def all_said() -> bool:
            said = self.events("transition")
            return (said[-1]["to"] if said else "NoModel") == self.health()["state"]

        wait_for(all_said, what="the line about the state")
        return [line["to"] for line in self.events("transition")]
