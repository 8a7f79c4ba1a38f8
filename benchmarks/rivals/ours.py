"""Ours, as it is installed: nothing set but where things are, and the grace that all have."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

from rig import Renames

import vllm_fsm
from rivals.place import LIMIT, Place
from rivals.said import Said
from rivals.supervisor import GRACE, Supervisor
from support.hub_cache import keep


class Ours(Supervisor):
    """`vllm-fsm run`. Ready is `success` in its health file."""

    name = "vllm-fsm"
    how = f"`vllm-fsm run --stop-timeout {GRACE}s`; follows the file itself; ready is `success` in `health.json`"
    readiness = "a proof that the listener is its own engine and generates"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.run_dir = place.root / "run"
        self.run_dir.mkdir()
        self._successes: Said[int] = Said()
        self._renames = Renames(self.run_dir)
        self._open = True
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @classmethod
    def version(cls) -> str:
        """Return the version of the package."""
        return vllm_fsm.__version__

    def begin(self) -> None:
        """Start the command in directories of its own."""
        root = self.place.root
        command = [str(Path(sys.executable).with_name("vllm-fsm")), "run", "--data", str(self.place.data)]
        command += ["--public", str(root / "public"), "--run-dir", str(self.run_dir), "--host", "127.0.0.1"]
        command += ["--port", str(self.place.port), "--engine", " ".join(self.place.server)]
        (root / "public").mkdir(exist_ok=True)
        keep(self.place.data / "models", "tiny")
        self.run(*command, "--stop-timeout", f"{GRACE}s", "--log-format", "json")

    def _watch(self) -> None:
        was = None
        while self._open:
            try:
                seen = self._renames.wait(0.2)
            except TimeoutError:
                continue
            health = json.loads((self.run_dir / "health.json").read_bytes())
            now = health["attempt"] if health["result"] == "success" else None
            if now is not None and now != was:
                self._successes.add(now, seen)
            was = now

    def ready(self, since: float, limit: float = LIMIT) -> float | None:
        """Wait for a health file that turns to success."""
        success = self._successes.find(lambda attempt: True, since, limit)
        return success[0] if success else None

    def close(self) -> None:
        """End the watch too."""
        super().close()
        self._open = False
        self._thread.join()
        self._renames.close()
