"""What a warm parent must have in common with a plain start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.warm_vllm import install
from vllm_fsm.adapters.process.warm import identity
from vllm_fsm.adapters.process.warm.identity import Identity
from vllm_fsm.adapters.process.warm.plan import Node, root

GIVEN = {"PATH": "/bin", "HF_HOME": "/h", "TMPDIR": "/run/t/1", "VLLM_API_KEY": "kSecret"}


def _of(script: Path, environment: dict[str, str] = GIVEN) -> Identity:
    found = identity.of((str(script),), environment)
    assert found is not None
    return found


def test_the_same_is_the_same_whatever_the_key(tmp_path: Path) -> None:
    script = install(tmp_path)
    first = _of(script)
    assert first.difference(_of(script, {**GIVEN, "VLLM_API_KEY": "another"})) == ""
    assert first.version == "0.32.0+cpu"
    assert "kSecret" not in repr(first)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"HF_HOME": "/other"}, "environment (HF_HOME)"),
        ({"NEW": "1", "HF_HUB_OFFLINE": "1"}, "environment (HF_HUB_OFFLINE, NEW)"),
        ({"TMPDIR": "/run/t/2"}, "environment (TMPDIR)"),
    ],
)
def test_a_variable_is_named_and_its_value_is_not(tmp_path: Path, change: dict[str, str], named: str) -> None:
    script = install(tmp_path)
    assert _of(script).difference(_of(script, {**GIVEN, **change})) == named


@pytest.mark.parametrize(
    "path", ["bin/vllm", "site-packages/vllm/__init__.py", "site-packages/vllm/_version.py", "dist-info", "packages"]
)
def test_a_touched_file(tmp_path: Path, path: str) -> None:
    script = install(tmp_path)
    (packages,) = tmp_path.glob("lib/*/site-packages")
    places = {"bin/vllm": script, "packages": packages, "dist-info": packages / "vllm-0.32.0+cpu.dist-info"}
    before = _of(script)
    os.utime(places.get(path, packages.parent / path), (1, 1))
    assert before.difference(_of(script)) == "files"


def test_another_version_directory_or_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = install(tmp_path)
    before = _of(script)
    old = os.umask(0o027)
    try:
        assert before.difference(_of(script)) == "umask"
    finally:
        os.umask(old)
    monkeypatch.chdir(tmp_path)
    assert before.difference(_of(script)) == "directory"
    (metadata,) = tmp_path.glob("lib/*/site-packages/vllm-0.32.0+cpu.dist-info")
    metadata.rename(metadata.with_name("vllm-0.33.0.dist-info"))
    assert _of(script).version == "0.33.0"


@pytest.mark.parametrize("command", [(), ("/no/such/vllm",), ("/bin/sh",)])
def test_what_is_no_python_has_no_identity(command: tuple[str, ...]) -> None:
    assert identity.of(command, GIVEN) is None


def test_a_command_of_several_words_has_none(tmp_path: Path) -> None:
    assert identity.of((str(install(tmp_path)), "--flag"), GIVEN) is None


def test_a_script_that_is_run_through_something_else_has_none(tmp_path: Path) -> None:
    script = install(tmp_path)
    text = script.read_text()
    python = script.with_name("python")
    script.write_text(text.replace(f"#!{python}", f"#!/usr/bin/env {python}"))
    assert identity.of((str(script),), GIVEN) is None
    script.write_text(text.replace(f"#!{python}", f"#!{python} -I"))
    assert _of(script).interpreter == (str(python), "-I")


def test_another_path_may_find_another_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = install(tmp_path)
    monkeypatch.setenv("PATH", str(script.parent))
    assert identity.of(("vllm",), {"PATH": str(script.parent)}) is not None
    assert identity.of(("vllm",), {"PATH": f"/elsewhere:{script.parent}"}) is None


def test_a_plan_moves_with_the_tmpdir_and_holds_no_key() -> None:
    seen = {**GIVEN, "OMP_NUM_THREADS": "1", "CACHE": "/run/t/1/cache"}
    del seen["HF_HOME"]
    leader = root()
    leader.children.append(Node.seen(seen, GIVEN))
    order = leader.order({**GIVEN, "TMPDIR": "/run/t/2"})
    (child,) = order["children"]
    assert child["environment"] == {
        "PATH": "/bin",
        "TMPDIR": "/run/t/2",
        "OMP_NUM_THREADS": "1",
        "CACHE": "/run/t/2/cache",
    }
    assert "kSecret" not in repr(order)
