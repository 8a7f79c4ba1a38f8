"""What is said about arguments before a start, and where."""

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.flag_lines import Lines
from vllm_fsm import flags, words
from vllm_fsm.argument_check import check
from vllm_fsm.arguments import RESERVED_ARGUMENTS, effective, reserved
from vllm_fsm.complaints import Complaint, Part, Severity, placed, shown
from vllm_fsm.messages import text as sentence

TABLE = flags.load()
FILES = {"/templates/a.jinja"}


def about(
    line: str, environment: Sequence[tuple[str, str]] = (), version: str | None = TABLE.version
) -> tuple[Complaint, ...]:
    """What is said about an argument string."""
    split = words.split(line)
    found = check([word.text for word in split], environment, TABLE, version, exists=FILES.__contains__)
    return placed(found, split)


def codes(line: str, *environment: tuple[str, str]) -> list[tuple[str, str | None]]:
    """Each complaint with what stands at its position."""
    found = []
    for one in about(line, environment):
        assert sentence(one.message).endswith((".", "…"))
        found.append((one.code, None if one.position is None else line[one.position :].partition(" ")[0]))
    return found


@pytest.mark.parametrize(
    "line",
    [
        "org/name",
        "org/name --dtype auto --max-model-len 32k --enforce-eager --tensor-parallel-size=2",
        "--dtype auto --model org/name",
        "m --enable-auto-tool-choice --tool-call-parser hermes --reasoning-parser qwen3",
        "m --enable_prefix_caching --moe_backend flashinfer-cutlass --max-num-b 8K -O3 -O 2 -O=1 -tp 2",
        """m -sc '{"method": "mtp", "num_speculative_tokens": 3}' -cc.mode=3 --hf-overrides.a.b+ 1,2""",
        "m --chat-template /templates/a.jinja --chat-template template_chatml.jinja",
        "m --chat-template '{{ messages }}'",
        "m --served-model-name a b c --lora-modules x=/y z=/w --hf-token --seed -1",
        "m --load-format SAFETENSORS --quantization None --reasoning-parser ''",
    ],
)
def test_nothing_is_said_of_what_is_right(line: str) -> None:
    assert about(line) == ()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # flags
        ("m --enable-auto-tool-choise", [("FlagUnknownMeant", "--enable-auto-tool-choise")]),
        ("m -dtype auto", [("FlagUnknownMeant", "-dtype")]),
        ("m –dtype auto", [("ArgumentExtraMeant", "–dtype"), ("ArgumentExtra", "auto")]),
        ("m --nonsense=1 2", [("FlagUnknown", "--nonsense=1")]),
        ("m --max-num 3", [("FlagAmbiguous", "--max-num")]),
        ("m --seed", [("FlagNeedsValue", "--seed")]),
        ("m --seed --enforce-eager", [("FlagNeedsValue", "--seed")]),
        ("m --model", [("FlagNeedsValue", "--model")]),
        ("m --enforce-eager true", [("FlagTakesNoValue", "true")]),
        ("m --enforce-eager=true", [("FlagTakesNoValue", "--enforce-eager=true")]),
        ("m n --dtype auto", [("ArgumentExtra", "n")]),
        ("m seed=3", [("ArgumentExtraMeant", "seed=3")]),
        ("m --model n", [("ArgumentExtra", "m")]),
        ("m --hf-overrides.a", [("PathNeedsValue", "--hf-overrides.a")]),
        ("m --swap-space -0.5", [("FlagUnknown", "--swap-space"), ("NumberLooksLikeFlag", "-0.5")]),
        # values
        ("m --dtype float7", [("ValueNoChoice", "float7")]),
        ("m --dtype=float7", [("ValueNoChoice", "float7")]),
        ("m -Ox --optimization-level 9", []),
        ("m --seed 1 --seed x", [("ValueNoInteger", "x")]),
        ("m --allowed-origins '[\"a\", b]'", [("ValueNoJson", "b]'")]),
        ('m --allowed-origins=[\\"a\\",b]', [("ValueNoJson", "b]")]),
        ("m --hf-overrides '{\"a\" 1}'", [("ValueNoJson", "1}'")]),
        ("m -cc.mode=3 -cc.moed=3 --dtype auto", [("KeyUnknownMeant", "-cc.moed=3")]),
        ("m --port-offset.x 1", [("FlagUnknown", "--port-offset.x")]),
        # names in registries, and rules
        ("m --reasoning-parser qwenn3", [("NameUnknownMeant", "qwenn3")]),
        ("m --enable-auto-tool-choice --tool-call-parser=hermess", [("NameUnknownMeant", "hermess")]),
        ("m --quantization bitsandbytes", [("NameUnknown", "bitsandbytes")]),
        ("m --load-format qqq", [("NameUnknown", "qqq")]),
        ("""m -sc '{"method": "mpt"}'""", [("NameUnknownMeant", '"mpt"}\'')]),
        ("m -sc.method mpt", [("NameUnknownMeant", "-sc.method")]),
        ("m -sc 1", [("ValueNoObject", "1")]),
        ("m --enable-auto-tool-choice", [("FlagNeedsFlag", "--enable-auto-tool-choice")]),
        ("m --enable-log-outputs", [("FlagNeedsFlag", "--enable-log-outputs")]),
        ("m --enable-per-request-metrics --disable-log-stats", [("FlagsExclude", "--enable-per-request-metrics")]),
        ("m --sse-keep-alive-interval=-1", [("ValueNegative", "-1")]),
        ("m --chat-template /templates/b.jinja", [("ChatTemplateMissing", "/templates/b.jinja")]),
        # ours
        ("m --port 9", [("ArgumentReserved", "--port")]),
        ("m --por=x --dtype auto", [("ArgumentReserved", "--por=x")]),
        ("m --api-key.x y -asc 0", [("ArgumentReserved", "--api-key.x"), ("ArgumentReserved", "-asc")]),
        ("m --ssl x --dtype z", [("ArgumentReserved", "--ssl"), ("ValueNoChoice", "z")]),
        ("--dtype auto", [("ArgumentsUnusable", None)]),
    ],
)
def test_what_is_wrong_is_told_with_its_place(line: str, expected: list[tuple[str, str | None]]) -> None:
    assert codes(line) == expected
    assert all(one.severity is Severity.ERROR for one in about(line))


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("m --tool-call-parser mine", "NameUnusual"),
        ("m --enable-auto-tool-choice --tool-call-parser mine --tool-parser-plugin p.py", "NameUnusual"),
        ("m --reasoning-parser mine --reasoning-parser-plugin p.py", "NameUnusual"),
        ("m --tokenizer-mode mine", "NameUnusual"),
        ("m --chat-template.x {}", "FlagTakesNoPath"),
    ],
)
def test_what_cannot_be_known_passes_with_a_note(line: str, code: str) -> None:
    (one,) = about(line)
    assert (one.code, one.severity) == (code, Severity.NOTE)


