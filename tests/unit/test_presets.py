"""Which presets fit which machine, with what arguments, and what a file of presets must be."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import machines
from vllm_fsm.arguments import effective
from vllm_fsm.cli import main
from vllm_fsm.cli.presets import lines
from vllm_fsm.core.snapshot import Message
from vllm_fsm.messages import text as sentence
from vllm_fsm.presets import BUILT_IN, CPU, NAME, TIERS, WAYS, Capacity, Offer, built_in, default, fit, load

NINE = built_in()
HANGS = Message.of("NvmlHangs")
CONTENT = json.loads(Path(BUILT_IN).read_text())


def offers(tier: str | None, memory: int | None, devices: int = 1, *, fp8: bool = True) -> dict[str, Offer]:
    return {offer.preset.id: offer for offer in fit(NINE, Capacity(tier, memory, devices, fp8))}


def says(offer: Offer) -> str | None:
    return offer.reason and sentence(offer.reason)


# --- what fits ---------------------------------------------------------------------------------------------------


def test_there_are_nine() -> None:
    assert len(NINE) == 9
    assert {tier for preset in NINE for tier in preset.configs} == set(TIERS) == set(CONTENT["tiers"])


@pytest.mark.parametrize(
    ("tier", "memory", "context"),
    [
        ("nvidia-blackwell", 32, 65536),
        ("nvidia-blackwell", 79, 131072),
        ("nvidia-blackwell", 80, 262144),
        ("nvidia-hopper", 30, 262144),
        ("nvidia-older", 30, 32768),
        ("amd", 179, 131072),
        ("amd", 192, 262144),
    ],
)
def test_the_longest_context_that_fits(tier: str, memory: int, context: int) -> None:
    offer = offers(tier, memory)["qwen36-35b-a3b"]
    assert (offer.context, offer.devices, offer.reason, offer.note) == (context, 1, None, None)
    assert offer.arguments == (*offer.preset.configs[tier].args, "--max-model-len", str(context))


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (("nvidia-older", 24), "Needs 44 GiB, has 24."),
        (("nvidia-older", 43), "Needs 44 GiB, has 43."),
        (("nvidia-older", 10, 4), "Needs 44 GiB, has 40 on 4 of 4 GPUs."),
        (("nvidia-older", 20, 3), "Needs 44 GiB, has 40 on 2 of 3 GPUs."),
        (("nvidia-older", None), "Needs 44 GiB, and it is not known how much there is."),
        ((CPU, 512, 0), "Needs a GPU that is known here, and there is none."),
        (("cpu", 80), "Needs a GPU that is known here, and there is none."),
        ((None, 80), "It could not be found out which GPUs there are."),
    ],
)
def test_the_reason_is_in_numbers(machine: Any, reason: str) -> None:
    offer = offers(*machine)["llama-33-70b"]
    assert says(offer) == reason
    assert offer.arguments == ()


def test_hardware_without_a_build() -> None:
    assert says(offers("nvidia-older", 80)["gemma4-26b-a4b"]) == "No build of it is known for nvidia-older."


def test_a_chat_template_must_be_there() -> None:
    found = fit(NINE, Capacity("nvidia-older", 80), lambda _: False)
    missing = {offer.preset.id: says(offer) or "" for offer in found if offer.reason and offer.model}
    assert set(missing) == {"llama-33-70b", "gemma4-31b"}
    named = "/vllm-workspace/examples/tool_chat_template_llama3.2_json.jinja"
    assert missing["llama-33-70b"] == f"Needs the file {named}, which is not there; vLLM's images bring it."
    assert all(offer.reason is None or not offer.arguments for offer in found)


def test_amd_without_fp8_is_offered_no_fp8_build() -> None:
    assert all(offer.reason is None for offer in offers("amd", 192).values())
    without = offers("amd", 192, fp8=False)
    assert {offer.reason.id for offer in without.values() if offer.reason} == {"PresetNeedsFp8"}
    assert all(offer.reason for offer in without.values())
    assert offers("nvidia-older", 80, fp8=False)["llama-33-70b"].reason is None


@pytest.mark.parametrize(
    ("memory", "devices", "ways", "context"),
    [(24, 2, 2, 8192), (24, 3, 2, 8192), (16, 4, 4, 16384), (8, 8, 8, 16384), (12, 7, 4, 8192), (48, 8, 1, 8192)],
)
def test_spread_over_as_few_equal_gpus_as_will_do(memory: int, devices: int, ways: int, context: int) -> None:
    offer = offers("nvidia-older", memory, devices)["llama-33-70b"]
    assert (offer.devices, offer.context) == (ways, context)
    spread = ("--tensor-parallel-size", str(ways)) if ways > 1 else ()
    length = ("--max-model-len", str(context))
    assert offer.arguments == (*offer.preset.configs["nvidia-older"].args, *length, *spread)
    assert (offer.note is not None) == (ways > 1)


@given(st.sampled_from((*TIERS, CPU, None)), st.integers(0, 400) | st.none(), st.integers(0, 9), st.booleans())
def test_every_offer_keeps_the_rules(tier: str | None, memory: int | None, devices: int, fp8: bool) -> None:
    machine = Capacity(tier, memory, devices, fp8)
    for offer in fit(NINE, machine):
        assert (offer.reason is None) == bool(offer.arguments)
        if offer.reason is not None:
            assert sentence(offer.reason)
            continue
        config = offer.preset.configs[str(tier)]
        assert memory is not None
        assert offer.devices in WAYS
        assert offer.devices <= max(1, devices)
        assert config.min_memory_gb <= memory * offer.devices
        found = effective(offer.arguments, ())
        assert (found.arguments, found.model, found.problem) == (offer.arguments, offer.model, None)


def test_the_first_that_fits_is_the_default() -> None:
    assert default(fit(NINE, Capacity("nvidia-hopper", 80))) == "qwen36-35b-a3b"
    assert default(fit(NINE, Capacity("nvidia-older", 24))) == "qwen3-30b-a3b"
    assert default(fit(NINE, Capacity("nvidia-older", 8))) == "custom"


# --- a file of the user's own ------------------------------------------------------------------------------------


def own(id_: str = "mine", **changes: Any) -> dict[str, Any]:
    config = {"args": ["org/mine"], "minMemoryGB": 8, "contextByMemory": []}
    return {"id": id_, "displayName": "Mine", "configs": {"amd": {**config, **changes}}}


def put(directory: Path, *presets: Any) -> None:
    (directory / NAME).write_text(json.dumps({"presets": presets, "notes": ["kept for people"]}))


def test_without_a_file_there_are_the_nine(tmp_path: Path) -> None:
    assert load(tmp_path) == (NINE, None)


def test_presets_are_added_and_replaced(tmp_path: Path) -> None:
    put(tmp_path, own(), own("qwen36-27b", args=["org/other", "--trust-remote-code"]))
    presets, problem = load(tmp_path)
    assert problem is None
    assert [preset.id for preset in presets] == [*(preset.id for preset in NINE), "mine"]
    found = {offer.preset.id: offer for offer in fit(presets, Capacity("amd", 8, 1))}
    assert found["mine"].arguments == ("org/mine",)
    assert found["mine"].context is None
    assert found["qwen36-27b"].arguments == ("org/other", "--trust-remote-code")


STEPS = [{"gb": 8, "ctx": 100}, {"gb": 16, "ctx": 200}]


@pytest.mark.parametrize(
    ("preset", "says"),
    [
        (7, "presets[0] must be an object, not a number"),
        ({"id": "a", "configs": {}}, "presets[0].displayName is missing"),
        (own(minMemoryGB="8"), "presets[0].configs.amd.minMemoryGB must be a whole number, not a string"),
        (own(minMemoryGB=8.5), "presets[0].configs.amd.minMemoryGB must be a whole number, not a number"),
        (own(minMemoryGB=0), "presets[0].configs.amd.minMemoryGB must be from 1"),
        (own(args="m"), "presets[0].configs.amd.args must be a list, not a string"),
        (own(args=["m", 1]), "presets[0].configs.amd.args[1] must be a string"),
        (own(args=[]), "presets[0].configs.amd.args[0] must be the model's name"),
        (own(args=["--dtype", "auto"]), "presets[0].configs.amd.args[0] must be the model's name"),
        (own(args=["m", "--port=9"]), "presets[0].configs.amd.args[1] must be something else than --port"),
        (own(args=["m", "--max-model-l", "9"]), "amd.args[1] must be something else than --max-model-len"),
        (own(args=["m", "-q", "awq", "-tp=2"]), "amd.args[3] must be something else than --tensor-parallel-size"),
        (own(contextByMemory=[{"gb": 9, "ctx": 1}]), "contextByMemory[0].gb must be from 1 to minMemoryGB, which is 8"),
        (own(contextByMemory=[{"gb": 8}]), "presets[0].configs.amd.contextByMemory[0].ctx is missing"),
        (own(contextByMemory=STEPS[::-1], minMemoryGB=16), "contextByMemory[1].gb must be more than 16"),
        (own(contextByMemory=[*STEPS, {"gb": 17, "ctx": 1}]), "contextByMemory[2].ctx must be at least 200"),
        (own(contextByMemory=[{"gb": 8, "ctx": 0}]), "contextByMemory[0].ctx must be from 1"),
        (own("Mine"), "presets[0].id must be small letters"),
        (own("custom"), "presets[0].id must be another than custom, which is taken"),
        ({**own(), "displayName": " "}, "presets[0].displayName must be a name that can be seen"),
        ({**own(), "configs": {"intel": {}}}, "presets[0].configs.intel.args is missing"),
        ({**own(), "configs": {"intel": own()["configs"]["amd"]}}, "presets[0].configs must be an object with no"),
    ],
)
def test_a_broken_file_is_named_by_field_and_the_nine_remain(tmp_path: Path, preset: Any, says: str) -> None:
    put(tmp_path, preset)
    presets, problem = load(tmp_path)
    assert presets == NINE
    assert problem is not None
    assert says in sentence(problem)
    assert str(tmp_path / NAME) in sentence(problem)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"presets": 1}', "{}"])
def test_what_is_no_file_of_presets(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    presets, problem = load(tmp_path)
    assert presets == NINE
    assert problem is not None
    assert NAME in sentence(problem)


def test_two_of_one_name(tmp_path: Path) -> None:
    put(tmp_path, own(), own())
    assert "presets[1].id must be another than mine" in sentence(load(tmp_path)[1] or pytest.fail("taken"))


def test_the_packages_own_file_is_judged_by_the_same_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = copy.deepcopy(CONTENT)
    broken["presets"][8]["configs"]["amd"]["args"].append("--headless")
    (tmp_path / NAME).write_text(json.dumps(broken))
    monkeypatch.setattr("vllm_fsm.presets.BUILT_IN", str(tmp_path / NAME))
    with pytest.raises(ValueError, match=r"presets\[8\]\.configs\.amd\.args"):
        built_in()


# --- the command -------------------------------------------------------------------------------------------------


def run(tmp_path: Path, *flags: str) -> int:
    return main(["presets", "--data", str(tmp_path), *flags])


def test_the_command_lists_what_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    assert run(tmp_path, "--tier", "nvidia-older", "--memory", "24") == 0
    said = capsys.readouterr().out
    assert "fits, context 32768" in said
    assert "llama" not in said
    assert said.endswith("3 of 9 presets fit. The first choice is qwen3-30b-a3b.\n")
    assert run(tmp_path, "--tier", "nvidia-older", "--memory", "24", "--all") == 0
    assert "Needs 44 GiB, has 24." in capsys.readouterr().out


def test_the_command_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--tier", "nvidia-older", "--memory", "24", "--devices", "2", "--all", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["default"] == "qwen36-35b-a3b"
    assert said["problem"] is None
    found = {preset["id"]: preset for preset in said["presets"]}
    assert len(found) == 9
    assert found["llama-33-70b"]["args"][-2:] == ["--tensor-parallel-size", "2"]
    assert found["llama-33-70b"]["note"]["id"] == "PresetSpread"
    reason = found["qwen3-next-80b-a3b"]["reason"]
    assert reason["params"] == {"needs": 55, "has": 48, "used": 2, "devices": 2}


def test_a_broken_file_is_told_beside_the_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    (tmp_path / NAME).write_text("{")
    assert run(tmp_path, "--tier", "nvidia-hopper", "--memory", "80") == 0
    said = capsys.readouterr()
    assert "not valid JSON at line 1" in said.err
    assert "9 of 9 presets fit" in said.out
    assert run(tmp_path, "--tier", "nvidia-hopper", "--memory", "80", "--json") == 0
    assert "not valid JSON" in json.loads(capsys.readouterr().out)["problem"]["message"]


def test_without_a_gpu_there_is_only_custom(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--tier", "cpu") == 0
    assert capsys.readouterr().out == "0 of 9 presets fit. Choose custom arguments.\n"


def test_half_a_machine_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (("--tier", "amd"), ("--memory", "8"), ("--devices", "2"), ("--no-fp8",)):
        assert run(tmp_path, *flags) == 2
        assert "--tier and --memory" in capsys.readouterr().err
    for flags in (("--tier", "intel"), ("--memory", "0"), ("--devices", "two")):
        with pytest.raises(SystemExit):
            run(tmp_path, *flags)


def test_what_is_here_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("vllm_fsm.cli.presets.detect", lambda *_: machines.load("rtx4090-rtx3060").machine())
    assert run(tmp_path, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["capacity"] == {"tier": "nvidia-older", "memoryGiB": 24, "devices": 1, "fp8": True}


def test_hardware_that_does_not_answer_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    silent = replace(machines.load("rtx4090-rtx3060").machine(), tier=None, complete=False, count=0, notes=(HANGS,))
    monkeypatch.setattr("vllm_fsm.cli.presets.detect", lambda *_: silent)
    monkeypatch.setenv("COLUMNS", "200")
    assert run(tmp_path, "--all") == 1
    said = capsys.readouterr()
    assert said.err == "vllm-fsm: The NVIDIA driver does not answer. Restart the machine.\n"
    assert "It could not be found out which GPUs there are." in said.out
    assert said.out.endswith("\nWhich presets fit is not known. Choose custom arguments.\n")
    assert run(tmp_path, "--json") == 1
    assert [note["id"] for note in json.loads(capsys.readouterr().out)["notes"]] == ["NvmlHangs"]


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_lines_fold(columns: int) -> None:
    capacity = Capacity("nvidia-blackwell", 24)
    found = fit(NINE, capacity)
    words = max(len(word) for line in lines(capacity, found, found, 1000) for word in line.split())
    assert max(len(line) for line in lines(capacity, found, found, columns)) <= max(columns, words + 2)
