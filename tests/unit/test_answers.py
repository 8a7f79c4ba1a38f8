import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_fsm.adapters.probes.answers import generated, listed_model, steps

TOKENS = b'vllm:generation_tokens_total{engine="0",model_name="m"} '


def counted(*lines: bytes) -> float:
    found = steps(b"\n".join(lines) + b"\n")
    assert found is not None
    return found[0]


def test_counters_are_summed_over_engines() -> None:
    assert (
        counted(b'vllm:generation_tokens_total{engine="0"} 3.0', b'vllm:generation_tokens_total{engine="1"} 4.0') == 7
    )


def test_creation_times_help_and_other_names_are_not_counted() -> None:
    lines = [
        b"# HELP vllm:generation_tokens_total 99",
        b"# TYPE vllm:generation_tokens_total counter",
        TOKENS + b"5.0",
        b'vllm:generation_tokens_created{engine="0"} 1.7e+09',
        b'vllm:generation_tokens_total_created{engine="0"} 1.7e+09',
        b'vllm:prompt_tokens_cached_total{engine="0"} 11',
        b'vllm:request_generation_tokens_sum{engine="0"} 12',
        b'other_vllm:generation_tokens_total{engine="0"} 13',
    ]
    assert steps(b"\n".join(lines)) == (5.0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"vllm:generation_tokens_total 8", 8),
        (b"vllm:generation_tokens_total{} 8", 8),
        (b'vllm:generation_tokens_total{model_name="a } 1 {\\" b"} 8', 8),
        (b'vllm:generation_tokens_total{model_name="a\\\\"} 8', 8),
        (b"vllm:generation_tokens_total\t8e3 1732350000000", 8000),
        (TOKENS + b"8.0\r", 8),
    ],
)
def test_every_form_of_a_sample_is_read(line: bytes, value: float) -> None:
    assert counted(line) == value


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"not metrics",
        b"\xff\xfe\x00",
        TOKENS,
        TOKENS + b"NaN",
        TOKENS + b"+Inf",
        TOKENS + b"eight",
        b'vllm:generation_tokens_total{engine="0 8\n',
        b"<html>vllm:generation_tokens_total 3</html>",
    ],
)
def test_what_cannot_be_read_is_nothing(text: bytes) -> None:
    assert steps(text) is None


def test_a_prompt_that_is_read_in_piece_by_piece_is_movement() -> None:
    def during(usage: bytes) -> object:
        return steps(TOKENS + b'5\nvllm:kv_cache_usage_perc{engine="0"} ' + usage + b"\n")

    assert during(b"0.25") != during(b"0.5")
    assert during(b"0.25") == during(b"0.25")


def test_a_hostile_megabyte_takes_no_time() -> None:
    began = time.thread_time()
    assert steps(b"vllm:generation_tokens_total{" + b'"' * 1_000_000) is None
    assert steps(b"vllm:generation_tokens_total{" + b"a" * 1_000_000) is None
    assert steps(b"vllm:generation_tokens_total{\\\n" * 30_000) is None
    assert time.thread_time() - began < 2


@given(st.binary(max_size=300))
def test_any_bytes_are_taken(body: bytes) -> None:
    steps(TOKENS + body)
    listed_model(body, ("m",), "m")
    generated(body)


def test_the_real_engine_s_metrics_are_read() -> None:
    text = (Path(__file__).parent / "data" / "metrics_vllm_0_32.txt").read_bytes()
    assert steps(text) == (1.0, 1.0, 0.0, 0.0, 0.0)


# --- /v1/models --------------------------------------------------------------------------------------------------

SNAPSHOT = "/data/models/models--org--tiny/snapshots/50b06c37cb59373168a2a38215f99354d391ac7d"


def listing(*cards: object) -> bytes:
    return json.dumps({"object": "list", "data": cards}).encode()


def test_the_name_that_was_asked_for_is_found_among_several() -> None:
    assert listed_model(listing({"id": "x"}, {"id": "b"}, {"id": "a"}), ("a", "b"), "org/tiny") == "a"


def test_another_model_is_not_ours() -> None:
    assert listed_model(listing({"id": "org/tiny2", "root": "org/tiny2"}), ("org/tiny",), "org/tiny") is None


def test_a_base_model_whose_root_is_ours_is_ours() -> None:
    assert listed_model(listing({"id": "name", "root": "org/tiny", "parent": None}), ("other",), "org/tiny") == "name"


def test_an_adapter_is_not_the_model() -> None:
    assert (
        listed_model(listing({"id": "lora", "root": "org/tiny", "parent": "base"}), ("org/tiny",), "org/tiny") is None
    )


@pytest.mark.parametrize("place", ["id", "root"])
def test_the_snapshot_of_our_model_is_our_model(place: str) -> None:
    card = {"id": "x", "root": "y", place: SNAPSHOT}
    assert listed_model(listing(card), ("org/tiny",), "org/tiny") == card["id"]
    assert listed_model(listing(card), ("org/tin",), "org/tin") is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"org/tiny"',
        b'{"data": null}',
        b'{"data": {"id": "org/tiny"}}',
        b'{"data": ["org/tiny", 7, null, {"id": 7}, {"root": "org/tiny"}]}',
        b'{"data": ' + b"[" * 100_000,
        b"\xff\xfe",
        b"9" * 5000,
    ],
)
def test_a_listing_of_another_shape_names_nothing(body: bytes) -> None:
    assert listed_model(body, ("org/tiny",), "org/tiny") is None


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b'{"choices": [{"text": ""}]}', True),
        (b'{"choices": []}', False),
        (b'{"choices": "yes"}', False),
        (b'{"error": {}}', False),
        (b"ok", False),
        (b"", False),
    ],
)
def test_a_completion_has_a_choice(body: bytes, result: bool) -> None:
    assert generated(body) is result