def test_plugins_may_add_names_everywhere() -> None:
    line = "m --quantization mine --load-format mine --reasoning-parser mine"
    assert {one.severity for one in about(line)} == {Severity.ERROR}
    assert {one.severity for one in about(line, [("VLLM_PLUGINS", "mine")])} == {Severity.NOTE}


@pytest.mark.parametrize(("version", "code"), [("0.31.0", "VersionOther"), (None, "VersionUnknown")])
def test_by_the_table_of_another_version_it_is_only_a_warning(version: str | None, code: str) -> None:
    first, *others = about("m --no-such --port 9 --dtype float7", version=version)
    assert (first.code, first.severity) == ("ArgumentReserved", Severity.ERROR)
    assert [(one.code, one.severity) for one in others] == [
        *((code, Severity.NOTE), ("FlagUnknown", Severity.NOTE), ("ValueNoChoice", Severity.NOTE)),
    ]
    assert about("m --dtype float7", version=f"{TABLE.version}+cpu")[0].severity is Severity.ERROR
    assert about("--dtype auto", version=version)[-1].severity is Severity.ERROR


def test_variables() -> None:
    found = about("m", [("A", "1"), ("VLLM_API_KEY", "x"), ("A", "2"), ("VLLM_FSM_PORT", "1")])
    assert [(one.code, one.part, one.index) for one in found] == [
        ("VariableReserved", Part.ENVIRONMENT, 1),
        ("VariableTwice", Part.ENVIRONMENT, 2),
        ("VariableReserved", Part.ENVIRONMENT, 3),
    ]
    found = about("m", [("A", "1"), ("a b", "1"), ("B", "1\0")])
    assert [(one.code, one.part, one.index) for one in found] == [
        ("VariableNameUnusable", Part.ENVIRONMENT, 1),
        ("VariableValueUnusable", Part.ENVIRONMENT, 2),
    ]


def test_whatever_is_dropped_from_a_file_is_refused_here() -> None:
    for name in RESERVED_ARGUMENTS:
        line = ["m", name, "1"]
        assert effective(line, ()).warnings
        assert [found.name for found in reserved(line)] == [name]
        found = check(line, (), TABLE, TABLE.version, exists=FILES.__contains__)
        assert ("ArgumentReserved", 1) in [(one.code, one.index) for one in found], name


def test_effective_arguments_hold_nothing_reserved() -> None:
    line = ["m", "--port", "9", "-dp", "--help", "0", "--dtype", "auto"]
    assert [found.places for found in reserved(line)] == [(1, 2), (4,), (3, 5)]
    assert check(effective(line, ()).arguments, (), TABLE, TABLE.version, exists=FILES.__contains__) == ()


@pytest.mark.parametrize(
    "secret", ["hf_abcdefghijklmnopqrstuvwxyzABCDEFGH", "sk-0123456789abcdef0123", "aB3xY9mN2pQ7rT5vW1zK8c"]
)
def test_a_secret_in_the_wrong_place_is_not_repeated(secret: str) -> None:
    for line in (
        f"m {secret}",
        f"m --dtype {secret}",
        f"m --seed={secret}",
        f"m --{secret}",
        f"m --chat-template {secret}",
    ):
        found = about(line)
        assert found
        assert secret not in " ".join(sentence(one.message) for one in found) + repr(found)


def test_values_are_shown_as_far_as_they_help() -> None:
    assert shown("float7") == '"float7"'
    assert shown("x" * 60) == f'"{"x" * 39}…"'
    assert shown('a"\u202eb') == '"…" (4 characters)'


@given(st.integers(0, 2**32))
def test_every_place_is_one_of_the_line(seed: int) -> None:
    line = Lines(TABLE, seed).wrong()
    for one in check(line, (), TABLE, TABLE.version, exists=FILES.__contains__):
        assert sentence(one.message)
        if one.index is not None:
            assert 0 <= one.offset <= len(line[one.index])


def test_nonsense_takes_no_time() -> None:
    began = time.process_time()
    check(["m", *(f"--no-such-flag-{number}" for number in range(990))], (), TABLE, None, exists=FILES.__contains__)
    check(["m", "--" + "x" * 60_000, "--dtype", "y" * 60_000], (), TABLE, None, exists=FILES.__contains__)
    assert check(["m"] * 2_000_000, (), TABLE, None, exists=FILES.__contains__)[0].code == "ArgumentsUnusable"
    assert time.process_time() - began < 5.0
