"""The fake hub of `tests/fakes/hub.py` in a child process, and the repositories it serves."""

import http.client
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from support import tiny_model
from support.wait import wait_for

SCRIPT = Path(__file__).resolve().parent.parent / "fakes" / "hub.py"
COMMAND = (sys.executable, "-S", str(SCRIPT))
HASHING = 60.0
"""Seconds that a hub may take to hash what it is to serve before it listens."""


class FakeHub:
    """`with FakeHub(root) as hub`: serves the repositories below `root` at `hub.url`; ends with the test process.

    `bandwidth`: bytes per second of each connection, 0 for unlimited. `tokens`: the valid ones, and the repositories
    that each may read; without any, every `hf_…` is valid and grants nothing.
    """

    def __init__(
        self,
        root: Path,
        *,
        bandwidth: int = 0,
        cdn: bool = False,
        tokens: Mapping[str, Sequence[str]] = {},
    ) -> None:
        self.root = root
        self.root.mkdir(parents=True, exist_ok=True)
        self._bandwidth = bandwidth
        self._flags = ["--cdn"] if cdn else []
        for token, repos in tokens.items():
            self._flags += ["--token", f"{token}={','.join(repos)}"]
        # Bound and never listening: the port stays ours, and refuses connections, while the hub is down.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind(("127.0.0.1", 0))
        self._address: tuple[str, int] = self._port.getsockname()
        self.url = f"http://127.0.0.1:{self._address[1]}"
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: list[dict[str, Any]] = []
        self._before = 0  # how many of them ended in earlier processes

    # --- life ----------------------------------------------------------------------------------------------------

    def __enter__(self) -> "FakeHub":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._port.close()

    def start(self) -> None:
        """Come up, on the same port every time, without faults; return when it answers."""
        assert self._process is None
        command = [*COMMAND, "--root", str(self.root), "--port", str(self._address[1]), "--until-eof"]
        command += ["--bandwidth", str(self._bandwidth), *self._flags]
        process = self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        wait_for(lambda: process.poll() is not None or self._healthy(), HASHING, "the fake hub listens")
        if process.returncode is not None:
            self._reap(process)
            raise AssertionError(f"the fake hub ended with {process.returncode}; its stderr says why")

    def stop(self) -> None:
        """Go down at once, as if the network had gone; what was asked until now stays known."""
        if self._process is not None:
            if self._process.poll() is None:
                running = [request for request in self.requests() if request.pop("running", False)]
                self._ended += [request | {"aborted": True} for request in running]
            self._before = len(self._ended)
            self._reap(self._process)

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        self._process = None
        process.kill()
        process.communicate()

    def _healthy(self) -> bool:
        try:
            self._ask("GET", "health")
        except ConnectionRefusedError:
            return False
        return True

    # --- control -------------------------------------------------------------------------------------------------

    def faults(self, *rules: Mapping[str, Any]) -> None:
        """Misbehave by these rules from now on; without any, behave."""
        self._ask("POST", "faults", rules)

    def bandwidth(self, bytes_per_second: int) -> None:
        """Change the bandwidth of each connection, also of those that are downloading; 0 is unlimited."""
        self._bandwidth = bytes_per_second
        self._ask("POST", "bandwidth", bytes_per_second)

    def requests(self) -> list[dict[str, Any]]:
        """Return every request since the first start, in order, the running ones too: they have `running`."""
        running = []
        if self._process is not None:
            fresh = self._ask("GET", f"requests?since={len(self._ended) - self._before}")
            self._ended += [request for request in fresh if "running" not in request]
            running = [request for request in fresh if "running" in request]
        return sorted(self._ended + running, key=lambda request: float(request["t"]))

    def over(self) -> list[dict[str, Any]]:
        """Wait until no request is running, and return all: a client may have its answer before the hub has ended."""
        wait_for(lambda: not any("running" in request for request in self.requests()))
        return self.requests()

    def sent(self, path_part: str = "/resolve/") -> int:
        """Sum the bytes of bodies that were sent for every GET with `path_part` in its path."""
        asked = (request for request in self.requests() if request["method"] == "GET")
        return sum(int(request["sent"]) for request in asked if path_part in request["path"])

    def _ask(self, method: str, what: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection(*self._address, timeout=10)
        try:
            connection.request(method, f"/_fake/{what}", json.dumps(body))
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        assert response.status == 200, content.decode()
        return json.loads(content)

    # --- repositories --------------------------------------------------------------------------------------------

    def repo(
        self,
        repo_id: str,
        *,
        size_mb: int = 0,
        shards: int = 1,
        seed: int = 0,
        files: Mapping[str, bytes] = {},
        **meta: Any,
    ) -> Path:
        """Make the repository: a tiny model, `files` beside it, and `meta` as its `.hub.json`; return its folder.

        Made anew, only what differs changes, one file after the other: a client may see it between two of them.
        """
        folder = self.root / repo_id
        wanted = {folder / name: content for name, content in {**_model(size_mb, shards, seed), **files}.items()}
        wanted |= {folder / ".hub.json": json.dumps(meta).encode()} if meta else {}
        for path in list(folder.rglob("*")):
            if path.is_file() and path not in wanted:
                path.unlink()
        for path, content in wanted.items():
            if not path.exists() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = self.root / ".new"  # where no repository is
                temporary.write_bytes(content)
                temporary.replace(path)
        return folder


@lru_cache(maxsize=2)
def _model(size_mb: int, shards: int, seed: int) -> Mapping[str, bytes]:
    """Return the files of a tiny model; most tests want the same one, and making it takes longer than a hub's start."""
    with tempfile.TemporaryDirectory() as folder:
        made = tiny_model.make(folder, seed=seed, shards=shards, size_mb=size_mb)
        return {path.name: path.read_bytes() for path in made.iterdir()}
