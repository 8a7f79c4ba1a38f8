"""The tables of vLLM's flags."""

import json
import tomllib
from pathlib import Path

import pytest

from support.by_path import ROOT
from vllm_fsm import flags
from vllm_fsm.arguments import COUNTS_OF_API_SERVERS, RESERVED_ARGUMENTS
from vllm_fsm.flag_values import judge, size

TABLE = flags.load()
KINDS = {
    "text",
    "integer",
    "number",
    "size",
    "size or auto",
    "json",
    "json or text",
    "object",
    "lora",
    "folded",
    "list",
}


def test_there_is_a_table_of_the_vllm_that_is_meant() -> None:
    meant = tomllib.loads((ROOT / "vllm" / "version.toml").read_text())["vllm"]["version"]
    assert meant in flags.versions()
    assert flags.load(meant).version == flags.load(f"{meant}+cpu").version == meant


def test_another_version_gets_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flags, "DIRECTORY", str(tmp_path))
    content = json.loads((ROOT / "src/vllm_fsm/data/flags-0.32.0.json").read_text())
    for version in ("0.9.1", "0.32.0", "0.32.10"):
        (tmp_path / f"flags-{version}.json").write_text(json.dumps({**content, "version": version}))
    (tmp_path / "presets.json").touch()
    assert flags.versions() == ("0.9.1", "0.32.0", "0.32.10")
    assert flags.load("0.9.1").version == "0.9.1"
    for unknown in (None, "0.31.0", "1.0", "0.32"):
        assert flags.load(unknown).version == "0.32.10"


def test_the_table_knows_each_kind_and_every_reserved_flag() -> None:
    assert {flag.kind for flag in TABLE.flags.values()} <= KINDS
    assert {flag.values for flag in TABLE.flags.values()} == {"0", "1", "?", "+"}
    assert set(RESERVED_ARGUMENTS) - set(TABLE.flags) == {"--", "--omni", "--version"}
    assert set(COUNTS_OF_API_SERVERS) <= set(TABLE.flags)
    assert len(TABLE.tool_call_parsers) == 54
    assert len(TABLE.reasoning_parsers) == 38


def test_no_path_of_a_machine_is_in_a_table() -> None:
    for path in Path(flags.DIRECTORY).glob("flags-*.json"):
        assert '"/' not in path.read_text()


@pytest.mark.parametrize(
    ("text", "number"),
    [("4096", 4096), ("1k", 1000), ("1K", 1024), ("25.6k", 25600), (" 2M ", 2 * 2**20), ("1_000", 1000), ("-1", -1)],
)
def test_sizes(text: str, number: int) -> None:
    assert size(text) == number


@pytest.mark.parametrize("text", ["", "1.5", "1.5K", "k", "1kk", "auto", "1e3"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        size(text)


@pytest.mark.parametrize(
    ("flag", "text", "code", "offset"),
    [
        ("--seed", "1.0", "ValueNoInteger", 0),
        ("--gpu-memory-utilization", "90%", "ValueNoNumber", 0),
        ("--max-num-batched-tokens", "auto", "ValueNoSize", 0),
        ("--max-model-len", "32 k", "ValueNoSizeOrAuto", 0),
        ("--max-lora-rank", "7", "ValueNoChoice", 0),
        ("--dtype", "fp16", "ValueNoChoice", 0),
        ("--kv-cache-dtype", "fp8_e4m", "ValueNoChoiceMeant", 0),
        ("--allowed-origins", "*", "ValueNoJson", 0),
        ("--hf-overrides", '{"a": }', "ValueNoJson", 6),
        ("--compilation-config", "3", "ValueNoObject", 0),
        ("--compilation-config", '{"mode": 3, "cudagraph_mod": 1}', "KeyUnknownMeant", 12),
        ("--kv-transfer-config", '{"kv_buffer_size": 80m, "kv_rank": 80k,}', "ValueNoJson", 39),
        ("--lora-modules", "a", "ValueNoJson", 0),
        ("--lora-modules", '{"name": "a"}', "KeyMissing", 0),
        ("--allowed-origins", "[" * 100_000, "ValueJsonTooLarge", 0),
        ("--allowed-origins", "1" * 5_000, "ValueJsonTooLarge", 0),
    ],
)
def test_wrong_values(flag: str, text: str, code: str, offset: int) -> None:
    judgement = judge(TABLE.flags[flag], text)
    assert judgement is not None
    message, at = judgement
    assert (message.id, at) == (code, offset)


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--max-model-len", "auto"),
        ("--max-model-len", "32k"),
        ("--moe_backend".replace("_", "-"), "FlashInfer-CUTLASS"),
        ("--hf-overrides", "module.function"),
        ("--hf-token", "anything"),
        ("--compilation-config", '{"max_cudagraph_capture_size": 1k}'),
        ("--lora-modules", "a=/b"),
        ("--max-log-len", "None"),
        ("--kv-transfer-config", ""),
        ("--device-ids", "0,GPU-1"),
    ],
)
def test_right_values(flag: str, text: str) -> None:
    assert judge(TABLE.flags[flag], text) is None
