"""Asking the machine in real children: drivers that hang, crash and lie, and a kernel's files in a directory."""

import json
import os
import selectors
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from vllm_fsm.hardware import collect as collecting
from vllm_fsm.hardware.collect import LIMIT
from vllm_fsm.hardware.device import Kind
from vllm_fsm.hardware.machine import decide
from vllm_fsm.hardware.probes import Failure, KfdNode, PciDevice
from vllm_fsm.hardware.tiers import Tier

FAKE = Path(__file__).parents[1] / "fakes" / "pynvml.py"
GIB = 1 << 30
PATIENT = 600.0
"""Seconds that a child may take; a driver that hangs makes nobody wait for them."""
CARD = {"uuid": "GPU-1", "name": "NVIDIA H100 80GB HBM3", "capability": [9, 0], "memory": 81559 << 20}


def collect(**options):
    return collecting.collect(limit=PATIENT, **options)


@pytest.fixture(autouse=True)
def _unhurried(tmp_path, monkeypatch):
    """The time is over when somebody hangs and all others have said everything, and no sooner."""
    passed = [0.0]

    class Ready(selectors.DefaultSelector):
        def select(self, left):
            hangs = (tmp_path / "binding" / "hangs").exists()  # before it is heard: all that it said is there
            found = super().select(min(left, 0.05))
            if hangs and not found and len(self.get_map()) == 1:
                passed[0] += PATIENT
            return found

    polling = SimpleNamespace(DefaultSelector=Ready, EVENT_READ=selectors.EVENT_READ)
    monkeypatch.setattr(collecting, "selectors", polling)
    monkeypatch.setattr(collecting, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0]))
    monkeypatch.setattr(collecting, "FAREWELL", PATIENT)


@pytest.fixture
def driver(tmp_path):
    """Returns a function that makes a driver behave; it gives the directory of its binding."""

    def behaves(**behaviour):
        directory = tmp_path / "binding"
        directory.mkdir(exist_ok=True)
        shutil.copy(FAKE, directory / "pynvml.py")
        (directory / "hangs").unlink(missing_ok=True)
        (directory / "behaviour.json").write_text(json.dumps({"devices": []} | behaviour))
        return str(directory)

    return behaves


@pytest.fixture
def root(tmp_path):
    """A root directory; returns a function that puts files into it."""
    place = tmp_path / "root"
    place.mkdir()

    def put(files):
        for name, content in files.items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return str(place)

    return put


NVIDIA_CARD = {
    "sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
    "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:01:00.0/device": "0x2330\n",
}


def test_what_nvml_says_arrives(driver, root):
    said = collect(root=root({}), bindings=driver(devices=[CARD, CARD | {"uuid": b"GPU-2".decode()}])).nvml
    assert (said.count, said.driver, said.failure) == (2, "580.105.08", None)
    assert [device.uuid for device in said.devices] == ["GPU-1", "GPU-2"]
    assert said.devices[0].capability == (9, 0)
    assert said.devices[0].memory == 81559 << 20
    assert said.devices[0].bus == "00000000:01:00.0"
    assert said.devices[0].mig == Failure("NotSupported", "said of NotSupported")


