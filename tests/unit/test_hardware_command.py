"""`vllm-fsm hardware` for people: what it prints for each machine, at any width."""

import json
import re
from dataclasses import replace

import pytest

from support import machines
from vllm_fsm.cli import hardware, main
from vllm_fsm.hardware.probes import from_json

FIXTURES = machines.all_()


@pytest.fixture
def on(monkeypatch):
    """Returns a function that makes the command run on one of the machines."""
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)

    def set_(name):
        said = from_json(machines.load(name).content["probes"])
        monkeypatch.setattr(hardware, "collect", lambda: said)

    return set_


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda fixture: fixture.name)
@pytest.mark.parametrize("columns", [40, 57, 80, 200])
def test_it_fits_the_terminal(fixture, columns):
    for line in hardware.lines(fixture.machine(), columns):
        longest = max((len(word) for word in line.split()), default=0)
        assert len(line) <= columns or longest > columns // 2, line


def test_it_reads_aloud(on, capsys, monkeypatch):
    on("rtx4090-rtx3060")
    monkeypatch.setenv("COLUMNS", "106")
    assert main(["hardware"]) == 0
    assert capsys.readouterr().out == (
        "tier    nvidia-older\n"
        "uses    1 × NVIDIA GeForce RTX 4090, 24 GiB, FP8\n"
        "system  62 GiB of memory\n"
        "notes   The 2 usable devices differ, and a model needs equal ones. Used for the most memory: 1 × NVIDIA\n"
        "        GeForce RTX 4090.\n"
        "needs   CUDA_VISIBLE_DEVICES=GPU-00000002-1111-2222-3333-000000000002 for the engine; presets bring that,\n"
        "        custom arguments do not.\n"
        "\n"
        "DEVICE          NAME                     TARGET  MEMORY            TIER          WHY\n"
        "nvidia 0        NVIDIA GeForce RTX 3060  8.6     12 GiB dedicated  nvidia-older  Compute capability 8.6\n"
        "                                                                                 makes it nvidia-older.\n"
        "nvidia 1, used  NVIDIA GeForce RTX 4090  8.9     24 GiB dedicated  nvidia-older  Compute capability 8.9\n"
        "                                                                                 makes it nvidia-older.\n"
    )


def test_notes_and_reasons_are_written_as_elsewhere(on, capsys):
    on("rtx4090-rtx3060")
    main(["hardware", "--json"])
    said = json.loads(capsys.readouterr().out)
    for message in (*said["notes"], *said["devices"][0]["reasons"]):
        assert set(message) == {"id", "params", "message"}


@pytest.mark.parametrize(
    ("name", "memory", "says"),
    [
        ("rtx4090-x2", 24, "2 × NVIDIA GeForce RTX 4090, 24 GiB each, FP8"),
        ("gb10", None, "1 × NVIDIA GB10, unknown memory, FP8"),
        ("no-gpu", 8, "none"),
    ],
)
def test_what_is_used_reads_aloud(name, memory, says):
    machine = replace(machines.load(name).machine(), memory_gib=memory)
    assert hardware.lines(machine, 80)[1] == f"uses    {says}"


def test_a_narrow_terminal_gets_a_list(on, capsys, monkeypatch):
    on("rx7900xtx")
    monkeypatch.setenv("COLUMNS", "44")
    main(["hardware"])
    assert capsys.readouterr().out.endswith(
        "DEVICE  amd 0, used\n"
        "NAME    AMD Radeon RX 7900 XTX\n"
        "TARGET  gfx1100\n"
        "MEMORY  24 GiB dedicated\n"
        "TIER    amd\n"
        "WHY     vLLM's ROCm build supports gfx1100;\n"
        "        it does not calculate in FP8.\n"
    )


def test_devices_of_which_the_same_is_said_stand_together():
    shown = hardware.lines(machines.load("half-lost").machine(), 60)
    assert [line for line in shown if line.startswith("DEVICE")] == [
        "DEVICE  nvidia 0, 2, 4, 6, used",
        "DEVICE  nvidia 1, 3, 5, 7",
    ]


@pytest.mark.parametrize(("name", "code", "tier"), [("h100", 0, "nvidia-hopper"), ("nvml-hangs", 1, None)])
def test_what_did_not_answer_is_told_by_the_exit_code(on, capsys, name, code, tier):
    on(name)
    assert main(["hardware", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["tier"] == tier


def test_the_build_is_a_flag_and_a_variable(on, capsys, monkeypatch):
    on("nvidia-and-amd")
    main(["hardware", "--build", "rocm"])
    assert capsys.readouterr().out.startswith("tier    amd\n")
    monkeypatch.setenv("VLLM_FSM_BUILD", "cpu")
    main(["hardware"])
    assert capsys.readouterr().out.startswith("tier    cpu\n")
    monkeypatch.setenv("VLLM_FSM_BUILD", "tpu")
    with pytest.raises(SystemExit):
        main(["hardware"])
    assert "'tpu' is none of cuda, rocm, cpu" in capsys.readouterr().err


def test_probes_are_what_a_file_of_the_tests_holds(on, capsys):
    on("mi250")
    assert main(["hardware", "--probes"]) == 0
    assert json.loads(capsys.readouterr().out) == machines.load("mi250").content["probes"]


def test_colours_change_nothing_else():
    for fixture in FIXTURES:
        plain = hardware.lines(fixture.machine(), 80)
        coloured = hardware.lines(fixture.machine(), 80, colours=True)
        assert [re.sub(r"\x1b\[\d+m", "", line) for line in coloured] == plain
        assert any("\x1b" in line for line in coloured)
