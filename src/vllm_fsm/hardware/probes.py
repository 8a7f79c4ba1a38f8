"""What the machine was asked and what it said, or how the question failed: values only, there and back as JSON.

One `Probes` is a recording of one machine. Everything that is decided about hardware is decided from it and the
environment (`machine.decide`), so that a machine which is not at hand can be told by a file.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Failure:
    """A question without an answer."""

    error: str
    """A stable word: what NVML calls it (`NotSupported`, `GpuIsLost`), an exception's name, or one of ours:
    `TimedOut`, `Crashed`, `NoBinding`."""
    detail: str = ""
    """What was said about it, for people."""


@dataclass(frozen=True, slots=True)
class MigInstance:
    """One MIG instance; memory in bytes."""

    index: int
    uuid: str | Failure
    name: str | Failure
    memory: int | Failure
    gpu_instance: int | Failure
    compute_instance: int | Failure


@dataclass(frozen=True, slots=True)
class NvmlDevice:
    """One device as NVML counts them: by PCI address. Each field fails by itself."""

    index: int
    uuid: str | Failure
    name: str | Failure
    capability: tuple[int, int] | Failure
    memory: int | Failure
    """Bytes in all."""
    bus: str | Failure
    mig: bool | Failure
    """Whether MIG mode is on."""
    instances: tuple[MigInstance, ...] = ()


@dataclass(frozen=True, slots=True)
class Nvml:
    """What NVML said. With a failure, the devices are those that were told before it."""

    count: int | None = None
    driver: str | Failure | None = None
    devices: tuple[NvmlDevice, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class KfdNode:
    """One node of `/sys/class/kfd/kfd/topology/nodes`, with its display device."""

    node: int
    properties: dict[str, int] | Failure
    """Of the file `properties`. The kernel refuses those that the device control group forbids."""
    vram: int | Failure
    """Bytes, `mem_info_vram_total`."""
    banks: int
    """Bytes of the node's own memory banks (heap types 1 and 2)."""
    product: str
    """Marketing name, empty when nobody knows it."""
    render: bool
    """Whether its `/dev/dri/renderD…` is there."""


@dataclass(frozen=True, slots=True)
class PciDevice:
    """A display controller or accelerator on the PCI bus, whether or not a driver has it."""

    slot: str
    vendor: int
    device: int
    driver: str
    """The kernel driver that is bound to it, empty for none."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the kernel's files said about devices. With a failure, the rest is what was told before it."""

    pci: tuple[PciDevice, ...] = ()
    kfd: tuple[KfdNode, ...] = ()
    nodes: tuple[str, ...] = ()
    """Which of the device files exist that the drivers need: `/dev/kfd`, `/dev/nvidiactl`."""
    compatible: tuple[str, ...] = ()
    """The device tree's `compatible`, on machines that have one."""
    model: str = ""
    """The device tree's `model`."""
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class CgroupLimit:
    """One memory limit above us, as it stands in its file."""

    file: str
    text: str


@dataclass(frozen=True, slots=True)
class Memory:
    """System memory."""

    physical: int | Failure
    """Bytes."""
    limits: tuple[CgroupLimit, ...] = ()


@dataclass(frozen=True, slots=True)
class Probes:
    """One machine."""

    nvml: Nvml
    kernel: Kernel
    memory: Memory


def to_json(value: Any) -> Any:
    """Return `value` as what `json.dumps` takes; a failure is an object with `error`."""
    if is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return value


def from_json(document: dict[str, Any]) -> Probes:
    """Read a recording.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    return Probes(nvml(document["nvml"]), kernel(document["kernel"]), _memory(document["memory"]))


def nvml(document: dict[str, Any]) -> Nvml:
    """Read what the child that asks NVML printed."""
    return Nvml(
        count=document.get("count"),
        driver=_answer(document.get("driver")),
        devices=tuple(_nvml_device(device) for device in document.get("devices", ())),
        failure=_answer(document.get("failure")),
    )


def kernel(document: dict[str, Any]) -> Kernel:
    """Read what the child that looks at the kernel's files printed."""
    return Kernel(
        pci=tuple(PciDevice(**device) for device in document.get("pci", ())),
        kfd=tuple(
            KfdNode(**{name: _answer(value) for name, value in node.items()}) for node in document.get("kfd", ())
        ),
        nodes=tuple(document.get("nodes", ())),
        compatible=tuple(document.get("compatible", ())),
        model=document.get("model", ""),
        failure=_answer(document.get("failure")),
    )


def _nvml_device(document: dict[str, Any]) -> NvmlDevice:
    values = {name: _answer(value) for name, value in document.items() if name != "instances"}
    if isinstance(values["capability"], list):
        major, minor = values["capability"]
        values["capability"] = (major, minor)
    instances = (
        MigInstance(**{name: _answer(value) for name, value in instance.items()})
        for instance in document.get("instances", ())
    )
    return NvmlDevice(**values, instances=tuple(instances))


def _memory(document: dict[str, Any]) -> Memory:
    return Memory(
        physical=_answer(document["physical"]),
        limits=tuple(CgroupLimit(**limit) for limit in document.get("limits", ())),
    )


def _answer(value: Any) -> Any:
    """Turn an object with `error` into the failure that it is."""
    return Failure(**value) if isinstance(value, dict) and "error" in value else value
