"""When the linker's cache is refreshed, and that it never hurts."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from vllm_fsm.adapters.process import ldconfig

ROOT_ON_DISK = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n23 22 0:5 / /dev rw - overlay none rw\n"
ROOT_ON_OVERLAY = "22 1 0:52 / / rw,relatime - overlay overlay rw,lowerdir=/a:/b\n"


def system(root: Path, mounts: str = ROOT_ON_DISK) -> str:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(mounts)
    return str(root)


@pytest.mark.parametrize("marker", ldconfig.MARKERS)
def test_a_marker_shows_a_container(tmp_path: Path, marker: str) -> None:
    root = system(tmp_path)
    assert not ldconfig.in_container({}, root)
    path = tmp_path / marker.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert ldconfig.in_container({}, root)


@pytest.mark.parametrize("name", ["container", "KUBERNETES_SERVICE_HOST"])
def test_a_variable_shows_a_container(tmp_path: Path, name: str) -> None:
    root = system(tmp_path)
    assert ldconfig.in_container({name: "x"}, root)
    assert not ldconfig.in_container({name: ""}, root)


def test_an_overlay_as_root_shows_a_container(tmp_path: Path) -> None:
    assert ldconfig.in_container({}, system(tmp_path, ROOT_ON_OVERLAY))


@pytest.mark.parametrize("mounts", ["", "\n", "rubbish", "22 1 0:52 / / rw - "])
def test_an_unreadable_mount_table_shows_none(tmp_path: Path, mounts: str) -> None:
    assert not ldconfig.in_container({}, system(tmp_path, mounts))
    assert not ldconfig.in_container({}, str(tmp_path / "missing"))


def refresh(monkeypatch: pytest.MonkeyPatch, command: Path, *, user: int = 0, container: bool = True) -> list[object]:
    logged: list[object] = []
    monkeypatch.setattr(ldconfig, "COMMAND", str(command))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(ldconfig, "in_container", lambda environment: container)
    asyncio.run(ldconfig.refresh(lambda event, /, **fields: logged.append((event, fields["error"]))))
    return logged


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("user", "container", "runs"), [(0, True, True), (1000, True, False), (0, False, False), (1000, False, False)]
)
def test_it_runs_for_root_in_a_container_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, container: bool, runs: bool
) -> None:
    trace = tmp_path / "environment"
    command = script(tmp_path / "ldconfig", f"env > {trace}")
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    assert refresh(monkeypatch, command, user=user, container=container) == []
    assert trace.exists() is runs
    assert not runs or "secret" not in trace.read_text()


def test_a_failure_is_told_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refresh(monkeypatch, tmp_path / "missing") == []
    assert refresh(monkeypatch, script(tmp_path / "fails", "exit 3")) == [("ldconfig-failed", "exit status 3")]
    forbidden = tmp_path / "forbidden"
    forbidden.touch(mode=0o644)
    ((event, error),) = refresh(monkeypatch, forbidden)  # type: ignore[misc]
    assert event == "ldconfig-failed"
    assert "Permission denied" in error


def test_it_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ldconfig, "LIMIT", 0.05)
    began = time.monotonic()
    assert refresh(monkeypatch, script(tmp_path / "hangs", "exec sleep 600")) == [
        ("ldconfig-failed", "not done within 0.05 s")
    ]
    assert time.monotonic() - began < 5