def test_instances_have_gaps_in_their_numbers(driver, root):
    instance = {"uuid": "MIG-1", "name": "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "memory": 9 * GIB, "gpu_instance": 9}
    said = collect(root=root({}), bindings=driver(devices=[CARD | {"instances": {"0": instance, "3": instance}}])).nvml
    assert [(one.index, one.gpu_instance) for one in said.devices[0].instances] == [(0, 9), (3, 9)]


def test_each_field_fails_by_itself(driver, root):
    said = collect(
        root=root({}), bindings=driver(devices=[CARD | {"memory": "!NotSupported", "name": "!Unknown"}])
    ).nvml
    device = said.devices[0]
    assert (device.memory, device.name) == (
        Failure("NotSupported", "said of NotSupported"),
        Failure("Unknown", "said of Unknown"),
    )
    assert device.capability == (9, 0)


def test_half_of_the_cards_lost(driver, root):
    machine = decide(collect(root=root(NVIDIA_CARD), bindings=driver(devices=[CARD, "GpuIsLost"] * 2)), {})
    assert [device.tier for device in machine.devices] == [Tier.HOPPER, None] * 2
    assert [reason.id for reason in machine.devices[1].reasons] == ["DeviceLost"]
    assert ("DevicesBroken", machine.complete) == (machine.notes[-1].id, False)


@pytest.mark.parametrize(
    ("behaviour", "note"),
    [
        ({"init": "LibraryNotFound"}, "NvmlMissing"),
        ({"init": "LibRmVersionMismatch"}, "NvmlMismatch"),
        ({"init": "DriverNotLoaded"}, "NvmlDriverNotLoaded"),
        ({"init": "NoPermission"}, "NvmlNoPermission"),
        ({"init": "Unknown"}, "NvmlFailed"),
        ({"crash": True}, "NvmlCrashed"),
    ],
)
def test_each_way_to_fail_has_its_words(driver, root, behaviour, note):
    machine = decide(collect(root=root(NVIDIA_CARD), bindings=driver(**behaviour)), {})
    assert [one.id for one in machine.notes] == [note]
    assert (machine.tier, machine.complete) == (None, False)


def test_an_answer_that_came_while_we_stood_still_is_one():
    children = {name: subprocess.Popen(("echo", '{"a": 1}'), stdout=subprocess.PIPE) for name in ("nvml", "kernel")}
    for child in children.values():
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert collecting._listen(children, -1.0) == {"nvml": {"a": 1}, "kernel": {"a": 1}}


def test_a_broken_binding_is_no_driver(tmp_path, root):
    (tmp_path / "pynvml.py").write_text("import no_such_module\n")
    machine = decide(collect(root=root(NVIDIA_CARD), bindings=str(tmp_path)), {})
    assert [one.id for one in machine.notes] == ["NvmlBindingMissing"]


def test_without_a_card_a_missing_library_is_nothing(driver, root):
    machine = decide(collect(root=root({}), bindings=driver(init="LibraryNotFound")), {})
    assert [one.id for one in machine.notes] == ["NoAccelerator"]
    assert (machine.tier, machine.complete) == (Tier.CPU, True)


def test_no_binding_at_all(monkeypatch, root):
    monkeypatch.setattr(collecting, "_bindings", lambda: None)
    assert collect(root=root({})).nvml.failure == Failure("NoBinding")


def test_a_driver_that_hangs_is_given_up_and_killed(driver, root):
    machine = decide(collect(root=root(NVIDIA_CARD), bindings=driver(hang="init")), {})
    assert ([note.id for note in machine.notes], machine.tier, machine.complete) == (["NvmlHangs"], None, False)
    assert collecting._abandoned == []


def test_what_was_said_before_a_hang_counts(driver, root):
    said = collect(root=root(NVIDIA_CARD), bindings=driver(devices=[CARD] * 4, hang="device", at=2)).nvml
    assert (said.count, len(said.devices)) == (4, 2)
    assert said.failure == Failure("TimedOut", "no answer within 600 s")


def test_a_driver_that_hangs_while_it_is_let_go_of_said_everything(driver, root):
    said = collect(root=root({}), bindings=driver(devices=[CARD], hang="exit")).nvml
    assert (len(said.devices), said.devices[0].name) == (1, CARD["name"])


def test_a_library_that_prints_disturbs_nothing(driver, root):
    said = collect(root=root({}), bindings=driver(devices=[CARD], print='[1]\nnot ours {"count"')).nvml
    assert (len(said.devices), said.failure) == (1, None)


def test_nothing_that_failed_is_remembered(driver, root):
    place = root(NVIDIA_CARD)
    assert decide(collect(root=place, bindings=driver(hang="init")), {}).tier is None
    assert decide(collect(root=place, bindings=driver(init="Unknown")), {}).tier is None
    assert decide(collect(root=place, bindings=driver(devices=[CARD])), {}).tier is Tier.HOPPER


def test_a_child_that_cannot_be_started(monkeypatch, root):
    monkeypatch.setattr(sys, "executable", "/none/such/python")
    said = collect(root=root({}))
    assert said.kernel.failure == Failure("NotStarted", "No such file or directory")
    assert decide(said, {}).notes[-1].id == "KernelFailed"


def run(directory, *arguments):
    """Run the command line with a stand-in for NVML where Python looks for modules."""
    environment = os.environ | {"PYTHONPATH": directory}
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "VLLM_FSM_BUILD"):
        environment.pop(name, None)
    command = (sys.executable, "-m", "vllm_fsm", "hardware", *arguments)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_ends_within_its_limit(driver):
    began = time.monotonic()
    result = run(driver(hang="init"), "--json")
    assert time.monotonic() - began >= LIMIT
    # Without a card on the bus, a hanging library is still no answer.
    assert (result.returncode, json.loads(result.stdout)["complete"]) == (1, False)


