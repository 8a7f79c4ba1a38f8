"""A service as actions see it: directories, an engine of a known version, a machine, and what the controller says."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import machines, rude
from vllm_fsm import flags
from vllm_fsm.actions.site import Site
from vllm_fsm.config import Config

KNOWN = flags.versions()[-1]
"""The version of vLLM whose flags are known."""
GONE = {"state": None, "reason": "NotRunning"}


@dataclass
class Service:
    """What tests change and look at."""

    root: Path
    machine: str = "rtx4090-rtx3060"
    version: str = KNOWN
    health: dict[str, Any] = field(default_factory=lambda: dict(GONE))
    looked: int = 0
    """How often the hardware was looked at."""

    def __post_init__(self) -> None:
        self.config = Config(
            data=self.root / "data",
            public=self.root / "public",
            run_dir=self.root / "run",
            engine=rude.installed(self.root / "engine", self.version),
        )
        for directory in (self.config.data, self.config.public, self.config.run_dir):
            directory.mkdir()
        self.site = Site(self.config, health=lambda: self.health, detect=self._detect)

    def _detect(self) -> Any:
        self.looked += 1
        return machines.load(self.machine).machine()

    @property
    def store(self) -> Any:
        """The content of the store, None without one."""
        return json.loads(self.config.store.read_text()) if self.config.store.exists() else None

    def put(self, content: object) -> None:
        self.config.store.write_text(content if isinstance(content, str) else json.dumps(content))

    def files(self) -> dict[str, bytes]:
        """Everything that stands in the directories."""
        places = (self.config.data, self.config.public, self.config.run_dir)
        return {str(path): path.read_bytes() for place in places for path in place.rglob("*") if path.is_file()}
