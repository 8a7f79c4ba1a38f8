"""Reserved flags and variables, the model's name, and what cannot be passed on."""

import argparse
import json
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.command_lines import FIXED, FLAGS, GOOD, VALUES, odd
from vllm_fsm.arguments import (
    LONGEST,
    MOST,
    RESERVED_ARGUMENTS,
    RESERVED_VARIABLES,
    Effective,
    effective,
    flag_values,
    names_served_model,
    served_names,
)
from vllm_fsm.core.snapshot import Message


def left(*arguments: str) -> tuple[str, ...]:
    return effective(arguments, ()).arguments


def dropped(found: Effective) -> list[object]:
    return [dict(message.params)["argument"] for message in found.warnings if message.id == "ReservedArgument"]


def detail(found: Effective) -> str:
    assert found.problem is not None
    assert found.problem.reason == "BadArguments"
    assert found.problem.permanent
    clause = str(dict(found.problem.message.params)["detail"])
    assert not clause.endswith(".")
    return clause


# --- what is dropped ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kept", "names"),
    [
        (["--port", "9"], [], ["--port"]),
        (["--port=9"], [], ["--port"]),
        (["--por", "9", "--dtype", "auto"], ["--dtype", "auto"], ["--port"]),
        (["--api_key", "k", "--download_dir", "/x"], [], ["--api-key", "--download-dir"]),
        (["--api-key", "k1", "k2", "--seed", "1"], ["--seed", "1"], ["--api-key"]),
        (["--api-key", "k1", "-5", "-", "-q", "x"], ["-q", "x"], ["--api-key"]),
        (["--api-key="], [], ["--api-key"]),
        (["--api-key.x=y"], [], ["--api-key"]),
        (["--api-key.x", "y", "z"], ["z"], ["--api-key"]),
        (["--host.x", "v", "--download-dir.x", "v", "--uds.x=v"], [], ["--host", "--download-dir", "--uds"]),
        (["--api_key.a_b=c"], [], ["--api-key"]),
        (["--uds", "/x", "--ud", "/y"], [], ["--uds"]),
        (["--headless", "x"], ["x"], ["--headless"]),
        (["--hea"], [], ["--headless"]),
        (["--grpc", "--grpc-port", "1"], [], ["--grpc", "--grpc-port"]),
        (["--root-path", "/v", "--roo=/v"], [], ["--root-path"]),
        (["--config", "f.yaml", "--conf=f.yaml"], [], ["--config"]),
        (["--ssl-keyfile", "k", "--ssl-cert", "c"], [], ["--ssl-keyfile", "--ssl-cert"]),
        (["--ssl-certf", "c", "--ssl-ca", "c"], [], ["--ssl-certfile", "--ssl-ca-certs"]),
        (["--enable-ssl-refresh", "--no-enable-ssl"], [], ["--enable-ssl-refresh", "--no-enable-ssl-refresh"]),
        (["--help", "--help=port", "--he"], [], ["--help", "--he"]),
        (["-h"], [], ["-h"]),
        (["-hh", "-h=1"], [], ["-h"]),
        (["--h", "x"], [], ["--h"]),
        (["--version"], [], ["--version"]),
        (["--omni"], [], ["--omni"]),
        (["--", "x"], ["x"], ["--"]),
        (["--=x", "--.y=x", "--.y", "x"], [], ["--"]),
        (["--api-server-count", "0"], [], ["--api-server-count"]),
        (["--api-s=0", "-as", "-1", "-asc", "00"], [], ["--api-s", "-as", "-asc"]),
        (["--data-parallel-size", "0", "-dp=-2"], [], ["--data-parallel-size", "-dp"]),
        (["-dpm", "--data-parallel-multi"], [], ["-dpm", "--data-parallel-multi-port-external-lb"]),
        (["-dp", "--help", "0", "-asc", "--headless", "-1"], [], ["--help", "--headless", "-dp", "-asc"]),
        (["-O--uds.x=/p"], [], ["-O"]),
        (["-O=-h"], [], ["-O"]),
    ],
)  # fmt: skip
def test_reserved_spellings_go_with_their_values(arguments: list[str], kept: list[str], names: list[str]) -> None:
    found = effective(["m", *arguments], ())
    assert found.arguments == ("m", *kept)
    assert dropped(found) == names
    assert found.problem is None
    assert found.model == "m"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config-format", "hf", "--config-format=hf"],
        ["--hf-token", "t", "--hf-overrides", '{"a": 1}', "--hf-overrides.a.b", "-1", "--hf-overrides.a=-x"],
        ["--api-server-count", "2", "-asc", "1", "-asc=4", "--api-server-count", "x"],
        ["-dp", "2", "--data-parallel-rank", "0", "-dpl", "1", "--data-parallel-external-lb"],
        ["--data-parallel-supervisor-port", "1", "--data-parallel-rpc-port", "2", "--master-port", "3"],
        ["--served-model-name", "a", "b", "--tool-server", "demo", "--disable-uvicorn-access-log"],
        ["--middleware", "x.y", "--worker-cls", "a.B", "--trust-remote-code", "--tool-parser-plugin", "p.py"],
        ["--h11-max-header-count", "1", "--enable-sleep-mode", "--no-enable-prefix-caching", "-O3", "-O", "2", "-O=1"],
        ["--chat-template", "{{ '--uds' }}", "--speculative-config", '{"model": "--port"}', "-q", "fp8", "-1", "-"],
        ["--Port", "9", "-p", "9", "---port", "--shutdown-timeout", "20", ""],
    ],
)  # fmt: skip
def test_all_else_is_passed_on_as_it_is(arguments: list[str]) -> None:
    found = effective(["m", *arguments], ())
    assert found.arguments == ("m", *arguments)
    assert found.warnings == ()
    assert found.problem is None


