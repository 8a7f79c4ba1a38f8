"""The systemd unit's command in the surroundings that the unit makes, without systemd, which would have to be PID 1."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import hub_cache, unit_file
from support.rude import COMMAND
from support.wait import wait_for
from vllm_fsm import __file__ as package

PREPARE = """
import fcntl, os, socket, struct, subprocess, sys
root, command = sys.argv[1], sys.argv[2:]
def mount(*words):
    subprocess.run(("mount", *words), check=True)
mount("--make-rprivate", "/")
for place in ("/opt", "/var/lib", "/var/cache", "/run"):
    mount("-t", "tmpfs", "none", place)
for source, place in (("opt", "/opt"), ("state", "/var/lib/vllm-fsm"), ("cache", "/var/cache/vllm-fsm"),
                      ("run", "/run/vllm-fsm")):
    os.makedirs(place, exist_ok=True)
    mount("--bind", f"{root}/{source}", place)
with socket.socket() as up:  # SIOCSIFFLAGS: IFF_UP | IFF_RUNNING
    fcntl.ioctl(up, 0x8914, struct.pack("16sH14x", b"lo", 0x41))
os.umask(0o022)
os.execv(command[0], command)
"""
ALONE = ("unshare", "--mount", "--net")
DROPPED = ("/usr/bin/setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")


def program(path: Path, *command: str, setting: str = "") -> None:
    path.parent.mkdir(parents=True)
    path.write_text(f'#!/bin/sh\n{setting} exec {" ".join(command)} "$@"\n')
    path.chmod(0o755)


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The unit's command in mounts and a network of its own, without capabilities, with systemd's environment."""
    if os.geteuid() != 0 or not Path(DROPPED[0]).exists() or shutil.which("unshare") is None:
        pytest.skip("only root can make the unit's surroundings, with unshare and setpriv")
    for name in ("state/public", "cache", "run"):
        (tmp_path / name).mkdir(parents=True)
    hub_cache.keep(tmp_path / "state" / "models", "tiny")
    sources = Path(package).parents[1]
    ours = (sys.executable, "-P", "-m", "vllm_fsm")
    program(tmp_path / "opt/vllm-fsm/bin/vllm-fsm", *ours, setting=f"PYTHONPATH={sources}")
    program(tmp_path / "opt/vllm/bin/vllm", *COMMAND)
    surroundings = dict(line.split("=", 1) for line in unit_file.settings()["Environment"])
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            (*ALONE, sys.executable, "-c", PREPARE, str(tmp_path), *DROPPED, *unit_file.command()),
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LANG": "C.UTF-8", **surroundings},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
        )
    yield process
    process.kill()
    process.wait()


def asked(process: subprocess.Popen[bytes], *words: str) -> subprocess.CompletedProcess[str]:
    """Ask a command beside it, as a health check of a container does."""
    inside = ("nsenter", "--target", str(process.pid), "--mount", "--net", unit_file.command()[0])
    return subprocess.run((*inside, *words), capture_output=True, text=True, check=False, timeout=30)


def test_the_units_command_serves_and_stops_in_order(unit: subprocess.Popen[bytes], tmp_path: Path) -> None:
    health = tmp_path / "run" / "health.json"

    def state() -> object:
        assert unit.poll() is None, (tmp_path / "log").read_text()
        return json.loads(health.read_text())["state"] if health.exists() else None

    wait_for(lambda: state() == "NoModel", what="a controller")
    assert asked(unit, "health").returncode == 1
    (tmp_path / "state" / "store.json").write_text(json.dumps({"serveArgs": ["tiny"]}))
    wait_for(lambda: state() == "Ready", what="Ready")
    said = asked(unit, "health")
    assert (said.returncode, said.stdout) == (0, "The vLLM API is ready\n")
    status = Path(f"/proc/{unit.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status
    assert (tmp_path / "state" / "public" / "credentials.json").exists()
    began = time.monotonic()
    unit.send_signal(signal.SIGTERM)  # KillMode=mixed: to the controller alone
    assert unit.wait(30.0) == 0
    assert time.monotonic() - began < float(unit_file.settings()["TimeoutStopSec"][0])
