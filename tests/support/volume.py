"""A small volume of its own, seen by nobody else: work is done in a child with mounts of its own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000


def on_volume(place: Path, mib: int, work: Callable[[], None]) -> None:
    """Do `work` in a child to which `place` is an empty volume of `mib` MiB; its failure is ours.

    Without privileges the child has a user namespace of its own, in which it may mount.
    """
    place.mkdir()

    def whole() -> None:
        own_mounts()
        mount("-t", "tmpfs", "-o", f"size={mib}m", "none", str(place))
        work()

    in_child(whole)


def in_child(work: Callable[[], None]) -> None:
    """Do `work` in a child process; its failure is ours."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0, "the child's output says why"


def mount(*arguments: str) -> None:
    """Call mount(8)."""
    subprocess.run(("mount", *arguments), check=True)


def own_mounts() -> None:
    """Give this process and its children mounts that nobody else sees. Raises OSError where that is denied."""
    uid, gid = os.geteuid(), os.getegid()
    flags = CLONE_NEWNS if uid == 0 else CLONE_NEWNS | CLONE_NEWUSER
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    if uid != 0:
        for name, line in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            Path(f"/proc/self/{name}").write_text(line)
    mount("--make-rprivate", "/")
