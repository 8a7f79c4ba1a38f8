"""Looks at the kernel's files about devices: a process of its own, executed by path with `python -I -S ROOT`.

Reading an attribute of a card that hangs may never return. Each answer is printed when it is there, one JSON object a
line, with the fields of `probes.Kernel`; the nodes of KFD come one by one as `node`. ROOT is `/`, or a copy for tests.
"""

import json
import os
import sys
from typing import Any

NEEDED = ("dev/kfd", "dev/nvidiactl")
CLASSES = ("0x03", "0x12")
"""PCI classes: display controllers, processing accelerators (AMD Instinct)."""
VENDORS = (0x10DE, 0x1002)
"""NVIDIA, AMD."""
PROPERTIES = ("cpu_cores_count", "device_id", "drm_render_minor", "gfx_target_version", "simd_count", "unique_id")
HEAPS = ("1", "2")
"""Of KFD's memory banks: the card's own memory, visible to the processor or not."""
NAMES = "usr/share/libdrm/amdgpu.ids"
"""Lines `DEVICE, REVISION, NAME`, hexadecimal, of libdrm."""


def say(**what: Any) -> None:
    """Print one line now."""
    sys.stdout.write(f"{json.dumps(what)}\n")
    sys.stdout.flush()


def failure(error: BaseException) -> dict[str, str]:
    """Describe an exception by its name."""
    return {"error": type(error).__name__, "detail": str(getattr(error, "strerror", None) or error)[:200]}


def text(*path: str) -> str:
    """Return a file's content without the blanks around it. Raises OSError."""
    with open(os.path.join(*path), encoding="utf-8", errors="replace") as file:
        return file.read().strip()


def content(*path: str) -> str:
    """Return a file's content, empty when it cannot be read."""
    try:
        return text(*path)
    except OSError:
        return ""


def entries(*path: str) -> list[str]:
    """Return the names in a directory in order, none when it cannot be read."""
    try:
        names = os.listdir(os.path.join(*path))
    except OSError:
        return []
    return sorted(names, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))


def pci(root: str) -> list[dict[str, Any]]:
    """Return the NVIDIA and AMD devices on the bus."""
    bus = os.path.join(root, "sys/bus/pci/devices")
    found = []
    for slot in entries(bus):
        if not content(bus, slot, "class").startswith(CLASSES):
            continue
        vendor = int(content(bus, slot, "vendor") or "0", 16)
        if vendor in VENDORS:
            driver = os.path.join(bus, slot, "driver")
            found.append(
                {
                    "slot": slot,
                    "vendor": vendor,
                    "device": int(content(bus, slot, "device") or "0", 16),
                    "driver": os.path.basename(os.readlink(driver)) if os.path.islink(driver) else "",
                }
            )
    return found


def pairs(lines: str) -> dict[str, str]:
    """Read lines of a name, a blank and a value."""
    return dict(line.split(None, 1) for line in lines.splitlines() if len(line.split(None, 1)) == 2)


def node(root: str, directory: str, number: str) -> dict[str, Any]:
    """Return one node of KFD's topology."""
    answer: dict[str, Any] = {"node": int(number), "vram": failure(FileNotFoundError("no display device")), "banks": 0}
    answer |= {"product": "", "render": False}
    try:
        said = pairs(text(directory, number, "properties"))
        properties = {name: int(said[name]) for name in PROPERTIES if name in said}
    except (OSError, ValueError) as error:
        return answer | {"properties": failure(error)}
    answer["properties"] = properties
    if not properties.get("gfx_target_version"):
        return answer  # a processor
    for bank in entries(directory, number, "mem_banks"):
        about = pairs(content(directory, number, "mem_banks", bank, "properties"))
        if about.get("heap_type") in HEAPS and about.get("size_in_bytes", "").isdigit():
            answer["banks"] += int(about["size_in_bytes"])
    render = f"renderD{properties.get('drm_render_minor', 0)}"
    card = os.path.join(root, "sys/class/drm", render, "device")
    try:
        answer["vram"] = int(text(card, "mem_info_vram_total"))
    except (OSError, ValueError) as error:
        answer["vram"] = failure(error)
    answer["product"] = content(card, "product_name") or marketing_name(root, card, properties.get("device_id", 0))
    answer["render"] = os.path.exists(os.path.join(root, "dev/dri", render))
    return answer


def marketing_name(root: str, card: str, device: int) -> str:
    """Look the name up in libdrm's table, which is there where Mesa or ROCm is installed."""
    revision = content(card, "revision").removeprefix("0x").upper()
    for line in content(root, NAMES).splitlines():
        parts = [part.strip() for part in line.split(",", 2)]
        if len(parts) == 3 and parts[0].upper() == f"{device:X}" and parts[1].upper().zfill(2) == revision.zfill(2):
            return parts[2]
    return ""


def main(root: str) -> None:
    """Look at everything, and end well whatever happens."""
    try:
        say(
            nodes=["/" + path for path in NEEDED if os.path.exists(os.path.join(root, path))],
            compatible=[name for name in content(root, "proc/device-tree/compatible").split("\0") if name],
            model=content(root, "proc/device-tree/model").strip("\0"),
        )
        say(pci=pci(root))
        directory = os.path.join(root, "sys/class/kfd/kfd/topology/nodes")
        for number in entries(directory):
            if number.isdigit():
                say(node=node(root, directory, number))
    except Exception as error:
        say(failure=failure(error))


if __name__ == "__main__":
    main(sys.argv[1])
