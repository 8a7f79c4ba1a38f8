"""Refresh the dynamic linker's cache, once, inside a container.

On some aarch64 NVIDIA images the `libcuda.so.1` that the container toolkit injects is not in the cache, and the engine
does not find it.
"""

import asyncio
import os
import subprocess
from collections.abc import Mapping

from vllm_fsm.adapters.ports import Log
from vllm_fsm.adapters.process import pidfd

COMMAND = "/sbin/ldconfig"
LIMIT = 20.0
"""Seconds."""
MARKERS = ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")
"""Left by Docker, by Podman, and by whoever runs systemd inside."""
_abandoned: list[subprocess.Popen[bytes]] = []
"""Killed and not waited for; kept, since an object of an unfinished process complains when it is dropped."""
OVERLAYS = ("overlay", "fuse.fuse-overlayfs")


def in_container(environment: Mapping[str, str], root: str = "/") -> bool:
    """Tell whether the root file system is a container's: by a marker file, a variable, or being an overlay.

    `container` is set by Podman, LXC and systemd-nspawn, KUBERNETES_SERVICE_HOST by Kubernetes; a StartOS service has
    none of them, but an overlay as its root. `root` is where the files are looked for.
    """
    if environment.get("container") or environment.get("KUBERNETES_SERVICE_HOST"):
        return True
    if any(os.path.exists(os.path.join(root, marker.lstrip("/"))) for marker in MARKERS):
        return True
    try:
        with open(os.path.join(root, "proc/self/mountinfo"), encoding="utf-8", errors="replace") as mounts:
            return any(_mounts_overlay_at_root(line) for line in mounts)
    except OSError:
        return False


def _mounts_overlay_at_root(line: str) -> bool:
    # 36 35 98:0 /mnt1 /mount/point options [tag:value …] - type source options: proc_pid_mountinfo(5)
    mount, _, filesystem = line.partition(" - ")
    return mount.split()[4:5] == ["/"] and filesystem.split()[:1] != [] and filesystem.split()[0] in OVERLAYS


def _spawn() -> subprocess.Popen[bytes]:
    null = subprocess.DEVNULL
    return subprocess.Popen((COMMAND,), stdin=null, stdout=null, stderr=null, env={})


async def refresh(log: Log) -> None:
    """Run ldconfig if we are root in a container; at most LIMIT seconds, and never an error."""
    if os.geteuid() != 0 or not in_container(os.environ):
        return
    try:
        process = _spawn()
    except FileNotFoundError:  # a C library without a linker cache
        return
    except OSError as error:
        log("ldconfig-failed", error=str(error))
        return
    try:
        async with asyncio.timeout(LIMIT):
            await pidfd.ended(process.pid)
    except TimeoutError:
        log("ldconfig-failed", error=f"not done within {LIMIT:g} s")
    finally:
        if process.poll() is None:  # it may hang in the kernel: the reaper collects it whenever it ends
            process.kill()
            _abandoned.append(process)
    if process.returncode:
        log("ldconfig-failed", error=f"exit status {process.returncode}")