def test_a_warning_comes_once_and_without_values() -> None:
    found = effective(["m", "--api-key", "hunter2", "--api-key=hunter2", "--api-key.hunter2", "hunter2"], ())
    assert found.warnings == (Message.of("ReservedArgument", argument="--api-key"),)
    assert "hunter2" not in repr(found)


def test_every_reserved_thing_says_why() -> None:
    assert all(reserved.why for reserved in RESERVED_ARGUMENTS.values())
    assert all(RESERVED_VARIABLES.values())


# --- the model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "model"),
    [
        (["org/name", "--dtype", "auto"], "org/name"),
        (["/models/x"], "/models/x"),
        (["--model", "org/name"], "org/name"),
        (["--dtype", "auto", "--model=org/name"], "org/name"),
        (["--port", "9", "--model", "org/name"], "org/name"),
    ],
)
def test_the_model_comes_first_or_by_its_flag(arguments: list[str], model: str) -> None:
    found = effective(arguments, ())
    assert found.model == model
    assert found.problem is None


@pytest.mark.parametrize(
    "arguments",
    [["--dtype", "auto"], ["--port", "9"], ["--api-key=a", "b"], ["--headless", "b"], [""], [" "], ["-"], ["-q", "x"]],
)
def test_no_model_is_a_permanent_failure(arguments: list[str]) -> None:
    found = effective(arguments, ())
    assert found.model is None
    assert "model" in detail(found)


def test_the_advice_for_a_missing_model() -> None:
    assert detail(effective(["--dtype", "auto"], ())) == ("they name no model; put the model's name first")


@pytest.mark.parametrize(
    "arguments", [["m", "--model", "n"], ["--model", "m", "--model=n"], ["--port=1", "9", "--model=m"]]
)
def test_two_models_are_refused(arguments: list[str]) -> None:
    assert "more than one model" in detail(effective(arguments, ()))


@pytest.mark.parametrize("arguments", [["1.2.3.4", "--model"], ["--model"], ["--model", "--dtype"], ["--model="]])
def test_a_model_flag_without_its_value_is_refused(arguments: list[str]) -> None:
    assert "--model has no value" in detail(effective(arguments, ()))


def test_nothing_wanted_is_no_problem() -> None:
    assert effective((), ()) == Effective((), (), None, (), None)


# --- what vLLM or the system would not take as meant -------------------------------------------------------------


@pytest.mark.parametrize("end", [[], ["--uds", "/x"], ["--enforce-eager"], ["-O--uds.x=/p"], ["-h"]])
def test_a_json_path_without_a_value_is_refused(end: list[str]) -> None:
    """It would swallow the next argument whatever it is: `--host` of ours in the end."""
    assert "--hf-overrides.PATH=VALUE" in detail(effective(["m", "--hf-overrides.secret", *end], ()))


