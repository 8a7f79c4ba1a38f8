"""Asks NVML: a process of its own, executed by path with `python -I -S DIRECTORY`, since a driver may hang or crash.

DIRECTORY is where the module `pynvml` lies. Each answer is printed when it is there, one JSON object a line, so that
what was said before a hang counts: `{"driver", "count"}`, then `{"device"}` for each, or `{"failure"}`. The fields of a
device are those of `probes.NvmlDevice`; one that failed is `{"error", "detail"}`.

NVML looks at no `…_VISIBLE_DEVICES` variable and counts by PCI address.
"""

import json
import sys
from collections.abc import Callable
from typing import Any


def say(**what: Any) -> None:
    """Print one line now, whatever a library left on the line before."""
    sys.stdout.write(f"\n{json.dumps(what)}\n")
    sys.stdout.flush()


def failure(error: BaseException) -> dict[str, str]:
    """Describe an exception by a stable word."""
    word = type(error).__name__.removeprefix("NVMLError_")
    return {"error": word, "detail": str(error)[:200]}


def ask(question: Callable[..., Any], *arguments: Any) -> Any:
    """Return the answer, or how it failed. Old bindings answer in bytes."""
    try:
        answer = question(*arguments)
    except Exception as error:  # AttributeError too: an old binding lacks a function
        return failure(error)
    return answer.decode(errors="replace") if isinstance(answer, bytes) else answer


def device(nvml: Any, index: int) -> dict[str, Any]:
    """Ask for everything about one device."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except Exception as error:
        lost = failure(error)
        return {"index": index} | dict.fromkeys(("uuid", "name", "capability", "memory", "bus", "mig"), lost)
    mig = ask(lambda: nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE)
    return {
        "index": index,
        "uuid": ask(lambda: nvml.nvmlDeviceGetUUID(handle)),
        "name": ask(lambda: nvml.nvmlDeviceGetName(handle)),
        "capability": ask(lambda: [int(part) for part in nvml.nvmlDeviceGetCudaComputeCapability(handle)]),
        "memory": ask(lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).total)),
        "bus": ask(lambda: nvml.nvmlDeviceGetPciInfo(handle).busId),
        "mig": mig,
        "instances": instances(nvml, handle) if mig is True else [],
    }


def instances(nvml: Any, handle: Any) -> list[dict[str, Any]]:
    """Ask for the MIG instances of one device; their numbers have gaps."""
    most = ask(nvml.nvmlDeviceGetMaxMigDeviceCount, handle)
    found = []
    for index in range(most if isinstance(most, int) else 0):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except Exception:  # noqa: S112 - none with this number
            continue
        found.append(
            {
                "index": index,
                "uuid": ask(nvml.nvmlDeviceGetUUID, instance),
                "name": ask(nvml.nvmlDeviceGetName, instance),
                "memory": ask(lambda one=instance: int(nvml.nvmlDeviceGetMemoryInfo(one).total)),
                "gpu_instance": ask(nvml.nvmlDeviceGetGpuInstanceId, instance),
                "compute_instance": ask(nvml.nvmlDeviceGetComputeInstanceId, instance),
            }
        )
    return found


def main(directory: str) -> None:
    """Ask for everything, and end well whatever happens."""
    sys.path.append(directory)
    try:
        import pynvml as nvml
    except Exception as error:
        say(failure={"error": "NoBinding", "detail": str(error)[:200]})
        return
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
        say(driver=ask(lambda: nvml.nvmlSystemGetDriverVersion()), count=count)
        for index in range(count):
            say(device=device(nvml, index))
    except Exception as error:
        say(failure=failure(error))


if __name__ == "__main__":
    main(sys.argv[1])
