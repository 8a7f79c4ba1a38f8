"""What this machine can serve with: `decide` makes one answer of the probes and the environment. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from vllm_fsm.core.snapshot import Message
from vllm_fsm.hardware import cgroups, inventory, visibility
from vllm_fsm.hardware.device import GIB, Device, Kind, Vendor
from vllm_fsm.hardware.probes import Failure, Kernel, Nvml
from vllm_fsm.hardware.tiers import Tier
from vllm_fsm.hardware.visibility import View

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_fsm.hardware.probes import Memory, Probes

NVIDIA_PCI: Final = 0x10DE
AMD_PCI: Final = 0x1002

NVML_WORDS: Final = {
    "NoBinding": "NvmlBindingMissing",
    "LibraryNotFound": "NvmlMissing",
    "LibRmVersionMismatch": "NvmlMismatch",
    "DriverNotLoaded": "NvmlDriverNotLoaded",
    "NoPermission": "NvmlNoPermission",
    "TimedOut": "NvmlHangs",
    "Crashed": "NvmlCrashed",
}
"""The sentence for each way in which NVML as a whole fails; `NvmlFailed` for any other."""
ABSENT: Final = frozenset({"NoBinding", "LibraryNotFound", "DriverNotLoaded", "NotSupported"})
"""Failures that mean nothing on a machine without an NVIDIA device."""
KERNEL_WORDS: Final = {"TimedOut": "KernelHangs"}


class Build(StrEnum):
    """Which build of vLLM serves: it uses devices of one vendor, or none."""

    CUDA = "cuda"
    ROCM = "rocm"
    CPU = "cpu"


VENDORS: Final[dict[Build | None, tuple[Vendor, ...]]] = {
    None: (Vendor.NVIDIA, Vendor.AMD),
    Build.CUDA: (Vendor.NVIDIA,),
    Build.ROCM: (Vendor.AMD,),
    Build.CPU: (),
}
"""Whose devices a build uses, those first that are preferred."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The devices, and the equal ones among them that a model is served with."""

    devices: tuple[Device, ...]
    tier: Tier | None
    """What presets are chosen by; None when it cannot be told since a probe failed."""
    memory_gib: int | None
    """Of one chosen device; of the system when there is none."""
    count: int
    """How many equal devices are chosen."""
    fp8: bool
    """Whether the chosen devices calculate in FP8."""
    ram_gib: int | None
    """System memory, the smallest limit above us counted, rounded down."""
    environment: tuple[tuple[str, str], ...]
    """What must be set for the engine so that it uses the chosen devices; empty when it does so by itself."""
    notes: tuple[Message, ...]
    """Why these, and what failed."""
    complete: bool
    """Whether every probe answered that matters for the build. What is not complete must be asked again and not be
    remembered."""

    @property
    def chosen(self) -> tuple[Device, ...]:
        """The devices that a model is served with."""
        return tuple(device for device in self.devices if device.chosen)


def system_memory(memory: Memory) -> int | None:
    """Return the bytes that we may use: the smaller of physical memory and every limit above us; None if unknown."""
    sizes = [size for size in (cgroups.limit(limit.text) for limit in memory.limits) if size is not None]
    if not isinstance(memory.physical, Failure):
        return min([memory.physical, *sizes])
    # A limit alone may be "unlimited" in version 1's spelling: it says nothing about what is there.
    return None


