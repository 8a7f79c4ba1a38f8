"""What `…_VISIBLE_DEVICES` leave: the rules of the runtimes, one by one, and what holds for any text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import machines
from vllm_fsm.hardware import visibility
from vllm_fsm.hardware.device import Device, Kind, Vendor
from vllm_fsm.hardware.tiers import Tier
from vllm_fsm.hardware.visibility import CUDA, HIP, ROCR, TOOLKIT

PROPER = machines.all_()


def device(index, vendor=Vendor.NVIDIA, **more):
    values = {"uuid": f"GPU-{index}a{index}b", "name": "x", "target": "9.0", "kind": Kind.DEDICATED}
    values |= {"memory": 1, "memory_gib": 1, "tier": Tier.HOPPER, "fp8": True, "reasons": ()} | more
    return Device(vendor=vendor, index=index, **values)


def instance(index, number):
    return device(
        index,
        uuid=f"MIG-{index}c{number}d",
        kind=Kind.MIG,
        card=f"GPU-{index}a{index}b",
        instance=(number + 1, 0),
        mig_index=number,
    )


CARDS = tuple(device(index) for index in range(4))
RADEONS = tuple(device(index, Vendor.AMD, uuid=f"GPU-{index}{0xAB:015x}") for index in range(4))
PARTS = (instance(0, 0), instance(0, 2), device(1))


def cuda(value, devices=CARDS, **others):
    return [devices.index(one) for one in visibility.nvidia(devices, {CUDA: value} | others).left]


def rocm(devices=RADEONS, **variables):
    return [devices.index(one) for one in visibility.amd(devices, variables).left]


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ("0", [0]),
        ("2,1", [2, 1]),
        (" 2 , 1 ", [2, 1]),
        ("", []),
        ("-1", []),
        ("0,-1,1", [0]),
        ("0,9,1", [0]),
        ("0,x,1", [0]),
        ("1gpu,2nd", [1, 2]),
        ("+1", [1]),
        ("1,1", []),
        ("NoDevFiles", []),
        ("9" * 5000, []),
        ("GPU-1a1b", [1]),
        ("GPU-1", [1]),
        ("gpu-1", []),
        ("GPU-1,GPU-0", [1, 0]),
        ("GPU-", []),
        ("GPU-1,GPU-1a", []),
        ("GPU-1,nothing,GPU-0", [1]),
        ("GPU-1,0", [1]),
        ("1,GPU-0", [1]),
        ("MIG-0", []),
    ],
)
def test_cuda(value, left):
    assert cuda(value) == left


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ("0", [0, 1]),
        ("1", [2]),
        ("MIG-0c2d", [1]),
        ("MIG-0c2", [1]),
        ("MIG-0c", []),
        ("MIG-GPU-0a0b/3/0", [1]),
        ("MIG-GPU-0a0b/3/1", []),
        ("GPU-0a0b", [0, 1]),
        ("GPU-1", [2]),
    ],
)
def test_instances(value, left):
    assert cuda(value, PARTS) == left


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ("all", [0, 1, 2, 3]),
        ("void", [0, 1, 2, 3]),
        ("", [0, 1, 2, 3]),
        ("none", []),
        ("2", [2]),
        ("3,1", [1, 3]),
        ("GPU-2a2b", [2]),
        ("GPU-9", []),
        ("5,6,7,8", [0, 1, 2, 3]),
        ("/var/run/nvidia-container-devices", [0, 1, 2, 3]),
    ],
)
def test_the_toolkit(value, left):
    assert [CARDS.index(one) for one in visibility.nvidia(CARDS, {TOOLKIT: value}).left] == left


@pytest.mark.parametrize(
    ("value", "left"), [("0:2", [1]), ("MIG-0c0d", [0]), ("1", [2]), ("0:0,0:2,1:0", [0, 1, 2]), ("GPU-0", [0, 1])]
)
def test_the_toolkit_and_instances(value, left):
    assert [PARTS.index(one) for one in visibility.nvidia(PARTS, {TOOLKIT: value}).left] == left


def test_cuda_counts_what_the_toolkit_hides_outside_of_a_container():
    assert cuda("2,0", **{TOOLKIT: "GPU-2a2b"}) == [2]
    hidden = visibility.nvidia(CARDS, {CUDA: "2,0", TOOLKIT: "GPU-2a2b"}).hidden
    assert {CARDS.index(one): name for one, name in hidden.items()} == {0: TOOLKIT, 1: TOOLKIT, 3: TOOLKIT}


@pytest.mark.parametrize(
    ("variables", "left"),
    [
        ({}, [0, 1, 2, 3]),
        ({ROCR: ""}, []),
        ({ROCR: "-1"}, []),
        ({ROCR: "2,1"}, [2, 1]),
        ({ROCR: "2,2,1"}, [2]),
        ({ROCR: "2x,1"}, []),
        ({ROCR: "gpu-1"}, [1]),
        ({ROCR: "GPU-1,0"}, [1, 0]),
        ({ROCR: "GPU"}, []),
        ({HIP: ""}, [0, 1, 2, 3]),
        ({HIP: "-1"}, []),
        ({HIP: "3,0"}, [3, 0]),
        ({CUDA: "3,0"}, [3, 0]),
        ({CUDA: "1", HIP: "2"}, [2]),
        ({CUDA: "1", HIP: ""}, [1]),
        ({ROCR: "2,1", HIP: "1"}, [1]),
        ({ROCR: "2,1", HIP: "2"}, []),
        ({ROCR: "2,1", CUDA: "0"}, [2]),
    ],
)
def test_rocm(variables, left):
    assert rocm(**variables) == left


def test_each_hidden_device_has_the_variable_that_hides_it():
    hidden = visibility.amd(RADEONS, {ROCR: "2,1", HIP: "0"}).hidden
    assert {RADEONS.index(one): name for one, name in hidden.items()} == {0: ROCR, 3: ROCR, 1: HIP}


words = st.one_of(
    st.integers(-2, 9).map(str),
    st.sampled_from(
        ["GPU-0", "GPU-1a1b", "GPU-", "MIG-0c0d", "MIG-GPU-0a0b/1/0", "all", "none", "void", "0:0", "", " "]
    ),
    st.text("GPUMIG-gpu+0123456789:/x ", max_size=6),
)
values = st.lists(words, max_size=5).map(",".join)
environments = st.dictionaries(
    st.sampled_from([CUDA, TOOLKIT, HIP, ROCR, visibility.ORDER]), st.one_of(values, st.just("PCI_BUS_ID")), max_size=5
)


@given(environments)
def test_any_text_leaves_some_and_hides_the_others(environment):
    for look, devices in ((visibility.nvidia, CARDS), (visibility.nvidia, PARTS), (visibility.amd, RADEONS)):
        view = look(devices, environment)
        assert len(set(view.left)) == len(view.left)
        assert set(view.left).isdisjoint(view.hidden)
        assert {*view.left, *view.hidden} == set(devices)
        assert set(view.hidden.values()) <= set(environment)


@given(st.permutations(range(4)), st.integers(0, 4))
def test_numbers_and_uuids_say_the_same(order, many):
    numbers = list(order[:many])
    assert cuda(",".join(map(str, numbers))) == numbers
    assert cuda(",".join(CARDS[number].uuid for number in numbers)) == numbers
    assert cuda(",".join([*map(str, numbers), "-1", "0"])) == numbers


@given(st.sampled_from(PROPER), environments)
def test_what_a_machine_needs_is_enough(fixture, environment):
    """With the variables that the answer asks for, the same devices are used and nothing more is needed."""
    before = fixture.machine(environment)
    after = fixture.machine(environment | dict(before.environment) | {"_": ""})
    assert [device.number for device in after.chosen] == [device.number for device in before.chosen]
    assert (after.tier, after.memory_gib, after.count) == (before.tier, before.memory_gib, before.count)
    assert after.environment == ()


@given(st.sampled_from(PROPER), environments)
def test_the_chosen_are_visible_usable_and_equal(fixture, environment):
    machine = fixture.machine(environment | {"_": ""})
    assert len({device.equal for device in machine.chosen}) <= 1
    assert all(device.tier is machine.tier and device.hidden is None for device in machine.chosen)
    assert machine.count == len(machine.chosen)
    assert machine.notes or not machine.complete