def test_names_take_no_json_path() -> None:
    assert "JSON path" in detail(effective(["m", "--served-model-name.x=y"], ()))
    assert "JSON path" in detail(effective(["m", "--ser.x", "y"], ()))


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b", "x" * (LONGEST + 1)])
def test_what_cannot_be_passed_to_a_program_is_named_by_place(text: str) -> None:
    assert "argument 2 " in detail(effective(["m", text], ()))
    assert "environment variable A " in detail(effective(["m"], [("A", text)]))
    assert effective(["m", "x" * LONGEST], [("A", "x" * (LONGEST - 2))]).problem is None


def test_an_absurd_number_of_arguments_is_refused_at_once() -> None:
    assert "there are 2000001 of them" in detail(effective(["m", *["-dp", "0"] * 1_000_000], ()))
    half = (MOST - 1) // 2
    assert "too many reserved flags" in detail(effective(["m", *["-dp"] * half, *["0"] * half], ()))
    assert effective(["m", *["-dp"] * 5, *["0"] * 5], ()).arguments == ("m",)


# --- variables ---------------------------------------------------------------------------------------------------


def test_variables_are_sorted_and_the_last_of_a_name_wins() -> None:
    found = effective(["m"], [("B", "1"), ("A", "2"), ("B", "3"), ("_x9", "")])
    assert found.environment == (("A", "2"), ("B", "3"), ("_x9", ""))
    assert found.warnings == (Message.of("DuplicateVariable", name="B"),)
    assert found.problem is None


@pytest.mark.parametrize("name", [*RESERVED_VARIABLES, "VLLM_FSM_PORT", "VLLM_FSM_"])
def test_reserved_variables_are_dropped(name: str) -> None:
    found = effective(["m"], [(name, "hunter2"), (name, "hunter2")])
    assert found.environment == ()
    assert found.warnings == (Message.of("ReservedVariable", name=name),)
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(
    "name",
    ["HF_HOME", "HF_TOKEN", "TRANSFORMERS_CACHE", "LD_PRELOAD", "PYTHONUNBUFFERED", "VLLM_CACHE_ROOT", "vllm_api_key"],
)
def test_other_variables_are_passed_on(name: str) -> None:
    found = effective(["m"], [(name, "x")])
    assert found.environment == ((name, "x"),)
    assert found.warnings == ()


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A=B", "HF_TOKEN=hf_abcdefgh", "Ä", "A\n"])
def test_an_unusable_name_is_told_by_number_only(name: str) -> None:
    found = effective(["m"], [("A", "1"), (name, "x")])
    assert detail(found).startswith("environment variable 2 has an unusable name")
    assert "hf_" not in repr(found)


# --- names that /v1/models lists ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["m"]),
        (["--served-model-name", "a", "b", "--dtype", "auto"], ["a", "b"]),
        (["--served_model_name=a"], ["a"]),
        (["--ser", "a", "--served-model-name", "b"], ["b"]),
        (["--served-model-name", "None"], ["m"]),
        (["--seed", "1", "--hf-overrides.served-model-name=x"], ["m"]),
        (["--served-model-name", "a", "--hf-overrides.x", "y", "b", "--hf-overrides.x=y", "c"], ["a", "b", "c"]),
    ],
)
def test_served_names(arguments: list[str], names: list[str]) -> None:
    assert served_names(["m", *arguments], "m") == tuple(names)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], False),
        (["--served-model-name", "x"], True),
        (["--served_model_name=x"], True),
        (["--served", "x", "y"], True),
        (["--served-model-name="], True),
        (["--model", "x", "--dtype", "auto"], False),
        (["--hf-overrides.x", "--served-model-name"], False),
    ],
)
def test_whether_a_served_name_is_given(arguments: list[str], named: bool) -> None:
    assert names_served_model(["m", *arguments]) is named


