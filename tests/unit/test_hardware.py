"""What a device is and what is chosen: the cases that no machine of the page shows."""

from dataclasses import replace

import pynvml
import pytest

from support import machines
from vllm_fsm.hardware import inventory, machine, tiers
from vllm_fsm.hardware.device import GIB, Kind
from vllm_fsm.hardware.machine import Build, decide
from vllm_fsm.hardware.probes import Failure, Kernel, PciDevice, from_json
from vllm_fsm.hardware.tiers import Tier
from vllm_fsm.hardware.visibility import CUDA, HIP, ORDER, ROCR, TOOLKIT


def probes(name):
    return from_json(machines.load(name).content["probes"])


def with_device(name, /, **fields):
    """A machine whose first NVML device says something else."""
    said = probes(name)
    first, *others = said.nvml.devices
    return replace(said, nvml=replace(said.nvml, devices=(replace(first, **fields), *others)))


def with_node(name, /, **fields):
    """A machine whose last KFD node says something else."""
    said = probes(name)
    *others, last = said.kernel.kfd
    return replace(said, kernel=replace(said.kernel, kfd=(*others, replace(last, **fields))))


def ids(messages):
    return [message.id for message in messages]


@pytest.mark.parametrize(
    ("capability", "tier"),
    [
        ((12, 1), Tier.BLACKWELL),
        ((10, 0), Tier.BLACKWELL),
        ((9, 0), Tier.HOPPER),
        ((8, 9), Tier.OLDER),
        ((8, 0), Tier.OLDER),
        ((7, 5), None),
        ((0, 0), None),
    ],
)
def test_tiers_go_by_capability(capability, tier):
    assert tiers.nvidia(capability) is tier


@pytest.mark.parametrize(
    ("version", "name"),
    [
        (90010, "gfx90a"),
        (90402, "gfx942"),
        (90500, "gfx950"),
        (90012, "gfx90c"),
        (100306, "gfx1036"),
        (110000, "gfx1100"),
        (110501, "gfx1151"),
        (120001, "gfx1201"),
        (0, None),
    ],
)
def test_targets_are_named_as_llvm_does(version, name):
    assert tiers.gfx(version) == name


def test_a_target_is_either_supported_or_a_processors():
    assert not set(tiers.AMD_TARGETS) & tiers.AMD_APUS


