"""The engine's argv and environment."""

from pathlib import Path

import pytest

from vllm_fsm import engine_command
from vllm_fsm.arguments import RESERVED_VARIABLES
from vllm_fsm.core.snapshot import Secret, Target

DATA = Path("/data")


def target(*arguments: str, **environment: str) -> Target:
    return Target(arguments or ("org/model",), tuple(sorted(environment.items())), Secret("thekey"), "org/model")


def environment(base: dict[str, str], **wanted: str) -> dict[str, str]:
    return engine_command.environment(base, target(**wanted), data=DATA, tmpdir="/run/t/1")


def test_our_flags_come_last() -> None:
    made = engine_command.argv(
        target("org/model", "--port", "9"), command=("nice", "vllm"), host="0.0.0.0", port=8000, data=DATA
    )
    assert made == (
        *("nice", "vllm", "serve", "org/model", "--port", "9"),
        *("--host", "0.0.0.0", "--port", "8000", "--download-dir", "/data/models"),
    )


def test_the_whole_environment() -> None:
    assert environment({"PATH": "/bin", "VLLM_FSM_PORT": "1"}, HF_TOKEN="hf_x") == {
        "PATH": "/bin",
        "HF_TOKEN": "hf_x",
        "HF_HUB_CACHE": "/data/models",
        "HF_HUB_VERBOSITY": "info",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": "/run/t/1",
        "VLLM_API_KEY": "thekey",
        "VLLM_CACHE_ROOT": "/data/cache/vllm",
    }


@pytest.mark.parametrize("name", ["HF_HUB_VERBOSITY", "PYTHONUNBUFFERED", "VLLM_CACHE_ROOT"])
def test_the_store_replaces_a_default(name: str) -> None:
    assert environment({}, **{name: "mine"})[name] == "mine"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_HUB_CACHE", "/data/models"),
        ("VLLM_API_KEY", "thekey"),
        ("TMPDIR", "/run/t/1"),
        ("HUGGINGFACE_HUB_CACHE", None),
        ("VLLM_FSM_DATA", None),
    ],
)
def test_nobody_replaces_what_is_fixed(name: str, value: str | None) -> None:
    assert environment({name: "theirs"}, **{name: "mine"}).get(name) == value


@pytest.mark.parametrize("name", RESERVED_VARIABLES)
def test_what_the_store_may_not_set_is_not_inherited(name: str) -> None:
    assert environment({name: "theirs"}).get(name) != "theirs"


def test_our_own_environment_may_place_the_kernel_cache_only() -> None:
    made = environment({"VLLM_CACHE_ROOT": "/cache", "HF_HUB_VERBOSITY": "debug", "PYTHONUNBUFFERED": ""})
    assert made["VLLM_CACHE_ROOT"] == "/cache"
    assert made["HF_HUB_VERBOSITY"] == "info"
    assert made["PYTHONUNBUFFERED"] == "1"


def offline(wanted: Target) -> tuple[tuple[str, ...], dict[str, str]]:
    argv = engine_command.argv(wanted, command=("vllm",), host="h", port=1, data=DATA, offline=True)
    made = engine_command.environment({}, wanted, data=DATA, tmpdir="/run/t/1", offline=True)
    return argv[: argv.index("--host")], made


def test_with_the_hub_switched_off_the_model_keeps_its_name() -> None:
    argv, made = offline(target("org/model", "--seed", "7"))
    assert argv == ("vllm", "serve", "org/model", "--seed", "7", "--served-model-name", "org/model")
    assert made["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("flag", ["--served-model-name", "--served_model_name", "--served-model"])
def test_the_name_that_the_user_gives_stays_alone(flag: str) -> None:
    assert offline(target("org/model", flag, "mine"))[0] == ("vllm", "serve", "org/model", flag, "mine")


def test_what_the_user_says_about_the_hub_counts() -> None:
    assert offline(target(HF_HUB_OFFLINE="0"))[1]["HF_HUB_OFFLINE"] == "0"


def test_the_hub_is_not_switched_off_otherwise() -> None:
    assert "HF_HUB_OFFLINE" not in environment({})


def test_the_key_may_be_asked_for_everywhere() -> None:
    made = engine_command.argv(
        target("org/model", "--middleware", "a.b"), command=("vllm",), host="h", port=1, data=DATA, guard_all=True
    )
    # The last one is the outermost: nothing of the user's runs before the key was seen.
    assert [made[at + 1] for at, word in enumerate(made) if word == "--middleware"] == ["a.b", engine_command.GUARD]
    for wanted, found in (({}, ""), ({"PYTHONPATH": "/mine"}, ":/mine")):
        around = engine_command.environment({}, target(**wanted), data=DATA, tmpdir="/t", guard_all=True)
        assert around["PYTHONPATH"] == engine_command.ENGINE_SIDE + found
    assert "PYTHONPATH" not in environment({})
