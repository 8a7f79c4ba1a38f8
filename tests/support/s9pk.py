"""The StartOS package: built as a packer builds it, and run as StartOS runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from support import hub_cache, real_vllm, rude, tiny_model

PROJECT = Path(__file__).parents[2]
SOURCE = PROJECT / "s9pk"
VARIANTS = ("nvidia", "rocm", "cpu")
HARNESS = PROJECT / "tests" / "package" / "startos" / "s9harness.py"
SCENARIOS = PROJECT / "tests" / "package" / "scenarios"


NODE = 20
PATIENCE = 600.0
"""Seconds for a step of the build, or for a life: some ten times what it takes on two cores that do nothing else."""
PLAY = """
mount -t tmpfs tmpfs /mnt
mkdir /mnt/lower /mnt/upper /mnt/work /mnt/merged
mount -t overlay overlay -o lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work /mnt/merged
ip link set lo up
"""
"""What the stub of StartOS does first, in namespaces of its own."""


def without_node() -> str | None:
    """Say what is missing of the tools that build the package, if anything is."""
    missing = [name for name in ("node", "npm", "npx", "make") if shutil.which(name) is None]
    if missing:
        return f"there is no {' and no '.join(missing)} on PATH"
    version = subprocess.run(("node", "--version"), capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < NODE:
        return f"Node {NODE} or newer is needed, and this is {version}"
    return None


def without_namespaces() -> str | None:
    """Say what is missing of root's means to play StartOS, if anything is."""
    if os.geteuid() != 0:
        return "root is needed, for namespaces and mounts"
    unshare = ("unshare", "-m", "-n", "-p", "-f", "--mount-proc", "--propagation", "private", "sh", "-ec", PLAY)
    try:
        done = subprocess.run(unshare, capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError:
        return "there is no unshare on PATH"
    if done.returncode != 0:
        return f"namespaces and overlays cannot be made ({' '.join(done.stderr.split())})"
    return None


def call(*command: str, **environment: str) -> str:
    """Run a command in the package's directory; return what it prints."""
    done = subprocess.run(
        command, cwd=SOURCE, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def make(target: str, **variables: str) -> str:
    """Make `target` of the package's Makefile."""
    return call("make", "--no-print-directory", target, *(f"{name}={value}" for name, value in variables.items()))


def bundle(variant: str, directory: Path) -> subprocess.Popen[str]:
    """Begin to bundle a variant into `directory/javascript`."""
    command = ("node", "node_modules/.bin/ncc", "build", "startos/index.ts", "-o", str(directory / "javascript"))
    return subprocess.Popen(
        command,
        cwd=SOURCE,
        env=os.environ | {"VARIANT": variant},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def manifest(directory: Path, variant: str) -> dict[str, Any]:
    """Return the manifest that a packer reads of the bundle there."""
    program = "process.stdout.write(JSON.stringify(require(process.argv[1]).manifest))"
    read: dict[str, Any] = json.loads(
        call("node", "-e", program, str(directory / "javascript" / "index.js"), VARIANT=variant)
    )
    return read


def image(root: Path, shebang: str | None = None) -> Path:
    """Make what an image holds: the rude fake engine as `vllm`, on the interpreter that has the real one."""
    script = root / "usr" / "local" / "bin" / "vllm"
    script.parent.mkdir(parents=True)
    first = shebang or f"#!{real_vllm.python()[0]} -IS"
    script.write_text(first + "\n" + rude.SCRIPT.read_text().partition("\n")[2])
    script.chmod(0o755)
    return script


def daemon(assets: Path, data: Path, public: Path, port: int | str) -> tuple[str, ...]:
    """Return the command of the package's daemon, with directories and a port of a test."""
    own = str(data / ".vllm-fsm")
    directories = ("--data", str(data), "--public", str(public), "--run-dir", own, "--state-dir", own)
    return ("sh", str(assets / "vllm-fsm"), "run", *directories, "--host", "127.0.0.1", "--port", str(port))


def ready(own: Path) -> dict[str, Any] | None:
    """Return the report in the controller's directory `own`, if it is Ready."""
    try:
        report: dict[str, Any] = json.loads((own / "health.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return report if report["state"] == "Ready" else None


class StartOS:
    """One installation: volumes that outlive a run of the runtime, and the image.

    `real`: its engine is the real vLLM, with a tiny model on the volume; else the rude fake.
    """

    def __init__(self, package: Path, root: Path, *, real: bool = False) -> None:
        self.package = package
        self.root = root
        self.volumes, self.backups, self.image = root / "volumes", root / "backups", root / "image"
        script = image(self.image)
        if real:
            shutil.copy(real_vllm.command(), script)
            tiny_model.make(self.volumes / "main" / "tiny-model")
        hub_cache.keep(self.volumes / "main" / "models", "tiny")

    def live(
        self, scenario: str, *, locale: str = "C.UTF-8", words: Iterable[str] = (), limit: float = PATIENCE
    ) -> dict[str, Any]:
        """Run a scenario from `scenarios/` with `words`, for `limit` seconds at most; return what it found out."""
        found = self.root / f"{scenario}.json"
        transcript = self.root / f"{scenario}.jsonl"
        command = [sys.executable, str(HARNESS), "--package", str(self.package), "--volumes", str(self.volumes)]
        command += ["--image", f"vllm={self.image}", "--backup-dir", str(self.backups), "--out", str(transcript)]
        command += [f"--bind={directory}" for directory in self._interpreter()]
        command += ["--quiet", "--scenario", str(SCENARIOS / f"{scenario}.py"), str(found), *words]
        done = subprocess.run(
            command, env=os.environ | {"LANG": locale}, capture_output=True, text=True, check=False, timeout=limit
        )
        if done.returncode != 0:
            logged = [json.loads(line) for line in transcript.read_text().splitlines()] if transcript.exists() else []
            log = "\n".join(str(event) for event in logged if event["type"] in ("log", "effect-error", "host"))
            raise AssertionError(f"{scenario}: {log[-6000:]}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        facts: dict[str, Any] = json.loads(found.read_text())
        return facts

    @staticmethod
    def _interpreter() -> list[str]:
        """Where the engine's interpreter and its packages are, which may lie on mounts of their own."""
        python = Path(real_vllm.python()[0])
        return list(dict.fromkeys((str(python.parents[1]), str(python.resolve().parents[1]))))


def installed(directory: Path, build: Path) -> Path:
    """Put the built package together as it is packed."""
    shutil.copytree(build / "javascript", directory / "javascript")
    shutil.copytree(SOURCE / "assets", directory / "assets")
    return directory
