"""Stands in for NVML where there is no driver: `behaviour.json` beside this file says what goes wrong.

    {"devices": [{…} or "GpuIsLost", …], "init": error, "hang": "init" | "device" | "exit", "at": index,
     "crash": bool, "print": text}

A device's field that is a string in capitals' style of an error, like "!NotSupported", raises that error. Who hangs
leaves a file `hangs` beside this one.
"""

import atexit
import json
import os
import signal
import threading
from types import SimpleNamespace

NVML_DEVICE_MIG_ENABLE = 1
with open(os.path.join(os.path.dirname(__file__), "behaviour.json"), encoding="utf-8") as _file:
    BEHAVIOUR = json.load(_file)


class NVMLError(Exception):
    pass


def _raise(word):
    raise type(f"NVMLError_{word}", (NVMLError,), {})(f"said of {word}")


def _hang():
    open(os.path.join(os.path.dirname(__file__), "hangs"), "w").close()
    threading.Event().wait()


def _answer(value):
    return _raise(value[1:]) if isinstance(value, str) and value.startswith("!") else value


def nvmlInit():  # noqa: N802
    if "print" in BEHAVIOUR:
        print(BEHAVIOUR["print"], end="", flush=True)
    if BEHAVIOUR.get("hang") == "init":
        _hang()
    if BEHAVIOUR.get("hang") == "exit":
        atexit.register(_hang)
    if BEHAVIOUR.get("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if "init" in BEHAVIOUR:
        _raise(BEHAVIOUR["init"])


def nvmlSystemGetDriverVersion():  # noqa: N802
    return b"580.105.08"  # as old bindings answer


def nvmlDeviceGetCount():  # noqa: N802
    return len(BEHAVIOUR["devices"])


def nvmlDeviceGetHandleByIndex(index):  # noqa: N802
    if BEHAVIOUR.get("hang") == "device" and index == BEHAVIOUR["at"]:
        _hang()
    device = BEHAVIOUR["devices"][index]
    return _raise(device) if isinstance(device, str) else device


def nvmlDeviceGetUUID(device):  # noqa: N802
    return _answer(device["uuid"])


def nvmlDeviceGetName(device):  # noqa: N802
    return _answer(device["name"])


def nvmlDeviceGetCudaComputeCapability(device):  # noqa: N802
    return _answer(device["capability"])


def nvmlDeviceGetMemoryInfo(device):  # noqa: N802
    return SimpleNamespace(total=_answer(device["memory"]))


def nvmlDeviceGetPciInfo(device):  # noqa: N802
    return SimpleNamespace(busId=b"00000000:01:00.0")


def nvmlDeviceGetMigMode(device):  # noqa: N802
    return _raise("NotSupported") if "instances" not in device else (1, 1)


def nvmlDeviceGetMaxMigDeviceCount(device):  # noqa: N802
    return 7


def nvmlDeviceGetMigDeviceHandleByIndex(device, index):  # noqa: N802
    return device["instances"].get(str(index)) or _raise("NotFound")


def nvmlDeviceGetGpuInstanceId(instance):  # noqa: N802
    return instance["gpu_instance"]


def nvmlDeviceGetComputeInstanceId(instance):  # noqa: N802
    return 0
