"""The commands that read: what they print and how they exit."""

import json
import os
import time
from datetime import UTC, datetime

import pytest

from support.story import CRASH, Story, target
from vllm_fsm import health, history, lock, record, request
from vllm_fsm.adapters.health_file import NAME
from vllm_fsm.cli import main, status
from vllm_fsm.cli.reading import boot_id
from vllm_fsm.core import events as ev
from vllm_fsm.core.snapshot import Finding

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def wall(at):
    return datetime.fromtimestamp(NOW.timestamp() - 1020.0 + at, UTC)


@pytest.fixture
def held(tmp_path):
    """A run directory that a controller holds."""
    lock_ = lock.DirectoryLock(tmp_path)
    yield tmp_path
    lock_.release()


def put(directory, story):
    (directory / NAME).write_text(json.dumps(health.document(story.snapshot, wall, boot_id())))


def test_health_is_0_only_for_success(held, capsys):
    put(held, Story().ready())
    assert main(["health", "--run-dir", str(held)]) == 0
    assert capsys.readouterr().out == "The vLLM API is ready\n"
    put(held, Story().loading())
    assert main(["health", "--run-dir", str(held), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["state"] == "Loading"


@pytest.mark.parametrize("command", ["health", "status"])
def test_a_dead_controller_is_told_whatever_the_file_says(tmp_path, capsys, command):
    put(tmp_path, Story().ready())
    assert main([command, "--run-dir", str(tmp_path)]) == 1
    assert "The controller is not running" in capsys.readouterr().out


def test_a_stuck_controller_is_told_from_a_quiet_one(held, capsys):
    put(held, Story().ready())
    old = time.time() - 16.0
    os.utime(held / NAME, (old, old))
    assert main(["health", "--run-dir", str(held)]) == 1
    assert "not been heard of for 16 s" in capsys.readouterr().out


def test_a_heartbeat_of_the_future_is_none(held, capsys):
    """Else a controller that hangs would be taken for a living one until the clock has caught up."""
    put(held, Story().ready())
    for ahead, code in ((10.0, 0), (16.0, 1)):
        later = time.time() + ahead
        os.utime(held / NAME, (later, later))
        assert main(["health", "--run-dir", str(held)]) == code
    assert "not been heard of since the clock was set back" in capsys.readouterr().out


@pytest.mark.parametrize(("content", "says"), [(None, "starting"), ("{", "cannot be read"), ("[]", "no JSON object")])
def test_a_file_that_says_nothing(held, capsys, content, says):
    if content is not None:
        (held / NAME).write_text(content)
    assert main(["health", "--run-dir", str(held)]) == 1
    assert says in capsys.readouterr().out


def test_a_file_of_an_earlier_boot_says_nothing(held, capsys):
    document = health.document(Story().ready().snapshot, wall, "another")
    (held / NAME).write_text(json.dumps(document))
    assert main(["health", "--run-dir", str(held)]) == 1
    assert "starting" in capsys.readouterr().out


def shown(story, columns=100):
    return "\n".join(status.lines(health.document(story.snapshot, wall, "boot"), NOW, columns))


def test_status_reads_aloud():
    assert shown(Story().ready()) == (
        "state      Ready for 0 s\n"
        "health     success: The vLLM API is ready\n"
        "wanted     org/one\n"
        "runs       what is wanted, process 77, start number 1\n"
        "phases     Imports 20.0 s\n"
        "to do      nothing"
    )


def test_status_of_each_situation():
    assert "wanted     nothing" in shown(Story())
    assert "to do      choose a model" in shown(Story())
    assert "starting, process 77" in shown(Story().loading())
    swapping = Story().swapping(target("org/two", "--seed", "a b"))
    assert "wanted     org/two --seed 'a b'" in shown(swapping)
    assert "runs       org/one, process 77" in shown(swapping)
    leaving = Story().ready().wants(None)
    assert "the last engine, being stopped, process 77" in shown(leaving)
    waiting = Story().loading().crashes().happens(ev.EngineStarted, 78).crashes()
    assert "next try   in" in shown(waiting)
    assert "runs       no engine" in shown(waiting)


def test_status_shows_the_engines_words_and_the_command_that_mends_it():
    finding = Finding.of(
        "ContextTooLong", permanent=True, evidence="ValueError: too \x1b[31mlong", wanted=9000, most=4096
    )
    story = Story().loading().happens(ev.EngineExited, 1, finding)
    assert "evidence   ValueError: too long\n" in shown(story)
    assert shown(story).endswith(
        "to do      serve the same model with --max-model-len 4096, which fits, by\n           vllm-fsm set-model --fix"
    )


def test_status_beside_a_fallback_does_not_say_to_wait():
    story = Story(fallback=True).ready().wants(target("org/two", "--max-model-len", "9000"))
    story.happens(ev.WeightsComplete).happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated)
    finding = Finding.of("ContextTooLong", permanent=True, wanted=9000, most=4096)
    story.happens(ev.EngineStarted, 78).happens(ev.EngineExited, 1, finding).happens(ev.EngineVacated)
    assert "to do      serve the same model with --max-model-len 4096" in shown(story)
    assert "runs       the fallback, org/one, starting" in shown(story.happens(ev.EngineStarted, 79))


def test_status_leaves_the_choice_to_wait():
    finding = Finding.of("GpuBusy", free="20.17", total="24.0", needed="22.1")
    story = Story().loading().happens(ev.EngineExited, 1, finding).happens(ev.EngineVacated)
    assert "to do      wait, or serve the same model with --gpu-memory-utilization 0.84" in shown(story)


def test_status_tells_how_the_next_engine_would_start():
    document = health.document(Story().ready().snapshot, wall, "boot")

    def row(**warm):
        lines = status.lines({**document, "warm": {"why": None, "hasty": False, **warm}}, NOW, 100)
        return next((line for line in lines if line.startswith("next start")), "")

    ready = row(state="ready", memory=1_350_000_000, cpuSeconds=18.2, processes=3)
    assert ready == "next start  warm: 3 processes with all imported, 1.4 GB, made in 18.2 s of CPU"
    assert row(state="preparing") == "next start  plain, until a warm one is prepared"
    assert row(state="none", why="not enough free memory") == "next start  plain: not enough free memory"
    assert row(state="none") == ""
    assert row(state="none", hasty=True, why="not enough free memory") == "next start  in haste: not enough free memory"
    assert row(state="preparing", hasty=True) == "next start  in haste, until a warm one is prepared"
    assert "next start" not in shown(Story().ready())


def test_status_tells_of_a_start_that_waits_for_its_imports():
    story = Story().wants(target("a")).happens(ev.WeightsComplete)
    document = health.document(story.snapshot, wall, "boot")
    warm = {"why": None, "hasty": True, "state": "preparing"}
    told = "\n".join(status.lines({**document, "warm": warm}, NOW, 100))
    assert "starting, its processes are importing vLLM, start number 1" in told
    assert "next start" not in told


def test_status_folds_on_a_narrow_terminal():
    assert max(len(line) for line in shown(Story().loading(), 60).splitlines()) <= 60


def test_status_as_json(held, capsys):
    put(held, Story().ready())
    assert main(["status", "--run-dir", str(held), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "Ready"


def test_retry_leaves_a_request(held, capsys):
    assert main(["retry", "--run-dir", str(held)]) == 0
    assert "asked to try again" in capsys.readouterr().out
    assert json.loads((held / request.NAME).read_text())["request"] == "retry"


def test_retry_needs_somebody_who_takes_it(tmp_path, capsys):
    assert main(["retry", "--run-dir", str(tmp_path)]) == 1
    assert "not running" in capsys.readouterr().err
    assert main(["retry", "--run-dir", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_history_of_nothing(tmp_path, capsys):
    assert main(["history", "--data", str(tmp_path)]) == 0
    assert "No transition is recorded" in capsys.readouterr().out


def test_history_as_json_and_limited(tmp_path, capsys):
    for number in range(5):
        history.History(tmp_path).append({"number": number})
    assert main(["history", "--state-dir", str(tmp_path), "--json", "-n", "2"]) == 0
    assert [json.loads(line)["number"] for line in capsys.readouterr().out.splitlines()] == [3, 4]


def test_logs_of_nothing(tmp_path, capsys):
    assert main(["logs", "--data", str(tmp_path)]) == 1
    assert "no output of a start is kept" in capsys.readouterr().err
    assert main(["logs", "--data", str(tmp_path), "--attempt", "7"]) == 1
    assert "no output of start 7 is kept" in capsys.readouterr().err


def test_logs_of_the_latest_start_or_of_another(tmp_path, capsys):
    written = record.Record(tmp_path)
    for attempt in (1, 2):
        written.write(attempt, f"words of {attempt}")
    written.close()
    assert main(["logs", "--state-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "words of 2\n"
    assert main(["logs", "--state-dir", str(tmp_path), "--attempt", "1", "--json"]) == 0
    assert capsys.readouterr().out == '"words of 1"\n'


def test_version_and_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        main(["history", "-n", "few"])
    assert ended.value.code == 2
    capsys.readouterr()


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_the_commands(capsys, shell):
    assert main(["completion", shell]) == 0
    assert "history" in capsys.readouterr().out