def test_the_command_says_what_is_used(driver):
    result = run(driver(devices=[CARD]))
    assert (result.returncode, result.stderr) == (0, "")
    assert "nvidia-hopper" in result.stdout
    assert "\x1b" not in result.stdout


def test_probes_can_be_recorded(driver):
    document = json.loads(run(driver(devices=[CARD]), "--probes").stdout)
    assert document["nvml"]["devices"][0]["name"] == CARD["name"]


def test_the_driver_is_asked_in_a_child_only(driver, tmp_path):
    (tmp_path / "program.py").write_text(
        "import sys\nfrom vllm_fsm.hardware import detect\nprint(detect({}).tier, 'pynvml' in sys.modules)\n"
    )
    environment = os.environ | {"PYTHONPATH": driver(devices=[CARD])}
    result = subprocess.run(
        (sys.executable, str(tmp_path / "program.py")), env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout == "nvidia-hopper False\n"


def test_this_machine_has_memory():
    said = collect().memory
    with open("/proc/meminfo", encoding="ascii") as file:
        total = int(file.readline().split()[1]) * 1024
    assert said.physical == total
    assert all(Path(limit.file).read_text() for limit in said.limits)


def kfd(number, **properties):
    lines = {"cpu_cores_count": 0, "simd_count": 192, "gfx_target_version": 110000, "drm_render_minor": 128}
    lines |= {"device_id": 0x744C, "unique_id": 0} | properties
    text = "".join(f"{name} {value}\n" for name, value in lines.items())
    return {f"sys/class/kfd/kfd/topology/nodes/{number}/properties": text}


RADEON = {
    "dev/kfd": "",
    "dev/dri/renderD128": "",
    "sys/bus/pci/devices/0000:03:00.0/class": "0x030000\n",
    "sys/bus/pci/devices/0000:03:00.0/vendor": "0x1002\n",
    "sys/bus/pci/devices/0000:03:00.0/device": "0x744c\n",
    "sys/bus/pci/devices/0000:00:1f.0/class": "0x060000\n",
    "sys/bus/pci/devices/0000:00:1f.0/vendor": "0x10de\n",
    "sys/class/drm/renderD128/device/mem_info_vram_total": "25753026560\n",
    "sys/class/drm/renderD128/device/revision": "0xc8\n",
    "usr/share/libdrm/amdgpu.ids": "# comment\n1.0.0\n744C,\tC9,\tanother\n744C,\tC8,\tAMD Radeon RX 7900 XTX\n",
    **kfd(0, cpu_cores_count=32, simd_count=0, gfx_target_version=0),
    **kfd(1, unique_id=0x1234),
}


def test_what_the_kernel_says_arrives(root):
    said = collect(root=root(RADEON)).kernel
    assert said.failure is None
    assert said.nodes == ("/dev/kfd",)
    assert said.pci == (PciDevice("0000:03:00.0", 0x1002, 0x744C, ""),)
    assert [node.node for node in said.kfd] == [0, 1]
    card = said.kfd[1]
    assert isinstance(card, KfdNode)
    assert (card.vram, card.product, card.render) == (25753026560, "AMD Radeon RX 7900 XTX", True)


def test_a_radeon_becomes_a_device(driver, root):
    device = decide(collect(root=root(RADEON), bindings=driver(init="LibraryNotFound")), {}).devices[0]
    assert (device.name, device.target, device.memory_gib, device.tier) == (
        "AMD Radeon RX 7900 XTX",
        "gfx1100",
        24,
        Tier.AMD,
    )
    assert device.uuid == "GPU-0000000000001234"


def test_memory_banks_stand_in_for_the_display_device(root):
    banks = "sys/class/kfd/kfd/topology/nodes/1/mem_banks"
    files = {name: text for name, text in RADEON.items() if "mem_info" not in name}
    files[f"{banks}/0/properties"] = f"heap_type 2\nsize_in_bytes {8 * GIB}\n"
    files[f"{banks}/1/properties"] = f"heap_type 0\nsize_in_bytes {64 * GIB}\n"
    said = collect(root=root(files))
    assert said.kernel.kfd[1].banks == 8 * GIB
    assert decide(said, {}).devices[0].memory_gib == 8


def test_nodes_are_read_in_the_order_of_numbers(root):
    files = {name: text for number in (0, 2, 10) for name, text in kfd(number).items()}
    assert [node.node for node in collect(root=root(files)).kernel.kfd] == [0, 2, 10]


def test_a_node_that_cannot_be_read_is_told(root):
    place = root({"dev/kfd": ""})
    os.makedirs(os.path.join(place, "sys/class/kfd/kfd/topology/nodes/1/properties"))
    said = collect(root=place)
    assert said.kernel.kfd[0].properties == Failure("IsADirectoryError", "Is a directory")
    assert [reason.id for reason in decide(said, {}).devices[0].reasons] == ["DeviceLost"]


def test_a_product_name_wins(root):
    said = collect(root=root(RADEON | {"sys/class/drm/renderD128/device/product_name": "AMD Instinct MI300X OAM\n"}))
    assert said.kernel.kfd[1].product == "AMD Instinct MI300X OAM"


def test_a_kernel_that_does_not_answer_is_given_up(driver, root):
    place = root(RADEON)
    os.mkfifo(os.path.join(place, "sys/class/drm/renderD128/device/product_name"))
    bindings = driver(init="LibraryNotFound")
    Path(bindings, "hangs").touch()  # the kernel does, and leaves no word of it
    machine = decide(collect(root=place, bindings=bindings), {})
    assert [note.id for note in machine.notes] == ["KernelHangs"]
    assert (machine.tier, machine.complete) == (None, False)


def test_a_jetson_says_who_it_is(root):
    said = collect(root=root({"proc/device-tree/compatible": "nvidia,p3701\0nvidia,tegra234\0"})).kernel
    assert said.compatible == ("nvidia,p3701", "nvidia,tegra234")


def test_the_limits_of_version_2_are_read_up_to_the_root(root):
    chain = "sys/fs/cgroup"
    said = collect(
        root=root(
            {
                "proc/self/cgroup": "0::/ai.slice/vllm.service\n",
                "proc/self/mountinfo": "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
                f"{chain}/ai.slice/vllm.service/memory.max": "max\n",
                f"{chain}/ai.slice/memory.max": f"{GIB}\n",
            }
        )
    )
    assert [(limit.file, limit.text) for limit in said.memory.limits] == [
        ("/sys/fs/cgroup/ai.slice/vllm.service/memory.max", "max"),
        ("/sys/fs/cgroup/ai.slice/memory.max", str(GIB)),
    ]
    assert decide(said, {}).ram_gib == 1


def test_the_limit_above_a_container_is_read_with_version_1(root):
    said = collect(
        root=root(
            {
                "proc/self/cgroup": "4:cpu:/docker/1\n3:memory:/docker/1\n",
                "proc/self/mountinfo": "35 31 0:32 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.stat": f"cache 0\nhierarchical_memory_limit {2 * GIB}\nrss 1\n",
            }
        )
    )
    assert decide(said, {}).ram_gib == 2


def test_unified_memory_is_the_smaller_of_ram_and_limits(driver, root):
    place = root(
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            "sys/fs/cgroup/memory.max": f"{3 * GIB + 5}\n",
        }
    )
    spark = CARD | {"name": "NVIDIA GB10", "capability": [12, 1], "memory": "!NotSupported"}
    device = decide(collect(root=place, bindings=driver(devices=[spark])), {}).devices[0]
    assert (device.kind, device.memory_gib) == (Kind.UNIFIED, 3)