def decide(probes: Probes, environment: Mapping[str, str], build: Build | None = None) -> Machine:
    """Make the answer. `environment` is the engine's; `build` is what will serve, None for what the devices suggest.

    vLLM takes the first devices that it sees, and tensor parallelism needs equal ones. Of the usable and visible
    devices, equal ones make a group; the group whose single device has the most memory wins, then the larger group,
    then the first. Where the engine would take others by itself, `environment` of the answer makes it take these.
    """
    ram = system_memory(probes.memory)
    of_nvidia = tuple(inventory.nvidia(probes.nvml, probes.kernel, ram))
    of_amd = tuple(inventory.amd(probes.kernel, ram))
    nvidia, amd = visibility.nvidia(of_nvidia, environment), visibility.amd(of_amd, environment)
    devices, hidden = of_nvidia + of_amd, nvidia.hidden | amd.hidden
    failures, complete = _failures(probes, devices, VENDORS[build])
    group, notes = _choose(nvidia, amd, build)
    tier: Tier | None = group[0].tier if group else Tier.CPU
    pinned: tuple[tuple[str, str], ...] = ()
    if group:
        pinned = (
            _pin_nvidia(group, nvidia, environment)
            if group[0].vendor is Vendor.NVIDIA
            else _pin_amd(group, amd, environment)
        )
    elif complete:
        notes += (_nothing(devices, hidden, build),)
    else:
        tier = None
    return Machine(
        devices=tuple(_shown(device, hidden.get(device), device in group) for device in devices),
        tier=tier,
        memory_gib=group[0].memory_gib if group else _floor(ram),
        count=len(group),
        fp8=bool(group) and group[0].fp8,
        ram_gib=_floor(ram),
        environment=pinned,
        notes=notes + _about_variables(group, nvidia, amd, environment) + failures,
        complete=complete,
    )


def _shown(device: Device, hider: str | None, chosen: bool) -> Device:
    reasons = (*device.reasons, Message.of("DeviceHidden", variable=hider)) if hider else device.reasons
    return replace(device, hidden=hider, chosen=chosen, reasons=reasons)


def _choose(nvidia: View, amd: View, build: Build | None) -> tuple[tuple[Device, ...], tuple[Message, ...]]:
    """Return the best group of equal devices, in the runtime's order, and why it is that one."""
    left = {Vendor.NVIDIA: nvidia.left, Vendor.AMD: amd.left}
    usable = [tuple(device for device in left[vendor] if device.tier is not None) for vendor in VENDORS[build]]
    candidates = next((devices for devices in usable if devices), ())
    if not candidates:
        return (), ()
    groups: dict[object, tuple[Device, ...]] = {}
    for device in candidates:
        groups[device.equal] = (*groups.get(device.equal, ()), device)
    # CUDA enumerates one MIG instance in a process, whatever there is (MIG user guide, "Device enumeration").
    ranked = [group[:1] if group[0].kind is Kind.MIG else group for group in groups.values()]
    best = max(ranked, key=lambda group: (-1 if group[0].memory_gib is None else group[0].memory_gib, len(group)))
    notes = (_why(best, candidates),)
    return best, (Message.of("ChosenVendor"), *notes) if all(usable) and len(usable) > 1 else notes


def _why(best: tuple[Device, ...], candidates: tuple[Device, ...]) -> Message:
    if len(candidates) == 1:
        return Message.of("ChosenOnly")
    if best[0].kind is Kind.MIG:
        return Message.of("ChosenInstance", of=len(candidates))
    if len(best) == len(candidates):
        return Message.of("ChosenEqual", count=len(best))
    return Message.of("ChosenBest", name=best[0].name, count=len(best), of=len(candidates))


def _nothing(devices: Sequence[Device], hidden: Mapping[Device, str], build: Build | None) -> Message:
    """Say why no device is chosen although every probe answered."""
    if build is Build.CPU:
        return Message.of("ChosenCpuBuild")
    if not devices:
        return Message.of("NoAccelerator")
    usable = [device for device in devices if device.tier is not None]
    variable = next((hidden[one] for one in usable if one in hidden and one.vendor in VENDORS[build]), None)
    if variable:
        return Message.of("AllHidden", variable=variable)
    return Message.of("NoneForBuild", build=build.value) if usable and build else Message.of("NoneUsable")


