#!/usr/bin/env python3
"""Puts the controller into `assets/lib`, with the packages that vLLM does not bring along.

    python3 vendor.py VARIANT

`assets/lib` is made anew: `vllm_fsm` from the sources beside this package, and the packages of BESIDE from the versions
and hashes of `constraints.txt`. `assets/build` says for which build of vLLM the package is, `assets/needs` what the
image has to have. Needs pip and a registry.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
PROJECT: Final = HERE.parent
ASSETS: Final = HERE / "assets"

BESIDE: Final = ("nvidia-ml-py", "six", "structlog", "transitions")
"""Pure Python, and not among what vLLM requires; six is for transitions."""

BUILDS: Final = {"nvidia": "cuda", "rocm": "rocm", "cpu": "cpu"}
"""By variant: the build of vLLM in its image, as `vllm-fsm --build` calls it."""


def pins(constraints: str, names: Iterable[str]) -> str:
    """Return the lines of `constraints` that pin `names`, with their hashes.

    Raises:
        ValueError: one of them is not pinned with a hash.
    """
    entries = re.split(r"\n(?=[A-Za-z0-9])", constraints)
    found = {entry.partition("==")[0]: entry for entry in entries if "==" in entry and "--hash=" in entry}
    missing = sorted(set(names) - found.keys())
    if missing:
        raise ValueError(f"constraints.txt pins no {', '.join(missing)} with a hash: run make constraints")
    return "".join(found[name].rstrip() + "\n" for name in names)


def needs(project: str) -> str:
    """Return what is to come with the image's vLLM, by `pyproject.toml`: lines of a name and its lowest version.

    Raises:
        ValueError: a requirement has no lowest version, or more than that.
    """
    lines = []
    for requirement in tomllib.loads(project)["project"]["dependencies"]:
        name, _, lowest = requirement.partition(">=")
        if name in BESIDE:
            continue
        if not re.fullmatch(r"[\d.]+", lowest):
            raise ValueError(f"pyproject.toml: {requirement} is not just a name and a lowest version")
        lines.append(f"{name} {lowest}\n")
    return "".join(lines)


def vendor(variant: str, assets: Path = ASSETS) -> None:
    """Fill `assets`.

    Raises:
        ValueError: a package is not pinned, or is not pure Python.
        subprocess.CalledProcessError: pip could not fetch a package, or its hash is wrong.
    """
    library, fresh = assets / "lib", assets / ".lib.new"
    shutil.rmtree(fresh, ignore_errors=True)
    with tempfile.TemporaryDirectory() as directory:
        wheels = _fetch(pins((PROJECT / "constraints.txt").read_text(), BESIDE), Path(directory))
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(fresh)
    (fresh / "example.py").unlink(missing_ok=True)  # nvidia-ml-py brings one, under a name that could be anybody's
    # Bytecode belongs to one version of Python, and images differ.
    shutil.copytree(PROJECT / "src" / "vllm_fsm", fresh / "vllm_fsm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "LICENSE", fresh / "vllm_fsm" / "LICENSE")
    shutil.rmtree(library, ignore_errors=True)
    fresh.rename(library)
    (assets / "build").write_text(BUILDS[variant] + "\n")
    (assets / "needs").write_text(needs((PROJECT / "pyproject.toml").read_text()))


def _fetch(requirements: str, directory: Path) -> list[Path]:
    listed = directory / "requirements.txt"
    listed.write_text(requirements)
    subprocess.run(
        (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--require-hashes", "--only-binary=:all:", "--dest", str(directory), "-r", str(listed)),
        check=True,
    )  # fmt: skip
    wheels = sorted(directory.glob("*.whl"))
    impure = [wheel.name for wheel in wheels if not wheel.name.endswith("-none-any.whl")]
    if impure:
        raise ValueError(f"not pure Python: {', '.join(impure)}")
    return wheels


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in BUILDS:
        sys.exit(f"usage: vendor.py {'|'.join(BUILDS)}")
    try:
        vendor(sys.argv[1])
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"vendor.py: {error}")
