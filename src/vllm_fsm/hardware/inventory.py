"""From what the probes said to one record per device. Pure; what is visible and chosen comes later."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from vllm_fsm.core.snapshot import Message
from vllm_fsm.hardware import tiers
from vllm_fsm.hardware.device import GIB, Device, Kind, Vendor
from vllm_fsm.hardware.probes import Failure, KfdNode, MigInstance, NvmlDevice
from vllm_fsm.hardware.tiers import Tier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_fsm.hardware.probes import Kernel, Nvml

NOT_SUPPORTED = "NotSupported"
UNNAMED = "unknown device"

T = TypeVar("T")


def nearest_gib(size: int) -> int:
    """Round dedicated memory: the steps of presets are nominal sizes, and a card of 24 GB reports 23.99 GiB."""
    return (2 * size + GIB) // (2 * GIB)


def nvidia(nvml: Nvml, kernel: Kernel, ram: int | None) -> Iterator[Device]:
    """Yield NVIDIA's devices; `ram` is the system's memory in bytes, for those that have none of their own."""
    for device in nvml.devices:
        if device.mig is True:
            yield from _instances(device)
        else:
            yield _nvidia(device, ram)
    if not nvml.devices:
        # A Jetson whose release has no NVML (vLLM, `platforms/__init__.py`, goes by other files likewise).
        for capability in _tegra(kernel):
            yield _jetson(capability, kernel, ram)


def amd(kernel: Kernel, ram: int | None) -> Iterator[Device]:
    """Yield AMD's devices in the order of KFD's nodes, which is the order of ROCm's agents."""
    index = 0
    for node in kernel.kfd:
        if isinstance(node.properties, Failure):
            if node.properties.error != "PermissionError":  # refused: another container's
                yield _lost(node.properties, index)
                index += 1
            continue
        target = tiers.gfx(node.properties.get("gfx_target_version", 0))
        if target is not None:
            yield _amd(node, target, node.properties, index, kernel, ram)
            index += 1


def _known(answer: T | Failure) -> T | None:
    return None if isinstance(answer, Failure) else answer


def _nvidia(device: NvmlDevice, ram: int | None) -> Device:
    lost = isinstance(device.uuid, Failure) and isinstance(device.name, Failure)
    unified = not lost and (
        device.capability in tiers.INTEGRATED
        or (isinstance(device.memory, Failure) and device.memory.error == NOT_SUPPORTED)
        or device.memory == 0
    )
    memory = ram if unified else _known(device.memory)
    tier, reasons = _nvidia_tier(device.capability)
    if lost and isinstance(device.uuid, Failure):
        tier, reasons = None, (Message.of("DeviceLost", error=device.uuid.error),)
    elif unified:
        reasons += (Message.of("DeviceUnified"),)
    elif isinstance(device.memory, Failure):
        reasons += (Message.of("DeviceMemoryUnknown", error=device.memory.error),)
    return Device(
        vendor=Vendor.NVIDIA,
        index=device.index,
        uuid=_known(device.uuid),
        name=_known(device.name) or UNNAMED,
        target=_capability(device.capability),
        kind=Kind.UNIFIED if unified else Kind.DEDICATED,
        memory=memory,
        memory_gib=_gib(memory, unified),
        tier=tier,
        fp8=_fp8(device.capability, tier),
        reasons=reasons,
        broken=lost or isinstance(device.capability, Failure) or (memory is None and not unified),
    )


def _instances(device: NvmlDevice) -> Iterator[Device]:
    """Yield the instances of a card in MIG mode; without any it cannot be used."""
    if not device.instances:
        yield Device(
            vendor=Vendor.NVIDIA,
            index=device.index,
            uuid=_known(device.uuid),
            name=_known(device.name) or UNNAMED,
            target=_capability(device.capability),
            kind=Kind.MIG,
            memory=None,
            memory_gib=None,
            tier=None,
            fp8=False,
            reasons=(Message.of("DeviceMigEmpty"),),
        )
    for instance in device.instances:
        yield _instance(device, instance)


def _instance(device: NvmlDevice, instance: MigInstance) -> Device:
    memory = _known(instance.memory)
    tier, reasons = _nvidia_tier(device.capability)
    if isinstance(instance.memory, Failure):
        reasons += (Message.of("DeviceMemoryUnknown", error=instance.memory.error),)
    ids = (_known(instance.gpu_instance), _known(instance.compute_instance))
    return Device(
        vendor=Vendor.NVIDIA,
        index=device.index,
        uuid=_known(instance.uuid),
        name=_known(instance.name) or _known(device.name) or UNNAMED,
        target=_capability(device.capability),
        kind=Kind.MIG,
        memory=memory,
        memory_gib=_gib(memory, unified=False),
        tier=tier,
        fp8=_fp8(device.capability, tier),
        reasons=reasons,
        broken=memory is None or isinstance(device.capability, Failure),
        card=_known(device.uuid),
        instance=None if ids[0] is None or ids[1] is None else (ids[0], ids[1]),
        mig_index=instance.index,
    )