@pytest.mark.parametrize(
    ("arguments", "flag", "values"),
    [
        ([], "--revision", None),
        (["--revision", "a", "--revision=b"], "--revision", ["b"]),
        (["--revi", "a"], "--revision", ["a"]),
        (["--revision"], "--revision", []),
        (["--revision="], "--revision", [""]),
        (["--revision=a=b"], "--revision", ["a=b"]),
        (["--tokenizer", "t"], "--tokenizer-revision", None),
        (["--tokenizer-r", "t"], "--tokenizer-revision", ["t"]),
        (["--tokenizer_revision=t_t"], "--tokenizer-revision", ["t_t"]),
        (["--tokenizer-mode", "t"], "--tokenizer", None),
        (["--lora-modules", "a=b", "-", "-1", "c", "--seed", "1"], "--lora-modules", ["a=b", "-", "-1", "c"]),
        (["--lora-modules", "a=b", "--x.y", "1", "c=d"], "--lora-modules", ["a=b", "c=d"]),
        (["-sc", "{}"], "-sc", ["{}"]),
        (["-sc=x"], "-sc", ["x"]),
        (["-s", "x"], "-sc", None),
        (["-sc.model=a/b.c"], "-sc.model", ["a/b.c"]),
        (["-sc.model", "-x", "y"], "-sc.model", ["-x"]),
        (["-sc.model"], "-sc.model", []),
        (["-sc.models=x", "-sc=a.model"], "-sc.model", None),
        (["--specul.model=x"], "--speculative-config.model", ["x"]),
        (["--a.b", "-sc.model=x"], "-sc.model", None),
        (["--a.b", "--revision", "x"], "--revision", None),
    ],
)
def test_the_values_of_a_flag(arguments: list[str], flag: str, values: list[str] | None) -> None:
    assert flag_values(["m", *arguments], flag) == values


# --- against a parser of the same kind ---------------------------------------------------------------------------


class Refused(Exception):
    """The parser does not take this command line."""


class Parser(argparse.ArgumentParser):
    """Reads a command line in the five steps in which vLLM does, with a few of its flags."""

    def __init__(self) -> None:
        super().__init__(prog="vllm serve")
        self.add_argument("model_tag", nargs="?")
        for flags in (("--host",), ("--uds",), ("--root-path",), ("--config",), ("--download-dir",), ("--model",)):
            self.add_argument(*flags)
        for flags in (("--ssl-keyfile",), ("--ssl-certfile",), ("--dtype",), ("--config-format",), ("--hf-overrides",)):
            self.add_argument(*flags)
        for flags in (("--quantization", "-q"), ("--compilation-config", "-cc"), ("--chat-template",), ("--seed",)):
            self.add_argument(*flags)
        for flags in (("--optimization-level",), ("--max-model-len",), ("--model-impl",), ("--h11-max-header-count",)):
            self.add_argument(*flags)
        for flags in (("--port",), ("--grpc-port",), ("--api-server-count", "-asc"), ("--nnodes", "-n")):
            self.add_argument(*flags, type=int)
        self.add_argument("--data-parallel-size", "-dp", type=int, default=1)
        self.add_argument("--api-key", nargs="+")
        self.add_argument("--served-model-name", nargs="+")
        self.add_argument("--hf-token", nargs="?")
        for flags in (("--headless",), ("--grpc",), ("--data-parallel-multi-port-external-lb", "-dpm")):
            self.add_argument(*flags, action="store_true")
        for flags in (("--enable-ssl-refresh",), ("--enforce-eager",), ("--enable-expert-parallel", "-ep")):
            self.add_argument(*flags, action=argparse.BooleanOptionalAction)

    def error(self, message: str) -> NoReturn:
        raise Refused(message)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise AssertionError(f"ended by itself: {status} {message}")

    def print_help(self, file: object = None) -> None:
        raise AssertionError("help is printed")

    def read(self, line: list[str]) -> dict[str, Any]:
        assert "--omni" not in line
        line = self._model_first(line)
        assert "--config" not in line
        tail: dict[str, dict[str, Any]] = {}
        rest: list[str] = []
        words = iter([word for given in line for word in self._rename(given)])
        for word in words:
            head, equals, value = word.partition("=")
            if not head.startswith("-") or "." not in head:
                rest.append(word)
                continue
            if not equals:
                value = next(words, "")
                if not value:
                    raise Refused("no value")
            flag, *path = head.removesuffix("+").split(".")
            inner: Any = value
            for key in reversed(path):
                inner = {key: inner}
            tail.setdefault(flag, {}).update(inner)
        for flag, text in tail.items():
            rest += [flag, json.dumps(text)]
        return vars(self.parse_args(rest))

    @staticmethod
    def _model_first(line: list[str]) -> list[str]:
        for at, word in enumerate(line):
            if word == "--model":
                if at + 1 == len(line):
                    raise Refused("no model")
                return [line[at + 1], *line[:at], *line[at + 2 :]]
            if word.startswith("--model=") and word != "--model=":
                return [word.removeprefix("--model="), *line[:at], *line[at + 1 :]]
        return line

    @staticmethod
    def _rename(word: str) -> list[str]:
        if word.startswith("--help="):
            return ["--help"]
        if word.startswith("--"):
            head, equals, value = word.partition("=")
            name, dot, path = head[2:].partition(".")
            return ["--" + name.replace("_", "-") + dot + path + equals + value]
        if word.startswith("-O") and word != "-O":
            return ["--optimization-level", word[3:] if word[2] == "=" else word[2:]]
        return [word]


