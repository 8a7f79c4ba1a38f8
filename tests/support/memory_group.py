"""A cgroup of a test's own whose memory can be limited."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.wait import wait_for

ROOT = Path("/sys/fs/cgroup")


def joining(group: Path) -> tuple[str, ...]:
    """A command that puts itself into `group` and becomes another."""
    return ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh")


def own(controller: str) -> Path:
    """The directory of our own cgroup, of version 1 for this controller or of version 2."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return ROOT / controller / path.lstrip("/")
    return ROOT / line.rpartition(":")[2].lstrip("/")


@contextmanager
def memory_group() -> Iterator[Path]:
    """Make a cgroup with a memory controller, of either version; the test is skipped where that cannot be had."""
    made = own("memory") / f"vllm-fsm-test-{os.getpid()}"
    if os.geteuid() != 0:
        pytest.skip("only root may make a cgroup")
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    try:
        if not any((made / name).exists() for name in ("memory.max", "memory.limit_in_bytes")):
            pytest.skip("memory is not limited by cgroups here")
        yield made
    finally:

        def gone() -> bool:
            with suppress(OSError):
                made.rmdir()
            return not made.exists()

        wait_for(gone, what="an empty cgroup")
