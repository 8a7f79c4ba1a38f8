"""Free GPU memory through NVML; None where there is no NVIDIA driver or no answer."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Final

DEVICES: Final = ("/dev/nvidiactl", "/dev/dxg")
"""One of these stands where NVML can answer (Linux, WSL 2). Looking is cheaper than loading the library for nothing."""


class GpuMemory:
    """Asks the driver in a thread of its own, as a hanging driver never answers; after that it is asked no more."""

    def __init__(self) -> None:
        self._silent = not any(os.path.exists(path) for path in DEVICES)
        self._devices = 0

    def single(self) -> bool:
        """Whether the last answer was that of one device: what an engine lacks is lacking on one of them."""
        return self._devices == 1

    async def free(self) -> int | None:
        """Return the free bytes of all devices together, None where that cannot be known.

        The caller bounds the time: being cancelled means that the driver is silent.
        """
        if self._silent:
            return None
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[int | None] = loop.create_future()

        def ask() -> None:
            each = _free()
            self._devices = len(each)
            free = sum(each) if each else None
            try:
                loop.call_soon_threadsafe(_settle, answer, free)
            except RuntimeError:
                return  # the loop was closed meanwhile

        # A daemon: the interpreter would wait for any other thread before it ends.
        threading.Thread(target=ask, name="nvml", daemon=True).start()
        try:
            return await answer
        except asyncio.CancelledError:
            self._silent = True
            raise


def _settle(answer: asyncio.Future[int | None], free: int | None) -> None:
    if not answer.done():
        answer.set_result(free)


def _free() -> list[int]:
    """Return the free bytes of each device; nothing where that cannot be known."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        # Unified memory (GB10, Thor, Orin) has no figure of its own: "not supported".
        return [int(pynvml.nvmlDeviceGetMemoryInfo(handle).free) for handle in handles]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()
