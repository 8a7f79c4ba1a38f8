"""Free GPU memory with a stand-in for NVML: no GPU is at hand where these tests run."""

import asyncio
import sys
import threading
from types import SimpleNamespace

import pytest

from vllm_fsm.adapters import gpu_memory
from vllm_fsm.adapters.gpu_memory import GpuMemory


class NVMLError(Exception):
    pass


class Driver:
    """What of `pynvml` is used."""

    NVMLError = NVMLError

    def __init__(self, free=(), fails=None):
        self.frees, self.fails, self.open = list(free), fails, 0

    def nvmlInit(self):  # noqa: N802
        self._call("init")
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        self._call("count")
        return len(self.frees)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        self._call("handle")
        return index

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        self._call("memory")
        return SimpleNamespace(free=self.frees[handle])

    def _call(self, name):
        if self.fails == name:
            raise NVMLError(name)


@pytest.fixture
def nvidia(monkeypatch, tmp_path):
    """A machine with an NVIDIA device; returns a function that installs a driver."""
    device = tmp_path / "nvidiactl"
    device.touch()
    monkeypatch.setattr(gpu_memory, "DEVICES", (str(device),))

    def install(driver):
        monkeypatch.setitem(sys.modules, "pynvml", driver)
        return driver

    return install


def test_the_free_memory_of_all_devices_is_added(nvidia):
    driver = nvidia(Driver([3, 4]))
    assert asyncio.run(GpuMemory().free()) == 7
    assert driver.open == 0


@pytest.mark.parametrize("fails", ["init", "count", "handle", "memory"])
def test_a_driver_that_fails_is_no_figure(nvidia, fails):
    driver = nvidia(Driver([3], fails))
    assert asyncio.run(GpuMemory().free()) is None
    assert driver.open == 0


def test_no_device_is_no_figure(nvidia):
    nvidia(Driver())
    assert asyncio.run(GpuMemory().free()) is None


def test_without_a_device_file_the_library_is_not_loaded(monkeypatch):
    monkeypatch.setattr(gpu_memory, "DEVICES", ("/dev/none-such",))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert asyncio.run(GpuMemory().free()) is None


def test_a_hanging_driver_is_asked_once(nvidia):
    hangs = threading.Event()
    calls = []

    class Hanging(Driver):
        def nvmlInit(self):  # noqa: N802
            calls.append("init")
            hangs.wait(10)
            raise NVMLError

    nvidia(Hanging())

    async def twice():
        memory = GpuMemory()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(memory.free(), 0.05)
        return await memory.free()

    try:
        assert asyncio.run(twice()) is None
    finally:
        hangs.set()
    assert calls == ["init"]
