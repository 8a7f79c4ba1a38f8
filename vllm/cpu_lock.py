#!/usr/bin/env python3
"""Write cpu-constraints.txt: every package that the CPU build of vLLM needs, with version and hashes.

    python3 vllm/cpu_lock.py

Needs `uv` on the PATH, which resolves for both architectures and all Python versions at once. The torch family is left
out, because which build of torch an index offers differs from machine to machine; what torch itself needs is in.
Hashes are kept for the files that such a machine may install: wheels for Linux and its Python versions, and the source
archive where there is no wheel for all of them.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from cpu_venv import CONSTRAINTS, TORCH_FAMILY, Wanted, name_of, wanted

HEADER = """\
# What the CPU build of vLLM needs beside torch, for Linux on x86_64 and aarch64.
# Written by vllm/cpu_lock.py; installed by vllm/cpu_venv.py.

"""

TORCH_NEEDS = ("filelock", "fsspec", "jinja2", "mpmath", "networkx", "setuptools", "sympy", "typing-extensions")

OVERLOOKED = ("intel-cmplr-lib-ur==2024.2.1; platform_machine == 'x86_64'",)
"""What only some of a package's files say that they need (intel-openmp 2024.2.1): resolvers read one file of each."""

MACHINES = ("x86_64", "aarch64")


def project(want: Wanted) -> str:
    """Return the pyproject.toml to resolve: the wheel, with requirements on the torch family that never apply."""
    major, minor = want.pythons[-1]
    environments = [f"sys_platform == 'linux' and platform_machine == '{machine}'" for machine in MACHINES]
    return "\n".join(
        (
            "[project]",
            'name = "lock"',
            'version = "0"',
            f'requires-python = ">={".".join(map(str, want.pythons[0]))},<{major}.{minor + 1}"',
            f"dependencies = {[f'{want.package}=={want.version}', *TORCH_NEEDS, *OVERLOOKED]}",
            "[tool.uv]",
            f"environments = {environments}",
            f"""override-dependencies = {[f"{name}; python_version < '3'" for name in sorted(TORCH_FAMILY)]}""",
        )
    )


def fits(filename: str, want: Wanted) -> bool:
    """Tell whether a wheel can be installed on one of the machines, with one of the Python versions."""
    pythons, abi, platforms = filename.removesuffix(".whl").rsplit("-", 3)[1:]
    machine = platforms == "any" or ("manylinux" in platforms and any(name in platforms for name in MACHINES))
    tags = {f"cp{major}{minor}" for major, minor in want.pythons}
    return machine and (abi == "abi3" or "py3" in pythons or bool(tags & set(pythons.split(".")) and abi in tags))


def hashes(package: dict[str, Any], want: Wanted) -> list[str]:
    """Return the hashes of the files of a package (an entry of uv.lock) that may be installed."""
    wheels = {wheel["url"].rsplit("/", 1)[1]: wheel["hash"] for wheel in package.get("wheels", ())}
    chosen = [wheels[name] for name in sorted(wheels) if fits(name, want)]
    for_all = any("-none-any." in name or "-abi3-" in name for name in wheels if fits(name, want))
    if "sdist" in package and not for_all:
        chosen.append(package["sdist"]["hash"])
    return chosen


def render(exported: str, lock: dict[str, Any], want: Wanted) -> str:
    """Return the file: the exported requirements with shortened conditions and the chosen hashes."""
    packages = {(name_of(package["name"]), package.get("version")): package for package in lock["package"]}
    entries = []
    for line in exported.splitlines():
        match = re.match(r"([\w.-]+)==(\S+)(?: ; (.*?))?(?: \\)?$", line)
        if match is None:
            continue
        name, version, condition = match.groups()
        rows = [f"{name}=={version}{condition_of(condition)}"]
        rows += [f"    --hash={digest}" for digest in hashes(packages[name_of(name), version], want)]
        entries.append(" \\\n".join(rows))
    return HEADER + "\n".join(entries) + "\n"


def condition_of(condition: str | None) -> str:
    """Return the part of a condition that can differ between the machines that are meant."""
    if condition is None:
        return ""
    kept = [f"platform_machine == '{machine}'" for machine in MACHINES if f"== '{machine}'" in condition]
    python = re.findall(r"python_full_version\s*[<>=!]+\s*'[\d.]+'", condition)
    parts = [*sorted(set(python)), *(kept if len(kept) == 1 else ())]
    return " ; " + " and ".join(parts) if parts else ""


def main() -> int:
    """Resolve and write the file."""
    want = wanted()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "pyproject.toml").write_text(project(want), encoding="utf-8")
        uv = ["uv", "--quiet", "--directory", folder]
        subprocess.run([*uv, "lock"], check=True)
        export = [*uv, "export", "--no-emit-project", "--no-header", "--no-annotate", "--no-hashes"]
        exported = subprocess.run(export, check=True, stdout=subprocess.PIPE, text=True).stdout
        lock = tomllib.loads(Path(folder, "uv.lock").read_text(encoding="utf-8"))
    text = render(exported, lock, want)
    CONSTRAINTS.write_text(text, encoding="utf-8")
    print(f"{CONSTRAINTS}: {text.count('==')} packages, {text.count('--hash=')} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
