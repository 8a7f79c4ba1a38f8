"""Asks this machine: NVML and the kernel's files in children with a time limit, memory here.

A driver that hangs must not hang us, and one that crashes must not take us along. What a child printed before either
counts. Nothing is remembered between two calls.
"""

from __future__ import annotations

import importlib.util
import json
import os
import selectors
import subprocess
import sys
import time
from typing import Any, Final

from vllm_fsm.hardware import cgroups, kernel, nvml, probes
from vllm_fsm.hardware.probes import CgroupLimit, Failure, Memory, Probes

LIMIT: Final = 5.0
"""Seconds that the children have, both together."""
FAREWELL: Final = 0.25
"""Seconds that a child has to end after its last word, or after it was killed."""
LATE_LOOKS: Final = 2
"""Looks when the time is over: it may be we who stood still, and an answer and its end lie there."""
_abandoned: list[subprocess.Popen[bytes]] = []
"""Killed and not waited for, since they may hang in the kernel; kept, since a dropped unfinished process complains."""


def collect(*, limit: float = LIMIT, root: str = "/", bindings: str | None = None) -> Probes:
    """Ask everything; returns within `limit` seconds and a little, and raises nothing.

    `root` is where the kernel's files are; `bindings` is the directory of the module `pynvml`, found where it is
    installed unless given. Both are for tests.
    """
    directory = bindings or _bindings()
    asked = {
        "kernel": _start(kernel.__file__, root),
        "nvml": _start(nvml.__file__, directory) if directory is not None else Failure("NoBinding"),
    }
    memory = _memory(root)
    said = _listen({name: child for name, child in asked.items() if not isinstance(child, Failure)}, limit)
    said |= {name: {"failure": probes.to_json(child)} for name, child in asked.items() if isinstance(child, Failure)}
    return Probes(probes.nvml(said["nvml"]), probes.kernel(said["kernel"]), memory)


def _bindings() -> str | None:
    """Return the directory that `pynvml` would be imported from, without importing it."""
    try:
        spec = importlib.util.find_spec("pynvml")
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    place = os.path.dirname(spec.origin)
    return os.path.dirname(place) if spec.submodule_search_locations else place


def _start(script: str, argument: str) -> subprocess.Popen[bytes] | Failure:
    """Execute a script of ours by path, without any of our environment but where libraries are."""
    try:
        return subprocess.Popen(
            (sys.executable, "-I", "-S", script, argument),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
            start_new_session=True,
        )
    except OSError as error:
        return Failure("NotStarted", error.strerror or str(error))


def _listen(children: dict[str, subprocess.Popen[bytes]], limit: float) -> dict[str, dict[str, Any]]:
    """Return what each child printed, until all of them closed their output or the time is over."""
    due = time.monotonic() + limit
    heard = dict.fromkeys(children, b"")
    with selectors.DefaultSelector() as ready:
        for name, child in children.items():
            assert child.stdout is not None
            ready.register(child.stdout, selectors.EVENT_READ, name)
        late = 0
        while ready.get_map() and late < LATE_LOOKS:
            left = due - time.monotonic()
            late += left <= 0
            for key, _ in ready.select(max(0.0, left)):
                part = os.read(key.fd, 1 << 16)
                heard[key.data] += part
                if not part:
                    ready.unregister(key.fileobj)
        silent = {key.data for key in ready.get_map().values()}
    ends = {name: _end(child, name in silent, limit) for name, child in children.items()}
    return {name: _document(heard[name], ends[name]) for name in children}


def _end(child: subprocess.Popen[bytes], silent: bool, limit: float) -> Failure | None:
    """Let go of a child; return how it failed."""
    assert child.stdout is not None
    child.stdout.close()
    if silent:
        child.kill()
    try:
        status = child.wait(FAREWELL)
    except subprocess.TimeoutExpired:  # a driver may hang while it is let go of, and then nothing kills
        child.kill()
        _abandoned.append(child)
        status = 0
    if silent:
        return Failure("TimedOut", f"no answer within {limit:g} s")
    return None if status == 0 else Failure("Crashed", f"signal {-status}" if status < 0 else f"exit status {status}")


def _document(heard: bytes, failure: Failure | None) -> dict[str, Any]:
    """Put the lines together; what a child says of itself comes before what became of it."""
    document: dict[str, Any] = {}
    for line in heard.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break  # cut off
        try:
            said = json.loads(line)
        except ValueError:
            continue  # not ours: a library that prints
        for name, value in said.items() if isinstance(said, dict) else ():
            if name in ("device", "node"):
                document.setdefault({"device": "devices", "node": "kfd"}[name], []).append(value)
            else:
                document[name] = value
    if failure is not None:
        document.setdefault("failure", probes.to_json(failure))
    return document


def _memory(root: str) -> Memory:
    return Memory(_physical(), tuple(_limits(root)))


def _physical() -> int | Failure:
    try:
        import psutil

        return int(psutil.virtual_memory().total)
    except Exception as error:
        return Failure(type(error).__name__, str(error)[:200])


def _limits(root: str) -> list[CgroupLimit]:
    """Read every limit above us that is there."""
    try:
        files = cgroups.files(_text(root, "proc/self/cgroup"), _text(root, "proc/self/mountinfo"))
    except OSError:
        return []
    found = []
    for file in files:
        try:
            text = cgroups.relevant(file, _text(root, file.lstrip("/")))
        except OSError:
            continue
        if text:
            found.append(CgroupLimit(file, text))
    return found


def _text(*path: str) -> str:
    with open(os.path.join(*path), encoding="utf-8", errors="replace") as file:
        return file.read()
