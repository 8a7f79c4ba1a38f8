"""The actions on the command line: what they print at any width, and how they exit."""

import json
import re

import pytest

from support import machines
from support.site import KNOWN, Service
from vllm_fsm.actions.problems import Problem
from vllm_fsm.actions.selection import Choice, choose
from vllm_fsm.cli import get_api_credentials, guide, key, main, refusal, rotate_api_key, set_model
from vllm_fsm.core.snapshot import Message
from vllm_fsm.presets import CUSTOM, Capacity, built_in, fit

TOKEN = "hf_" + "aB3" * 11


@pytest.fixture
def service(tmp_path, monkeypatch):
    service = Service(tmp_path)
    for module in (get_api_credentials, rotate_api_key, set_model):
        monkeypatch.setattr(module, "site", lambda _: service.site)
    monkeypatch.setenv("COLUMNS", "200")
    return service


def test_set_model_says_what_is_served(service, capsys):
    variables = ("--env", "A=1", "--env", "B=x=y")
    assert main(["set-model", "--custom", "org/name --seed 1", *variables]) == 0
    assert capsys.readouterr().out == (
        "serves  org/name --seed 1\nwith    A=… B=…\nNo controller is running; the next one to start follows it.\n"
    )
    assert service.store["serveEnv"][1] == {"name": "B", "value": "x=y"}
    assert main(["set-model", "--custom", "org/name --seed 1", *variables]) == 0
    assert "chosen already: nothing was written." in capsys.readouterr().out
    service.health = {"state": "Failed", "reason": "EngineExited"}
    main(["set-model", "--custom", "org/name --seed 1", *variables])
    assert "the controller was asked to try again" in capsys.readouterr().out
    main(["set-model", "--none"])
    assert capsys.readouterr().out.startswith("serves  nothing\nThe running service follows;")
    main(["set-model", "--custom", "org/name", "--dry-run"])
    assert capsys.readouterr().out == "serves  org/name\nNothing was written: this was a dry run.\n"
    assert service.store == {}


def test_set_model_as_json_is_the_machine_forms_answer(service, capsys):
    assert main(["set-model", "qwen3-30b-a3b", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["result"]["serveEnv"] == ["CUDA_VISIBLE_DEVICES"]
    assert main(["set-model", "llama-33-70b", "--json"]) == 2
    errors = json.loads(capsys.readouterr().out)["errors"]
    assert [(error["field"], error["message"]) for error in errors] == [
        ("selection", "Needs 44 GiB, has 24."),
        ("selection", 'The preset llama-33-70b cannot be chosen here; "vllm-fsm presets" lists those that can.'),
    ]


def test_set_model_refuses_with_the_place(service, capsys):
    assert main(["set-model", "--custom", "org/name --max-model-length 5 'x"]) == 2
    assert main(["set-model", "--custom", "org/name --max-model-length 5"]) == 2
    assert capsys.readouterr().err == (
        "vllm-fsm: The quote ' at character 31 is not closed; close it, or put a \\ before it.\n"
        'vllm-fsm: vLLM has no flag "--max-model-length"; perhaps --max-model-len was meant. (at character 10)\n'
    )
    assert main(["set-model", "--custom", "org/name", "--env", "A"]) == 2
    assert "Environment variable 1 has no value; write NAME=VALUE." in capsys.readouterr().err
    assert service.store is None


def test_what_cannot_be_stored_is_another_exit_code(service, capsys):
    service.config.data.rmdir()
    assert main(["set-model", "--custom", "org/name"]) == 1
    assert "its directory does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["x", "--none"], "name one of"),
        (["x", "--custom", "m"], "name one of"),
        (["--none", "--env", "A=1"], "takes no variables"),
        ([], "name a preset or --custom"),
        (["--json"], "name a preset or --custom"),
    ],
)
def test_wrong_usage(service, capsys, flags, says):
    assert main(["set-model", *flags]) == 2
    assert says in capsys.readouterr().err


