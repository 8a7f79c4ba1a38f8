"""The original's loop: the SDK's `Daemons` in the stand-in for StartOS with which our package is tested."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from figure import ROOT

from rivals import tools
from rivals.place import LIMIT, PARTS, Place
from rivals.supervisor import GRACE, Supervisor

STAND_IN = ROOT / "tests" / "package" / "startos" / "s9harness.py"
STARTS = 3
NEEDED = (ROOT, Path(sys.prefix), Path(sys.executable).resolve().parents[1])


class StartOS(Supervisor):
    """Ready is a health result `success`."""

    name = "SDK loop"
    how = (
        "the original package's loop, rebuilt with start-sdk: `FileHelper` read with `.const()`, which restarts the "
        "service; `Daemons` with `checkPortListening` as readiness, asked 1 s after the start and then every 30 s, so "
        f"that a server that takes longer than a second waits for it; `sigtermTimeout` {GRACE} s. It runs in the "
        "stand-in for StartOS with which our package is tested, not in StartOS, and its figures hold what that adds"
    )
    readiness = "an open port"
    program = "start-sdk"
    alone = True
    contained = "not measured: the stand-in ends all"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        place.move(place.root / "volumes" / "main")

    @classmethod
    def version(cls) -> str:
        """Read it from the package."""
        place = tools.FOLDER / "startos" / "node_modules" / "@start9labs" / "start-sdk" / "package.json"
        return str(json.loads(place.read_text())["version"])

    def begin(self) -> None:
        """Start the stand-in with the built loop inside."""
        root = self.place.root
        (root / "image").mkdir(exist_ok=True)
        command = [sys.executable, str(STAND_IN), "--package", str(tools.FOLDER / "startos")]
        command += ["--volumes", str(root / "volumes"), "--image", f"server={root / 'image'}"]
        # The fifo is another one in an overlay, and an overlay shows nothing of other file systems.
        bound = [root, *(folder for folder in NEEDED if folder.stat().st_dev != Path("/").stat().st_dev)]
        command += [f"--bind={folder}" for folder in bound]
        command += ["--scenario", str(PARTS / "startos_life.py"), str(root), str(PARTS)]
        self.run(*command, COMPARE_SERVER=self.place.server[1])

    def ready(self, since: float, limit: float = LIMIT) -> float | None:
        """Wait for the effect that says it."""
        return self.says(lambda line: '"set-health"' in line and '"result": "success"' in line, since, limit)

    def start(self) -> None:
        """Start it, again if the stand-in was too slow for the SDK, which waits for a container some milliseconds."""
        for _ in range(STARTS):
            try:
                return super().start()
            except TimeoutError:
                if not self.excused(0.0):
                    raise
                self.close()
        raise TimeoutError(f"the stand-in could not start a container {STARTS} times")

    def excused(self, since: float) -> bool:
        """Whether the stand-in was too slow."""
        return self.says(lambda line: "Failed to start subcontainer" in line, since, 0.0) is not None

    @contextlib.contextmanager
    def stranger(self) -> Iterator[None]:
        """Have one inside, where the network is another one."""
        self.environment["COMPARE_STRANGER"] = "1"
        yield

    def own(self) -> list[int]:
        """The runtime's process: the stand-in around it is no part of StartOS."""
        lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in super().own()}
        return [pid for pid, line in lines.items() if os.path.basename(line[0]) == b"node"]

    def end(self) -> None:
        """Stop the service."""
        (self.place.root / "end").touch()