def _pin_nvidia(group: tuple[Device, ...], view: View, environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the variables that make CUDA see exactly `group`, none where it does so by itself.

    CUDA counts the fastest device as 0 unless CUDA_DEVICE_ORDER says otherwise, and by which measure is not documented.
    Where devices differ, what it would take first is therefore not known; UUIDs say it.
    """
    # The toolkit's variable means nothing to CUDA.
    own = {name: value for name, value in environment.items() if name != visibility.TOOLKIT}
    if group == visibility.nvidia(view.counted, own).left and _order_is_known(view, environment):
        return ()
    uuids = [device.uuid for device in group if device.uuid is not None]
    if len(uuids) == len(group):
        return ((visibility.CUDA, ",".join(uuids)),)
    numbers = ",".join(str(device.index) for device in group)
    return ((visibility.ORDER, visibility.PCI_ORDER), (visibility.CUDA, numbers))


def _pin_amd(group: tuple[Device, ...], view: View, environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the variables that make ROCm see exactly `group`, none where it does so by itself.

    vLLM 0.32 takes numbers only, and does not start when HIP's and CUDA's variables differ (`platforms/rocm.py`).
    """
    if group == view.left:
        return ()
    numbers = ",".join(str(view.counted.index(device)) for device in group)
    names = [visibility.HIP, visibility.CUDA] if environment.get(visibility.CUDA) else [visibility.HIP]
    return tuple((name, numbers) for name in names)


def _about_variables(
    group: tuple[Device, ...], nvidia: View, amd: View, environment: Mapping[str, str]
) -> tuple[Message, ...]:
    """Say which variables do not mean what one may think."""
    notes = []
    if group and group[0].vendor is Vendor.NVIDIA and not _order_is_known(nvidia, environment):
        notes.append(Message.of("CudaOrderUnknown"))
    hip, cuda = environment.get(visibility.HIP), environment.get(visibility.CUDA)
    if amd.counted and hip and cuda and hip != cuda and (not group or group[0].vendor is Vendor.AMD):
        notes.append(Message.of("HipCudaDiffer"))
    return tuple(notes)


def _order_is_known(nvidia: View, environment: Mapping[str, str]) -> bool:
    """Tell whether numbers in CUDA_VISIBLE_DEVICES, if there are any, mean the devices that we take them for."""
    return (
        environment.get(visibility.ORDER) == visibility.PCI_ORDER
        or not visibility.by_number(environment.get(visibility.CUDA))
        or len({device.equal for device in nvidia.counted}) <= 1
    )


def _failures(probes: Probes, devices: Sequence[Device], vendors: Sequence[Vendor]) -> tuple[tuple[Message, ...], bool]:
    """Return what did not answer of that which concerns these vendors' devices, and whether all of it did."""
    notes = []
    nvml, kernel = probes.nvml if Vendor.NVIDIA in vendors else Nvml(), probes.kernel if vendors else Kernel()
    if nvml.failure is not None and (nvml.failure.error not in ABSENT or _nvidia_is_there(probes)):
        id_ = NVML_WORDS.get(nvml.failure.error)
        failed = nvml.failure.detail or nvml.failure.error
        notes.append(Message.of(id_) if id_ else Message.of("NvmlFailed", error=failed))
    if kernel.failure is not None:
        id_ = KERNEL_WORDS.get(kernel.failure.error)
        notes.append(Message.of(id_) if id_ else Message.of("KernelFailed", error=kernel.failure.error))
    broken = [device for device in devices if device.broken and device.vendor in vendors]
    if broken:
        notes.append(Message.of("DevicesBroken", count=len(broken), of=len(devices)))
    if isinstance(probes.memory.physical, Failure):
        notes.append(Message.of("MemoryUnknown", error=probes.memory.physical.error))
    complete = not notes
    cards = [node for node in kernel.kfd if isinstance(node.properties, Failure) or node.properties.get("simd_count")]
    amd = Vendor.AMD in vendors and any(device.vendor == AMD_PCI for device in kernel.pci)
    if amd and not cards and kernel.failure is None:
        notes.append(Message.of("AmdNoCompute"))
    return tuple(notes), complete


def _nvidia_is_there(probes: Probes) -> bool:
    """Tell whether there is an NVIDIA device for which NVML should have answered."""
    if any(device.vendor == Vendor.NVIDIA for device in inventory.nvidia(probes.nvml, probes.kernel, None)):
        return False  # a Jetson of a release without NVML: known by other means
    return "/dev/nvidiactl" in probes.kernel.nodes or any(device.vendor == NVIDIA_PCI for device in probes.kernel.pci)


def _floor(size: int | None) -> int | None:
    return None if size is None else size // GIB