PARSER = Parser()


@st.composite
def flags(draw: st.DrawFn) -> list[str]:
    flag = draw(st.sampled_from(FLAGS))
    flag = flag[: draw(st.one_of(st.just(len(flag)), st.integers(1, len(flag))))]
    if draw(st.booleans()):
        flag = flag[:2] + flag[2:].replace("-", "_")
    flag = draw(st.sampled_from(["", "", "", "", "-O", "-O=", "--help="])) + flag
    flag += draw(st.sampled_from(["", "", "", ".x", ".x.y", ".x+", "."]))
    return [flag + draw(st.one_of(st.just(""), st.sampled_from(VALUES).map("={}".format)))]


words = st.one_of(flags(), st.sampled_from(GOOD).map(list), st.sampled_from(VALUES).map(lambda value: [value]))
lines = st.tuples(st.sampled_from([["m"], ["m"], []]), st.lists(words, max_size=6)).map(
    lambda parts: [*parts[0], *(word for group in parts[1] for word in group)]
)


@settings(max_examples=300, deadline=None)
@given(lines)
def test_our_flags_win_whatever_stands_before_them(line: list[str]) -> None:
    found = effective(line, ())
    if found.problem is not None or not line:
        return
    try:
        result = PARSER.read([*found.arguments, *FIXED])
    except Refused:
        return
    assert (result["host"], result["port"], result["download_dir"]) == ("0.0.0.0", 8000, "/models")
    for name in ("api_key", "uds", "root_path", "config", "grpc_port", "ssl_keyfile", "ssl_certfile"):
        assert result[name] is None, name
    for name in ("headless", "grpc", "data_parallel_multi_port_external_lb"):
        assert result[name] is False, name
    assert result["enable_ssl_refresh"] is None
    assert result["api_server_count"] is None or result["api_server_count"] >= 1
    assert result["data_parallel_size"] >= 1
    assert (result["model_tag"] or result["model"]) == found.model
    assert found.model is not None
    listed = [name for name in result["served_model_name"] or () if name not in ("", "None")] or [found.model]
    assert odd(line) or served_names(found.arguments, found.model) == tuple(listed)
    assert odd(line) or names_served_model(found.arguments) is (result["served_model_name"] is not None)


@settings(max_examples=100, deadline=None)
@given(lines)
def test_what_is_passed_on_is_left_alone_the_next_time(line: list[str]) -> None:
    once = effective(line, ())
    if once.problem is None and once.arguments:
        assert effective(once.arguments, ()) == Effective(once.arguments, (), once.model, (), None)


@settings(max_examples=100, deadline=None)
@given(lines, st.sampled_from(["=", " ", ".", ".x="]), st.sampled_from([f for f in FLAGS if f.startswith("--a")]))
def test_no_value_is_repeated_in_words(line: list[str], joint: str, flag: str) -> None:
    secret = f"{flag}{joint}hunter2".split(" ")
    found = effective([*line, *secret], [("VLLM_API_KEY", "hunter2")])
    assert "hunter2" not in repr((found.warnings, found.problem))
