"""The supervisors as programs: what is on PATH is used, and what is not is installed below `build/compare`.

Nothing is installed in the system. What cannot be had is missing, with the reason, and the comparison goes on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "build" / "compare"
PACKAGE = HERE.parents[1] / "s9pk"
DEBIAN = FOLDER / "debian"
FAMILY = ("libs6", "libskarnet", "libexecline")
LIMIT = 240.0
"""Seconds for one installation."""
PATH = (FOLDER / "python" / "bin", FOLDER / "pm2" / "node_modules" / ".bin", DEBIAN / "usr" / "bin")


def find(name: str) -> str | None:
    """Return the path of a program: PATH first, then what was installed here."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, PATH)))


def libraries() -> dict[str, str]:
    """Return the environment in which programs of the unpacked Debian packages find their libraries."""
    folders = sorted({str(path.parent) for path in DEBIAN.glob("usr/lib/**/*.so.*")})
    return {"LD_LIBRARY_PATH": os.pathsep.join(folders)} if folders else {}


def install() -> dict[str, str]:
    """Install what is not there; return why not for each of `supervisord`, `pm2-runtime`, … that cannot be had."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    missing = {}
    for names, way in (
        (("supervisord", "supervisorctl"), _from_pypi),
        (("pm2-runtime",), _from_npm),
        (("s6-supervise", "s6-svc"), lambda: _from_debian("s6")),
        (("runsv", "sv"), lambda: _from_debian("runit")),
    ):
        if all(map(find, names)):
            continue
        print(f"installing {names[0]} …", file=sys.stderr, flush=True)
        try:
            way()
        except (OSError, subprocess.SubprocessError) as error:
            missing[names[0]] = _why(error)
        if names[0] not in missing and not all(map(find, names)):
            missing[names[0]] = "the installation brought no such program"
    try:
        _loop()
    except (OSError, subprocess.SubprocessError) as error:
        missing["start-sdk"] = _why(error)
    return missing


def _loop() -> None:
    """Build the loop of the original package, with the tools of ours."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        raise OSError("it needs root and unshare, for the namespaces of the stand-in for StartOS")
    folder = FOLDER / "startos"
    folder.mkdir(exist_ok=True)
    source = [HERE / "startos" / name for name in ("index.ts", "tsconfig.json")]
    built = folder / "javascript" / "index.js"
    if built.exists() and all(path.stat().st_mtime < built.stat().st_mtime for path in source):
        return
    for path in (*source, *(PACKAGE / name for name in ("package.json", "package-lock.json", ".npmrc"))):
        shutil.copy(path, folder)
    _call("npm", "ci", "--no-audit", "--no-fund", cwd=folder)
    _call("npx", "--no-install", "ncc", "build", "index.ts", "-o", "javascript", cwd=folder)


def version(*command: str) -> str:
    """Return the last word of the first line that a program says of itself."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[-1].split()[-1].lstrip("v") if lines else "unknown"


def debian_version(package: str) -> str:
    """Return the version of a Debian package: what the system has installed, else what was fetched here."""
    if not shutil.which("dpkg-query"):
        return "unknown"
    done = subprocess.run(
        ("dpkg-query", "-W", "-f", "${Version}", package), capture_output=True, text=True, check=False
    )
    fetched = [path.name.split("_")[1] for path in DEBIAN.glob(f"{package}_*.deb")]
    return done.stdout.strip() or (fetched[0] if fetched else "unknown")


def _call(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=LIMIT)
    return done.stdout


def _from_pypi() -> None:
    _call(sys.executable, "-m", "venv", str(FOLDER / "python"))
    pip = (str(FOLDER / "python" / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check")
    _call(*pip, "--require-hashes", "-r", str(HERE / "supervisor.txt"))


def _from_npm() -> None:
    folder = FOLDER / "pm2"
    folder.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(HERE / "pm2" / name, folder)
    _call("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)


def _from_debian(name: str) -> None:
    """Fetch a package and the libraries of its own family, and unpack them; what else it needs is libc."""
    DEBIAN.mkdir(exist_ok=True)
    asked = ("apt-cache", "depends", "--recurse", "--important", name)
    found = {line.strip() for line in _call(*asked).splitlines() if line and not line[0].isspace()}
    needed = {name, *(package for package in found if package.startswith(FAMILY))}
    _call("apt-get", "download", *sorted(needed), cwd=DEBIAN)
    for archive in DEBIAN.glob("*.deb"):
        _call("dpkg", "-x", str(archive), str(DEBIAN))


def _why(error: OSError | subprocess.SubprocessError) -> str:
    """Say what failed, without what a client printed: that names addresses, and belongs on the terminal."""
    if isinstance(error, subprocess.CalledProcessError):
        print(error.stderr, file=sys.stderr)
        return f"`{os.path.basename(error.cmd[0])} {error.cmd[1]} …` failed with status {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"`{os.path.basename(error.cmd[0])} {error.cmd[1]} …` did not end within {LIMIT:g} s"
    return str(error)
