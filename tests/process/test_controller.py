"""The whole controller with a rude fake engine: what it does, what it says, what it leaves."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import time
from contextlib import closing
from unittest.mock import ANY

import pytest

from support import dead_disk, rude
from support.controller import Controller
from support.pressure import unhurried
from support.wait import LIMIT, wait_for
from vllm_fsm import flags, lock
from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.watch import STEP

FAST = {"settings": {"nudge_after": 0.2, "port_retry": 0.2, "restart_first": 0.1, "kill_again": 0.5}}
WATCHFUL = {
    **FAST,
    "pace": {"health_every": 0.1, "step_every": 0.2, "canary_limit": 0.3, "canary_idle": 0.2, "canary_retry": 0.1},
}


@pytest.fixture
def controller(tmp_path):
    with Controller(tmp_path, overrides=FAST) as controller:
        yield controller


@pytest.fixture
def watchful(tmp_path):
    with Controller(tmp_path, overrides=WATCHFUL) as controller:
        yield controller


def listening(port):
    """A stranger on the port, as a context manager."""
    stranger = socket.socket()
    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    stranger.bind(("127.0.0.1", port))
    stranger.listen()
    return closing(stranger)


def get(controller, path, key=None):
    with closing(http.client.HTTPConnection("127.0.0.1", controller.port, timeout=LIMIT)) as connection:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        with connection.getresponse() as response:
            return response.status


# --- the main job ------------------------------------------------------------------------------------------------


def test_from_nothing_to_ready_and_back(controller):
    assert controller.until("NoModel")["result"] == "failure"
    controller.serve("tiny", "--max-model-len", "256")
    health = controller.ready()
    assert health["message"] == "The vLLM API is ready"
    assert (
        health["active"]
        == health["target"]
        == {
            "model": "tiny",
            "arguments": ["tiny", "--max-model-len", "256"],
            "environment": [],
        }
    )
    assert get(controller, "/v1/models") == 401
    assert get(controller, "/v1/models", controller.key) == 200
    controller.store.write_text("{}")
    assert controller.until("NoModel", also=lambda h: h["engine"] == "Absent")["message"] == (
        'No model selected. Run the "Set Model" action.'
    )
    assert controller.path() == ["Loading", "Ready", "NoModel"]


def test_every_transition_is_one_line_with_all_its_fields(controller):
    controller.serve("tiny").ready()
    line = controller.says("transition", to="Ready")
    assert list(line) == [
        "time", "event", "trigger", "from", "to", "reason", "message", "lasted", "attempt", "engine", "pid",
        "parts", "evidence",
    ]  # fmt: skip
    assert (line["trigger"], line["from"], line["attempt"], line["engine"]) == ("ProbePassed", "Loading", 1, "Alive")


def test_an_edit_restarts_with_the_new_arguments(controller):
    controller.serve("tiny").ready(1)
    controller.serve("tiny", "--seed", "7")
    assert controller.ready(2)["active"]["arguments"] == ["tiny", "--seed", "7"]


def test_reformatting_and_other_fields_restart_nothing(controller):
    controller.serve("tiny").ready(1)
    content = {"modelSelection": {"selection": "custom"}, "note": "mine"} | json.loads(controller.store.read_text())
    controller.store.write_text(json.dumps(content, indent=8))
    controller.serve("tiny").store.touch()
    controller.serve("tiny", "--seed", "1").ready(2)
    assert len(controller.events("engine-started")) == 2


def test_a_burst_of_edits_is_one_restart_to_the_last(controller):
    controller.serve("tiny").ready(1)
    began = time.monotonic()
    for number in range(50):
        controller.serve("tiny", "--seed", str(number))
    elapsed = time.monotonic() - began
    health = controller.until("Ready", also=lambda h: h["active"]["arguments"] == ["tiny", "--seed", "49"])
    # Each look ends what it sees of a burst, and they are a step apart.
    assert health["attempt"] <= 4 + elapsed // STEP


def test_deleting_the_credentials_makes_a_new_key_and_restarts_with_it(controller):
    controller.serve("tiny").ready(1)
    old = controller.key
    controller.credentials.unlink()
    controller.ready(2)
    assert controller.key != old
    assert len(controller.key) == 22
    assert get(controller, "/v1/models", old) == 401
    assert get(controller, "/v1/models", controller.key) == 200


def test_a_chosen_key_is_taken(controller):
    controller.serve("tiny").ready(1)
    controller.credentials.write_text(json.dumps({"apiKey": "my-own-key", "note": "kept"}))
    controller.ready(2)
    assert get(controller, "/v1/models", "my-own-key") == 200
    assert json.loads(controller.credentials.read_text())["note"] == "kept"


@pytest.mark.parametrize("name", ["store", "credentials"])
def test_a_broken_file_is_named_and_changes_nothing(controller, name):
    controller.serve("tiny").ready(1)
    path = getattr(controller, name)
    path.write_text('{"broken')
    health = controller.until("Ready", also=lambda h: h["warnings"])
    assert path.name in health["message"]
    assert health["attempt"] == 1
    path.unlink()
    if name == "store":
        controller.serve("tiny", "--seed", "1")
    controller.until("Ready", also=lambda h: h["attempt"] == 2 and not h["warnings"])


def test_reserved_flags_are_dropped_and_named(controller):
    controller.serve("tiny", "--port", "1", "--api-key", "mine", VLLM_API_KEY="theirs")
    health = controller.ready()
    assert health["active"]["arguments"] == ["tiny"]
    assert "--port" in health["message"]
    assert "--api-key" in health["message"]
    assert "VLLM_API_KEY" in health["message"]
    assert "theirs" not in "".join(controller.raw)


def test_arguments_without_a_model_are_refused(controller):
    controller.serve("--max-model-len", "256")
    health = controller.until("Failed")
    assert health["reason"] == "BadArguments"
    assert health["attempt"] == 0


@pytest.fixture
def known(tmp_path):
    """A controller whose engine is of the version that the table of flags is made from."""
    engine = rude.installed(tmp_path / "engine", flags.versions()[-1])
    with Controller(tmp_path, overrides=FAST, engine=engine) as controller:
        yield controller


def test_an_edit_that_vllm_would_refuse_keeps_the_engine(known):
    known.serve("tiny").ready(1)
    known.serve("tiny", "--max-model-length", "256")
    health = known.until("Ready", also=lambda h: h["reason"])
    assert (health["reason"], health["attempt"]) == ("BadArguments", 1)
    assert "perhaps --max-model-len was meant" in health["message"]
    assert get(known, "/v1/models", known.key) == 200
    known.serve("tiny", "--max-model-len", "256").ready(2)
    assert len(known.events("engine-started")) == 2


def test_what_stood_there_at_the_start_is_judged_while_it_loads(tmp_path):
    engine = rude.installed(tmp_path / "engine", flags.versions()[-1])
    controller = Controller(tmp_path, overrides=FAST, engine=engine)
    with controller.serve("tiny", "--frobnicate", RUDE_LISTEN_AFTER=600):
        health = controller.until("Failed", also=lambda h: h["engine"] == "Absent")
        assert (health["reason"], health["attempt"]) == ("BadArguments", 1)
        assert "--frobnicate" in health["message"]


def test_by_another_versions_flags_an_edit_is_only_warned_of(controller):
    controller.serve("tiny").ready(1)
    controller.serve("tiny", "--max-model-length", "256")
    health = controller.ready(2)
    assert [warning["id"] for warning in health["warnings"]] == ["VersionUnknown", "FlagUnknownMeant"]


# --- disks that do not answer --------------------------------------------------------------------------------------

needs_dead_disk = pytest.mark.skipif(not dead_disk.possible(), reason="/dev/fuse cannot be opened here")


@needs_dead_disk
def test_a_model_on_a_disk_that_does_not_answer_holds_nothing_up(tmp_path):
    disk = tmp_path / "disk"
    looking = f"Looking for the files of {disk}/model takes long"

    def work():
        with Controller(tmp_path, overrides={"settings": {**FAST["settings"], "look": 0.2}}) as controller:
            controller.serve("tiny").ready(1)
            controller.serve(f"{disk}/model")
            controller.until("Ready", also=lambda h: looking in h["message"])
            assert get(controller, "/v1/models", controller.key) == 200
            controller.serve("tiny", "--max-model-len", "256").ready(2)
            controller.serve().until("NoModel")
            controller.serve(f"{disk}/model")
            health = controller.until("Loading", also=lambda h: looking in h["message"])
            assert (health["reason"], health["pid"]) == (None, None)
            controller.serve("tiny").ready(3)
            controller.serve(f"{disk}/model").until("Ready", also=lambda h: looking in h["message"])
            assert controller.stop() == 0

    dead_disk.on_dead_disk(disk, work)


@needs_dead_disk
def test_an_edit_that_names_a_file_on_such_a_disk_counts_unjudged(tmp_path):
    disk = tmp_path / "disk"

    def work():
        with Controller(tmp_path, overrides=FAST) as controller:
            controller.serve("tiny").ready(1)
            controller.serve("tiny", "--chat-template", f"{disk}/template.jinja").ready(2)
            assert controller.events("arguments-not-judged") == [ANY]
            assert controller.stop() == 0

    dead_disk.on_dead_disk(disk, work)


# --- engines that misbehave --------------------------------------------------------------------------------------


def test_an_engine_that_dies_after_ready_is_restarted_even_with_exit_code_0(controller):
    controller.serve("tiny")
    os.kill(controller.ready(1)["pid"], signal.SIGTERM)
    controller.ready(2)
    assert controller.says("engine-exited")["status"] == 0
    assert controller.says("transition", trigger="EngineExited")["from"] == "Ready"


def test_an_engine_that_always_dies_ends_in_failed(controller):
    controller.serve("tiny", RUDE_EXIT_CODE=3, RUDE_LAST_LINE="RuntimeError: no luck")
    health = controller.until("Failed")
    assert health["reason"] == "EngineExited"
    assert health["attempt"] == 6
    assert health["nextTry"] is not None


def test_a_usage_error_is_permanent(controller):
    controller.serve("tiny", RUDE_EXIT_CODE=2, RUDE_LAST_LINE="vllm: error: unrecognized arguments: --oops 1")
    health = controller.until("Failed")
    assert health["reason"] == "BadArguments"
    assert "--oops" in health["message"]
    assert health["attempt"] == 1
    controller.serve("tiny").ready()


def test_a_dead_engine_behind_a_living_server_is_restarted(watchful, tmp_path):
    switch = tmp_path / "switch"
    watchful.serve("tiny", RUDE_SWITCH=switch).ready(1)
    switch.write_text("HEALTH=503\n")
    watchful.says("transition", trigger="EngineDead")
    switch.unlink()
    watchful.until("Ready", also=lambda h: h["attempt"] >= 2)


def test_an_engine_that_hangs_on_tokens_is_failed_and_ready_again_when_it_answers(watchful, tmp_path):
    switch = tmp_path / "switch"
    watchful.serve("tiny", RUDE_SWITCH=switch).ready(1)
    switch.write_text("COMPLETIONS=hang\n")
    assert watchful.until("Failed")["reason"] == "EngineUnresponsive"
    assert watchful.health()["engine"] == "Alive"
    switch.unlink()
    watchful.ready(1)


def test_an_engine_that_stays_silent_is_restarted(tmp_path):
    settings, pace = {**FAST["settings"], "unresponsive_restart": 0.5}, {**WATCHFUL["pace"], "answer_limit": 1.0}
    with Controller(tmp_path, overrides={"settings": settings, "pace": pace}) as controller:
        os.kill(controller.serve("tiny").ready()["pid"], signal.SIGSTOP)
        controller.says("transition", trigger="UnresponsiveDue")
        controller.until("Ready", also=lambda h: h["attempt"] >= 2)


def test_a_start_that_stands_still_is_ended_and_said_to_hang(tmp_path):
    overrides = {"settings": {**FAST["settings"], "pulse": 0.2}}
    with Controller(tmp_path, "--silence-timeout", "1s", overrides=overrides) as controller:
        controller.serve("tiny", RUDE_NEVER_LISTEN=1)
        health = controller.until("Failed")
        assert (health["reason"], health["attempt"], health["nextTry"]) == ("EngineHung", 2, None)
        assert re.search(r"\(phase: (Imports|Configuration)\)", health["message"])  # where it was when it stood still
        controller.until("Failed", also=lambda h: h["engine"] == "Absent")
        controller.serve("tiny").ready()


def test_the_phases_of_a_start_are_in_the_log_and_in_health(controller):
    controller.serve("tiny")
    health = controller.ready()
    assert [phase["name"] for phase in health["phases"]] == ["Imports", "Configuration", "Listening"]
    controller.says("phase", phase="Ready", after="Listening")


def test_what_was_ready_last_is_served_again_when_the_next_choice_fails_for_good(tmp_path):
    with Controller(tmp_path, "--fallback", "last-good", overrides=FAST) as controller:
        controller.serve("tiny", "--max-model-len", "256").ready(1)
        wrong = {"RUDE_EXIT_CODE": 2, "RUDE_LAST_LINE": "vllm: error: unrecognized arguments: --oops 1"}
        controller.serve("tiny", **wrong)
        written = controller.store.read_bytes()
        health = controller.ready(3)
        assert health["fallback"]
        assert health["active"]["arguments"] == ["tiny", "--max-model-len", "256"]
        assert health["reason"] == "BadArguments"
        assert "--oops" in health["message"]
        assert controller.says("fallback")["reason"] == "BadArguments"
        assert controller.store.read_bytes() == written
        controller.serve("tiny")
        assert not controller.ready(4)["fallback"]


@pytest.mark.parametrize(
    "lie",
    [
        {"RUDE_MODELS": "open"},
        {"RUDE_MODELS": "foreign"},
        {"RUDE_MODEL_NAME": "another"},
        {"RUDE_COMPLETIONS": "500"},
        {"RUDE_HEALTH": "503"},
        {"RUDE_NEVER_LISTEN": "1"},
    ],
)
def test_a_liar_is_never_ready(tmp_path, lie):
    with Controller(tmp_path, "--startup-timeout", "1s", overrides=FAST) as controller:
        controller.serve("tiny", **lie)
        health = controller.until("Failed")
        assert health["reason"] == "StartupTimeout"
        assert "Ready" not in controller.path()


def test_the_engine_may_come_up_after_the_deadline(tmp_path):
    go = tmp_path / "go"
    with Controller(tmp_path, "--startup-timeout", "0.5s", overrides=FAST) as controller:
        controller.serve("tiny", RUDE_LISTEN_ONCE=go)
        assert controller.until("Failed")["message"].startswith("The vLLM API did not come up within")
        go.touch()
        controller.ready(1)


def test_an_engine_that_loses_the_first_sigterm_gets_another(controller):
    controller.serve("tiny", RUDE_SIGTERM="loading", RUDE_LISTEN_AFTER=600)
    controller.says("phase", phase="Configuration")  # by now it takes signals
    controller.store.write_text("{}")
    controller.until("NoModel", also=lambda h: h["engine"] == "Absent")
    assert controller.says("engine-exited")["status"] == 0


def test_a_deaf_engine_with_children_is_killed_after_the_grace_period(tmp_path):
    with Controller(tmp_path, "--stop-timeout", "0.5s", overrides=FAST) as controller:
        controller.serve("tiny", RUDE_SIGTERM="deaf", RUDE_CHILDREN=2, RUDE_CHILDREN_DEEP=1).ready(1)
        controller.serve("tiny").ready(2)
        assert len(controller.left()) == 1


def test_children_that_survive_their_leader_are_gone_before_the_next_start(controller):
    controller.serve("tiny", RUDE_CHILDREN=2, RUDE_CHILDREN_STAY=1, RUDE_TITLE="VLLM::EngineCore").ready(1)
    os.kill(controller.health()["pid"], signal.SIGKILL)
    controller.ready(2)
    leader = controller.health()["pid"]
    assert {procfs.read(pid).session for pid in controller.pids_left()} == {leader}


def test_output_is_relayed_and_the_key_is_not_in_it(controller):
    controller.serve("tiny", RUDE_PRINT_KEY=1, RUDE_PROGRESS=3, HF_TOKEN="hf_" + "x" * 34).ready()
    lines = [line["line"] for line in controller.events("engine-output")]
    assert any("non-default args" in line for line in lines)
    everything = "".join(controller.raw) + (controller.run_dir / "health.json").read_text()
    assert controller.key not in everything
    assert "hf_xxx" not in everything
    assert any("***" in line for line in lines)


# --- the port ----------------------------------------------------------------------------------------------------


def test_a_taken_port_is_named_and_the_engine_starts_when_it_is_free(controller):
    with listening(controller.port):
        controller.serve("tiny")
        health = controller.until("Failed")
        assert health["reason"] == "PortTaken"
        assert str(controller.port) in health["message"]
        assert str(os.getpid()) in health["message"]
        assert "Ready" not in controller.path()
    controller.ready()


# --- requests, signals, other controllers ------------------------------------------------------------------------


def test_retry_begins_anew(controller, tmp_path):
    marker = tmp_path / "switch"
    controller.serve("tiny", RUDE_EXIT_CODE=2, RUDE_LAST_LINE="vllm: error: bad", RUDE_SWITCH=marker)
    controller.until("Failed")
    (controller.run_dir / "request.json").write_text(
        json.dumps({"schema": 1, "request": "retry", "at": "2026-01-01T00:00:00Z"})
    )
    controller.until("Failed", also=lambda h: h["attempt"] == 2)
    assert not (controller.run_dir / "request.json").exists()


def test_hang_up_reads_again_and_retries(controller):
    controller.serve("tiny", RUDE_EXIT_CODE=2, RUDE_LAST_LINE="vllm: error: bad")
    controller.until("Failed")
    controller.signal(signal.SIGHUP)
    controller.until("Failed", also=lambda h: h["attempt"] == 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_in_order_and_leaves_nothing(controller, number):
    controller.serve("tiny", RUDE_CHILDREN=2, RUDE_SHM=2).ready()
    assert controller.signal(number).ends() == 0
    assert controller.left() == []
    assert controller.says("stopped")["code"] == 0


def test_a_second_signal_waits_for_nobody(controller):
    controller.serve("tiny", RUDE_SIGTERM="deaf").ready()
    controller.signal(signal.SIGTERM)
    controller.says("transition", trigger="StopRequested")
    began = unhurried()
    assert controller.signal(signal.SIGTERM).ends() == 0
    assert unhurried() - began < 5


def test_the_whole_tree_ends_within_two_seconds_of_our_violent_end(controller):
    controller.serve("tiny", RUDE_SIGTERM="deaf", RUDE_CHILDREN=2, RUDE_TITLE="VLLM::Worker").ready()
    killed = unhurried()
    controller.signal(signal.SIGKILL).ends()
    wait_for(lambda: not controller.left(), what="the tree ends")
    assert unhurried() - killed < 2.0


def test_the_next_controller_begins_where_the_last_one_was_killed(controller):
    controller.serve("tiny", RUDE_CHILDREN=2).ready(1)
    key = controller.key
    controller.signal(signal.SIGKILL).ends()
    controller.start().ready(1)
    assert controller.key == key


def test_a_second_controller_leaves_the_first_alone(controller, tmp_path):
    controller.serve("tiny").ready()
    second = Controller(tmp_path).start()
    assert second.ends() == 3
    assert "another controller is running" in "".join(second.raw)
    assert controller.ready()["attempt"] == 1


def test_one_data_directory_has_one_controller(controller, tmp_path):
    controller.serve("tiny").ready()
    second = Controller(tmp_path, "--state-dir", str(tmp_path / "state2"))
    second.run_dir = tmp_path / "run2"
    assert second.start().ends() == 3


def test_a_run_directory_that_is_removed_comes_back(controller):
    controller.serve("tiny").ready()
    shutil.rmtree(controller.run_dir)
    assert controller.ready()["attempt"] == 1
    assert lock.held(controller.run_dir)


def test_history_outlives_the_controller(controller, capsys):
    from vllm_fsm.cli import main

    controller.serve("tiny").ready()
    controller.stop()
    assert main(["history", "--data", str(controller.data)]) == 0
    assert "Loading → Ready" in capsys.readouterr().out


def test_the_output_of_a_start_is_kept_redacted_and_outlives_the_controller(controller, capsys):
    from vllm_fsm.cli import main

    controller.serve("tiny").ready()
    controller.serve("tiny", RUDE_EXIT_CODE=1, RUDE_LAST_LINE=f"ValueError: {controller.key} is what it was given")
    controller.says("engine-exited", status=1)
    controller.stop()
    assert main(["logs", "--data", str(controller.data)]) == 0
    shown = capsys.readouterr().out
    assert "ValueError: *** is what it was given" in shown
    assert controller.key not in shown
    folder = controller.data / ".vllm-fsm" / "attempts"
    assert {oct(file.stat().st_mode & 0o777) for file in folder.iterdir()} == {"0o600"}


def test_the_health_file_beats(controller):
    controller.until("NoModel")
    path = controller.run_dir / "health.json"
    before = path.stat().st_mtime_ns
    wait_for(lambda: path.stat().st_mtime_ns > before, what="a heartbeat")


def test_a_log_that_nobody_reads_stops_nothing(tmp_path):
    with Controller(tmp_path, overrides=FAST, read=False) as controller:
        controller.serve("tiny", RUDE_FLOOD=5_000_000).ready(1)
        controller.serve("tiny", "--seed", "1").ready(2)
        assert controller.stop() == 0