def test_a_token_comes_from_a_file(service, capsys, tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert main(["set-model", "--custom", "org/name", "--hf-token-file", str(file)]) == 0
    assert service.store["serveEnv"] == [{"name": "HF_TOKEN", "value": TOKEN}]
    file.write_text("\n")
    assert main(["set-model", "--custom", "org/name", "--hf-token-file", str(file)]) == 2
    assert "There is no token in" in capsys.readouterr().err
    assert service.store["serveEnv"] == [{"name": "HF_TOKEN", "value": TOKEN}]
    assert main(["set-model", "--custom", "org/name", "--unset", "HF_TOKEN"]) == 0
    assert "serveEnv" not in service.store
    assert main(["set-model", "--custom", "org/name", "--hf-token-file", "/none/such"]) == 2
    said = capsys.readouterr()
    assert "The token cannot be read from /none/such" in said.err
    assert TOKEN not in said.out + said.err


def test_notes_stand_beside_the_result(tmp_path, monkeypatch, capsys):
    service = Service(tmp_path, version="0.99.0")
    monkeypatch.setattr(set_model, "site", lambda _: service.site)
    assert main(["set-model", "--custom", "org/name --frobnicate"]) == 0
    said = capsys.readouterr()
    assert f"while the flags of vLLM {KNOWN} are known" in said.err.replace("\n          ", " ")
    assert "serves  org/name --frobnicate" in said.out


@pytest.mark.parametrize("columns", [40, 57, 80])
def test_lines_fold(service, columns, monkeypatch):
    done = choose(service.site, Choice(CUSTOM, "org/a-name --max-model-len 4096 --seed 1 --dtype auto"))
    for line in set_model.lines(done, True, columns):
        assert len(line) <= columns
    problem = Problem(Message.of("ArgumentsMissing"), "customArgs", 0)
    monkeypatch.setenv("COLUMNS", str(columns))
    assert max(map(len, refusal.told(problem).splitlines())) <= columns


def test_colours_only_where_asked(service):
    done = choose(service.site, Choice(CUSTOM, "org/name"))
    plain, coloured = set_model.lines(done, True, 80), set_model.lines(done, True, 80, colours=True)
    assert coloured[0] == "\x1b[32mserves\x1b[0m  org/name"
    assert [re.sub("\x1b\\[\\d+m", "", line) for line in coloured] == plain


# --- the guided choice -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_choices_fold_and_are_numbered(service, columns):
    offers = fit(built_in(), Capacity.of(machines.load("rtx4090-rtx3060").machine()))
    fitting = [offer for offer in offers if offer.reason is None]
    plain = guide.lines(fitting, 9, "qwen3-30b-a3b", columns)
    assert max(map(len, plain)) <= columns
    assert plain[0].startswith(" 1  Qwen3 30B-A3B")
    assert "chosen now" in " ".join(plain)
    assert "6 of 9 presets do not fit" in " ".join(plain)
    coloured = guide.lines(fitting, 9, "qwen3-30b-a3b", columns, colours=True)
    assert [re.sub("\x1b\\[\\d+m", "", line) for line in coloured] == plain


# --- the key -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["get-api-credentials", "get-api-key"])
def test_a_program_gets_the_key_in_full(service, capsys, command):
    (service.config.public / "credentials.json").write_text('{"apiKey": "sk-the-key-of-a-test"}')
    assert main([command]) == 0
    assert capsys.readouterr().out == ("API key   sk-the-key-of-a-test\nbase URL  http://localhost:8000/v1\n")
    assert main([command, "--json", "--address", "http://h:1"]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["values"][1]["value"] == "http://h:1/v1"


def test_a_terminal_gets_it_masked_unless_asked(service, capsys, monkeypatch):
    (service.config.public / "credentials.json").write_text('{"apiKey": "sk-the-key-of-a-test"}')
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["get-api-key"]) == 0
    said = capsys.readouterr().out
    assert "••••••••test" in said
    assert "sk-the" not in said
    assert main(["get-api-key", "--show"]) == 0
    assert "sk-the-key-of-a-test" in capsys.readouterr().out
    assert key.masked("short") == "••••••••"


def test_rotation_on_the_command_line(service, capsys):
    file = service.config.public / "credentials.json"
    file.write_text("{")
    assert main(["get-api-key"]) == 1
    assert main(["rotate-api-key"]) == 0
    said = capsys.readouterr().out
    assert json.loads(file.read_text())["apiKey"] in said
    assert "credentials.json.broken-" in said
    assert said.endswith("Clients need the new key.\n")
    service.health = {"state": "Ready", "reason": None}
    main(["rotate-api-key"])
    assert "The running service starts the engine anew with it." in capsys.readouterr().out
    service.config.public.rename(service.root / "gone")
    assert main(["rotate-api-key"]) == 1
    assert "its directory does not exist" in capsys.readouterr().err


def test_exit_codes_are_in_the_help(capsys):
    for command in ("set-model", "get-api-credentials", "get-api-key", "rotate-api-key", "action"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "Exit codes:" in capsys.readouterr().out