def _tegra(kernel: Kernel) -> list[tuple[int, int]]:
    """Return the compute capability of the system on a chip, if it is a known one."""
    return [tiers.TEGRA[name] for name in kernel.compatible if name in tiers.TEGRA][:1]


def _jetson(capability: tuple[int, int], kernel: Kernel, ram: int | None) -> Device:
    tier, reasons = _nvidia_tier(capability)
    return Device(
        vendor=Vendor.NVIDIA,
        index=0,
        uuid=None,
        name=kernel.model or UNNAMED,
        target=_capability(capability),
        kind=Kind.UNIFIED,
        memory=ram,
        memory_gib=_gib(ram, unified=True),
        tier=tier,
        fp8=_fp8(capability, tier),
        reasons=(*reasons, Message.of("DeviceUnified")),
    )


def _amd(node: KfdNode, target: str, properties: dict[str, int], index: int, kernel: Kernel, ram: int | None) -> Device:
    apu = (
        target in tiers.AMD_APUS
        or properties.get("device_id") == tiers.MI300A
        or (properties.get("cpu_cores_count", 0) > 0 and properties.get("simd_count", 0) > 0)
    )
    memory = ram if apu else _known(node.vram) or node.banks or None
    tier, reasons = _amd_tier(target)
    missing = _missing(node, properties, kernel)
    if missing:
        tier, reasons = None, (Message.of("DeviceNoAccess", path=missing),)
    if apu:
        reasons += (Message.of("DeviceUnified"),)
    elif memory is None and isinstance(node.vram, Failure):
        reasons += (Message.of("DeviceMemoryUnknown", error=node.vram.error),)
    unique = properties.get("unique_id", 0)
    return Device(
        vendor=Vendor.AMD,
        index=index,
        uuid=f"GPU-{unique:016x}" if unique else None,
        name=node.product or f"AMD {target}",
        target=target,
        kind=Kind.UNIFIED if apu else Kind.DEDICATED,
        memory=memory,
        memory_gib=_gib(memory, apu),
        tier=tier,
        fp8=tier is not None and tiers.AMD_TARGETS[target],
        reasons=reasons,
        broken=memory is None and not apu,
    )


def _lost(failure: Failure, index: int) -> Device:
    return Device(
        vendor=Vendor.AMD,
        index=index,
        uuid=None,
        name=UNNAMED,
        target=None,
        kind=Kind.DEDICATED,
        memory=None,
        memory_gib=None,
        tier=None,
        fp8=False,
        reasons=(Message.of("DeviceLost", error=failure.error),),
        broken=True,
    )


def _missing(node: KfdNode, properties: dict[str, int], kernel: Kernel) -> str | None:
    """Return the device file that this process would need and has not been given."""
    if "/dev/kfd" not in kernel.nodes:
        return "/dev/kfd"
    return None if node.render else f"/dev/dri/renderD{properties.get('drm_render_minor', 0)}"


def _nvidia_tier(capability: tuple[int, int] | Failure) -> tuple[Tier | None, tuple[Message, ...]]:
    if isinstance(capability, Failure):
        return None, (Message.of("DeviceTargetUnknown", error=capability.error),)
    tier = tiers.nvidia(capability)
    target = _capability(capability) or ""
    if tier is None:
        return None, (Message.of("DeviceTooOld", target=target),)
    return tier, (Message.of("DeviceCapability", target=target, tier=tier.value),)


def _amd_tier(target: str) -> tuple[Tier | None, tuple[Message, ...]]:
    if target in tiers.AMD_TARGETS:
        sentence = "DeviceTarget" if tiers.AMD_TARGETS[target] else "DeviceTargetNoFp8"
        return Tier.AMD, (Message.of(sentence, target=target),)
    sentence = "DeviceInProcessor" if target in tiers.AMD_APUS else "DeviceTargetUnsupported"
    return None, (Message.of(sentence, target=target),)


def _capability(capability: tuple[int, int] | Failure) -> str | None:
    return None if isinstance(capability, Failure) else f"{capability[0]}.{capability[1]}"


def _fp8(capability: tuple[int, int] | Failure, tier: Tier | None) -> bool:
    return tier is not None and not isinstance(capability, Failure) and capability >= tiers.FP8_FROM


def _gib(memory: int | None, unified: bool) -> int | None:
    if memory is None:
        return None
    return memory // GIB if unified else nearest_gib(memory)
