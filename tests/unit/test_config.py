"""What a run is told, and what it does not take."""

from pathlib import Path

import pytest

from vllm_fsm.cli import run
from vllm_fsm.cli.parser import parser
from vllm_fsm.config import Config, command, duration, port, written


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("35m", 2100), ("35 min", 2100), ("1.5h", 5400), ("0.5", 0.5)]
)
def test_lengths_of_time(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "0", "1d", "1e3", "٣", "9" * 400, "8785h"])
def test_what_is_no_length_of_time(text):
    with pytest.raises(ValueError, match="no length of time"):
        duration(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (15.0, "15s"),
        (60.0, "60s"),
        (90.5, "90.5s"),
        (120.0, "2m"),
        (150.0, "150s"),
        (2100.0, "35m"),
        (True, "on"),
        (False, "off"),
        (8000, "8000"),
        ("auto", "auto"),
        (("/opt/my vllm", "--x"), "'/opt/my vllm' --x"),
    ],
)
def test_settings_are_written_as_flags_take_them(value, text):
    assert written(value) == text


@pytest.mark.parametrize("text", ["0", "65536", "-1", "x", "", "8000 ", "٨"])
def test_what_is_no_port(text):
    with pytest.raises(ValueError, match="no port"):
        port(text)


def test_the_engine_command_is_split_as_a_shell_does():
    assert command("'/opt/my vllm' --x") == ("/opt/my vllm", "--x")
    with pytest.raises(ValueError, match="empty"):
        command("  ")
    with pytest.raises(ValueError, match="quotation"):
        command("'open")


def test_the_defaults_of_the_flags_are_those_of_the_configuration(monkeypatch):
    for name in list(__import__("os").environ):
        if name.startswith("VLLM_FSM_"):
            monkeypatch.delenv(name)
    assert run.config(parser().parse_args(["run"])) == Config()


def test_variables_stand_for_flags_and_flags_win(monkeypatch):
    monkeypatch.setenv("VLLM_FSM_PORT", "9000")
    monkeypatch.setenv("VLLM_FSM_STOP_TIMEOUT", "2m")
    config = run.config(parser().parse_args(["run", "--port", "9001", "--data", "relative"]))
    assert (config.port, config.stop_timeout) == (9001, 120.0)
    assert config.data == Path("relative").absolute()
    assert config.state == config.data / ".vllm-fsm"


@pytest.mark.parametrize(
    ("variable", "value"), [("PORT", "many"), ("SWAP", "never"), ("STARTUP_TIMEOUT", "soon"), ("ENGINE", "'")]
)
def test_a_bad_variable_is_a_usage_error(monkeypatch, capsys, variable, value):
    monkeypatch.setenv(f"VLLM_FSM_{variable}", value)
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["run"])
    assert ended.value.code == 2
    assert value in capsys.readouterr().err


def test_settings_follow_the_flags():
    settings = Config(startup_timeout=10.0, stop_timeout=5.0, swap="immediate").settings(seed=3)
    assert (settings.startup_timeout, settings.stop_timeout, settings.swap_after_download) == (10.0, 5.0, False)
