"""Whether what is installed is what was pinned: `python -m support.audit`, which `make audit` calls."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
FILES = ("constraints.txt", "vllm/cpu-constraints.txt")
OURS = {"vllm-fsm", "pip", "setuptools"}
"""The project, and what `venv` puts into an environment."""
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def pinned(text: str) -> tuple[dict[str, Requirement], list[str]]:
    """Return the requirements of a constraints file by name, and what is wrong with its lines."""
    found: dict[str, Requirement] = {}
    wrong = []
    for line in re.sub(r"\\\n", "", text).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split(" --hash")[0].strip()
        try:
            requirement = Requirement(words)
        except ValueError:
            wrong.append(f"{words[:60]!r} is no requirement")
            continue
        pins = [part for part in requirement.specifier if part.operator == "==" and not part.version.endswith("*")]
        hashes = line.split()[len(words.split()) :]
        if requirement.url or len(pins) != 1 or len(requirement.specifier) != 1:
            wrong.append(f"{requirement.name} is not pinned to one version")
        if not hashes or not all(HASH.fullmatch(word) for word in hashes):
            wrong.append(f"{requirement.name} has no SHA-256, or something else behind it")
        found[canonicalize_name(requirement.name)] = requirement
    return found, wrong


def missing(wanted: Mapping[str, list[str]], pins: Mapping[str, Requirement]) -> list[str]:
    """Return which of the project's own requirements no pin satisfies."""
    wrong = []
    for group, requirements in wanted.items():
        for words in requirements:
            requirement = Requirement(words)
            pin = pins.get(canonicalize_name(requirement.name))
            if pin is None:
                wrong.append(f"{requirement.name} ({group}) is not pinned")
            elif next(iter(pin.specifier)).version not in requirement.specifier:
                wrong.append(f"{requirement.name} ({group}) is pinned to a version that pyproject.toml excludes")
    return wrong


def declared() -> dict[str, list[str]]:
    """Return what `pyproject.toml` asks for, by group."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups: dict[str, list[str]] = {"dependencies": project["project"]["dependencies"]}
    for name, items in (project["project"]["optional-dependencies"] | project["dependency-groups"]).items():
        groups[name] = [item for item in items if isinstance(item, str)]
    return groups


def differing(pins: Mapping[str, Requirement], installed: Mapping[str, str]) -> list[str]:
    """Return where the installed versions are others than the pinned ones, or nobody pinned them."""
    environment = {name: str(value) for name, value in default_environment().items()}
    wrong = [f"{name} {version} is installed and not pinned" for name, version in installed.items() if name not in pins]
    for name, requirement in pins.items():
        needed = requirement.marker is None or requirement.marker.evaluate(environment)
        version = next(iter(requirement.specifier)).version
        if needed and name not in installed:
            wrong.append(f"{name} is pinned and not installed")
        elif name in installed and Version(installed[name]) != Version(version):
            wrong.append(f"{name} is installed as {installed[name]} and pinned to {version}")
    return wrong


def main() -> None:
    """Print what is wrong; exit with 1 if anything is."""
    wrong: list[str] = []
    for file in FILES:
        pins, problems = pinned((ROOT / file).read_text())
        wrong += [f"{file}: {problem}" for problem in problems]
        print(f"{file}: {len(pins)} packages, each pinned to one version by hashes" if not problems else file)
    pins, _ = pinned((ROOT / FILES[0]).read_text())
    wrong += missing(declared(), pins)
    here = {canonicalize_name(one.name): one.version for one in distributions() if one.name}
    wrong += differing(pins, {name: version for name, version in here.items() if name not in OURS})
    print(f"{len(here)} packages are installed")
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