@pytest.mark.parametrize(
    ("size", "gib"),
    [(0, 0), (GIB // 2 - 1, 0), (GIB // 2, 1), (25757220864, 24), (23034 << 20, 22), (9728 << 20, 10)],
)
def test_dedicated_memory_goes_to_the_nearest(size, gib):
    assert inventory.nearest_gib(size) == gib


def test_our_words_are_those_of_nvml():
    words = (set(machine.NVML_WORDS) - {"NoBinding", "TimedOut", "Crashed"}) | (machine.ABSENT - {"NoBinding"})
    words |= {inventory.NOT_SUPPORTED}
    assert {word for word in words if not hasattr(pynvml, f"NVMLError_{word}")} == set()


def test_a_capability_that_cannot_be_read_is_no_tier():
    found = decide(with_device("h100", capability=Failure("Unknown")), {})
    assert ids(found.devices[0].reasons) == ["DeviceTargetUnknown"]
    assert (found.tier, found.complete) == (None, False)


def test_memory_that_cannot_be_read_is_unknown_and_the_tier_is_not():
    found = decide(with_device("h100", memory=Failure("Unknown")), {})
    assert ids(found.devices[0].reasons) == ["DeviceCapability", "DeviceMemoryUnknown"]
    assert (found.tier, found.memory_gib, found.complete) == (Tier.HOPPER, None, False)


@pytest.mark.parametrize("memory", [121 * GIB, 0, Failure("NotSupported"), Failure("Unknown")])
def test_an_integrated_part_uses_the_systems_memory_whatever_nvml_says(memory):
    device = decide(with_device("gb10", memory=memory), {}).devices[0]
    assert (device.kind, device.memory_gib) == (Kind.UNIFIED, 121)


def test_not_supported_makes_a_part_of_the_future_unified():
    device = decide(with_device("gb10", capability=(13, 0)), {}).devices[0]
    assert (device.kind, device.tier) == (Kind.UNIFIED, Tier.BLACKWELL)


def test_a_name_that_cannot_be_read():
    device = decide(with_device("h100", name=Failure("Unknown")), {}).devices[0]
    assert (device.name, device.tier, device.broken) == ("unknown device", Tier.HOPPER, False)


def test_system_memory_that_cannot_be_read():
    said = probes("gb10")
    found = decide(replace(said, memory=replace(said.memory, physical=Failure("OSError"))), {})
    assert (found.tier, found.memory_gib, found.ram_gib, found.complete) == (Tier.BLACKWELL, None, None, False)
    assert ids(found.notes) == ["ChosenOnly", "MemoryUnknown"]


def test_an_instance_whose_memory_cannot_be_read():
    said = probes("mig-1g")
    card = said.nvml.devices[0]
    broken = replace(card.instances[0], memory=Failure("Unknown"), gpu_instance=Failure("Unknown"))
    found = decide(replace(said, nvml=replace(said.nvml, devices=(replace(card, instances=(broken,)),))), {})
    assert ids(found.devices[0].reasons) == ["DeviceCapability", "DeviceMemoryUnknown"]
    assert (found.devices[0].instance, found.complete) == (None, False)


def test_a_mi300a_uses_the_systems_memory():
    node = probes("mi300x-x8").kernel.kfd[-1]
    properties = node.properties | {"device_id": tiers.MI300A}
    device = decide(with_node("mi300x-x8", properties=properties, vram=Failure("FileNotFoundError")), {}).devices[-1]
    assert (device.kind, device.tier, device.broken) == (Kind.UNIFIED, Tier.AMD, False)


def test_a_radeon_whose_memory_cannot_be_read():
    found = decide(with_node("rx7900xtx", vram=Failure("OSError"), banks=0), {})
    assert ids(found.devices[0].reasons) == ["DeviceTargetNoFp8", "DeviceMemoryUnknown"]
    assert not found.complete


def test_a_target_that_nobody_supports():
    node = probes("rx7900xtx").kernel.kfd[-1]
    found = decide(with_node("rx7900xtx", properties=node.properties | {"gfx_target_version": 100300}), {})
    assert (found.devices[0].target, ids(found.devices[0].reasons)) == ("gfx1030", ["DeviceTargetUnsupported"])


def test_a_node_of_another_container_is_not_ours():
    found = decide(with_node("rx7900xtx", properties=Failure("PermissionError")), {})
    assert (found.devices, found.complete) == ((), True)


def test_a_missing_render_node_is_named():
    found = decide(with_node("rx7900xtx", render=False), {})
    assert found.devices[0].reasons[0].params == (("path", "/dev/dri/renderD128"),)


def test_an_amd_card_without_compute_is_noted_and_no_failure():
    said = probes("no-gpu")
    card = PciDevice("0000:03:00.0", machine.AMD_PCI, 0x744C, "")
    found = decide(replace(said, kernel=replace(said.kernel, pci=(card,))), {})
    assert (ids(found.notes), found.complete) == (["NoAccelerator", "AmdNoCompute"], True)


def test_a_node_for_processors_only_is_no_compute_interface():
    said = probes("rx7900xtx")
    found = decide(replace(said, kernel=replace(said.kernel, kfd=said.kernel.kfd[:1])), {})
    assert ids(found.notes) == ["NoAccelerator", "AmdNoCompute"]


def test_what_was_told_before_a_hang_is_used_and_not_complete():
    said = probes("h200-x8")
    hung = replace(said.nvml, devices=said.nvml.devices[:3], failure=Failure("TimedOut", "no answer within 5 s"))
    found = decide(replace(said, nvml=hung), {})
    assert (found.tier, found.count, found.complete) == (Tier.HOPPER, 3, False)
    assert ids(found.notes) == ["ChosenEqual", "NvmlHangs"]


def test_the_kernel_hanging_is_said():
    said = probes("h100")
    for word, note in (("TimedOut", "KernelHangs"), ("OSError", "KernelFailed")):
        found = decide(replace(said, kernel=Kernel(failure=Failure(word))), {})
        assert (ids(found.notes), found.complete) == (["ChosenOnly", note], False)


@pytest.mark.parametrize(
    ("name", "build", "tier", "note"),
    [
        ("h100", Build.CUDA, Tier.HOPPER, "ChosenOnly"),
        ("h100", Build.ROCM, Tier.CPU, "NoneForBuild"),
        ("h100", Build.CPU, Tier.CPU, "ChosenCpuBuild"),
        ("driver-broken", Build.CPU, Tier.CPU, "ChosenCpuBuild"),
        ("driver-broken", Build.CUDA, None, "NvmlMismatch"),
        ("no-gpu", Build.CUDA, Tier.CPU, "NoAccelerator"),
        ("nvidia-and-amd", Build.CUDA, Tier.OLDER, "ChosenOnly"),
    ],
)
def test_the_build_decides_whose_devices_count(name, build, tier, note):
    found = decide(probes(name), {}, build)
    assert (found.tier, found.notes[0].id) == (tier, note)


def test_what_does_not_matter_for_the_build_may_fail():
    for name in ("driver-broken", "nvml-missing", "half-lost"):
        assert decide(probes(name), {}, Build.CPU).complete
        assert decide(probes(name), {}, Build.ROCM).complete
        assert not decide(probes(name), {}, Build.CUDA).complete


def test_a_variable_hides_what_the_build_would_use():
    assert decide(probes("nvidia-and-amd"), {CUDA: "-1"}, Build.CUDA).notes[0].params == (("variable", CUDA),)
    assert ids(decide(probes("rtx4090-x2"), {CUDA: "-1"}, Build.ROCM).notes) == ["NoneForBuild"]


def test_a_single_large_device_wins_over_several_small_ones_and_numbers_win_over_nothing():
    said = probes("rtx4090-rtx3060")
    small, large = said.nvml.devices
    three = tuple(replace(small, index=index, uuid=f"GPU-3{index}") for index in (0, 2, 3))
    found = decide(replace(said, nvml=replace(said.nvml, devices=(three[0], large, *three[1:]))), {})
    assert [device.name for device in found.chosen] == [large.name]
    weak = replace(large, memory=small.memory)
    found = decide(replace(said, nvml=replace(said.nvml, devices=(three[0], weak, *three[1:]))), {})
    assert [device.index for device in found.chosen] == [0, 2, 3]


def test_equal_devices_need_nothing_set():
    for environment in ({}, {CUDA: "1,0"}, {CUDA: "0"}, {TOOLKIT: "all"}):
        assert decide(probes("rtx4090-x2"), environment).environment == ()


def test_numbers_of_differing_devices_are_read_in_pci_order_and_said_to_be_uncertain():
    found = decide(probes("rtx4090-rtx3060"), {CUDA: "0"})
    assert found.chosen[0].name == "NVIDIA GeForce RTX 3060"
    assert "CudaOrderUnknown" in ids(found.notes)
    assert found.environment == ((CUDA, found.chosen[0].uuid),)
    certain = decide(probes("rtx4090-rtx3060"), {CUDA: "0", ORDER: "PCI_BUS_ID"})
    assert (ids(certain.notes), certain.environment) == (["ChosenOnly"], ())


def test_numbers_that_name_nothing_are_no_question_of_order():
    assert ids(decide(probes("rtx4090-rtx3060"), {CUDA: "-1"}).notes) == ["AllHidden"]


def test_what_the_toolkit_would_hide_must_be_hidden_from_cuda():
    found = decide(probes("rtx4090-x2"), {TOOLKIT: "1"})
    assert found.environment == ((CUDA, found.devices[1].uuid),)


def test_devices_without_a_uuid_are_named_by_number():
    said = with_device("rtx4090-rtx3060", uuid="GPU-1")
    large = replace(said.nvml.devices[1], uuid=Failure("Unknown"))
    found = decide(replace(said, nvml=replace(said.nvml, devices=(said.nvml.devices[0], large))), {})
    assert found.environment == ((ORDER, "PCI_BUS_ID"), (CUDA, "1"))


def test_rocm_counts_after_rocr_and_both_variables_agree():
    found = decide(probes("radeon-and-apu"), {ROCR: "1,0"})
    assert found.environment == ((HIP, "1"),)
    found = decide(probes("radeon-and-apu"), {CUDA: "1,0"})
    assert found.environment == ((HIP, "0"), (CUDA, "0"))


def test_differing_variables_of_rocm_are_told():
    assert "HipCudaDiffer" in ids(decide(probes("mi250"), {HIP: "0", CUDA: "1"}).notes)
    assert "HipCudaDiffer" not in ids(decide(probes("nvidia-and-apu"), {HIP: "0", CUDA: "0,1"}).notes)


def test_the_hidden_say_by_what():
    found = decide(probes("rtx4090-x2"), {CUDA: "1"})
    assert [device.hidden for device in found.devices] == [CUDA, None]
    assert found.devices[0].reasons[-1].params == (("variable", CUDA),)
