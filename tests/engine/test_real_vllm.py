"""The controller with the real vLLM: one long story, in which the end of a test is the beginning of the next.

Each test begins and ends with a Ready engine, so any of them runs alone too. Nine starts of the engine in the first
life of the controller, two in the second.
"""

import json
import os
import shlex
import signal
import stat
from pathlib import Path

import pytest

from support.pressure import unhurried
from support.real_vllm import ENVIRONMENT, PLAIN, START, Census, Service, command, refused, runs, shared_memory
from support.wait import wait_for
from vllm_fsm.adapters import procfs
from vllm_fsm.cli import main

CANARY = 3.0
FIRST_LIFE = {"pace": {"health_every": 600.0, "step_every": 1.0, "canary_limit": CANARY, "canary_idle": 1.0}}
"""Whether the engine steps is looked at all the time, what the server says of it never."""
SECOND_LIFE = {"pace": {"health_every": 0.2}}
"""The other way round."""
FIELDS = ["time", "event", "trigger", "from", "to", "reason", "message", "lasted", "attempt", "engine", "pid"]


@pytest.fixture(scope="module")
def life():
    # Four processes, and nothing else: `test_real_warm_start` has the others.
    with Service("--warm", "off", "--log-format", "json", overrides=FIRST_LIFE) as service:
        service.until("NoModel")
        service.wish(256)
        service.comes_up(0)
        yield service


@pytest.fixture
def service(life):
    if life.ended:
        life.again(**SECOND_LIFE)
    life.comes_up(0)
    yield life
    if not life.ended:
        check_order(life)


def check_order(service):
    """The state is right, and nothing is left of any earlier engine."""
    health = service.health()
    assert (health["state"], health["result"], health["engine"]) == ("Ready", "success", "Alive")
    assert {process.session for process in service.ours()} == {health["pid"]}
    assert len(service.ours()) == len(service.family()) == 4
    (scratch,) = service.scratch()
    assert Path(scratch).name.startswith(f"{health['attempt']}-")
    assert len(service.marks()) == 2
    for line in service.events("transition"):
        assert list(line)[: len(FIELDS)] == FIELDS
    said = {line["event"] for line in service.lines}
    assert not said & {"bug", "not-json", "effect-failed", "observer-failed", "probe-error", "engine-remains"}
    check_secret(service, service.key)


def check_secret(service, key):
    """The key stands nowhere but in its file and in the engine's environment."""
    assert key not in "".join(service.raw)
    for path in service.own_files():
        assert key.encode() not in path.read_bytes(), path
    for process in procfs.processes():
        assert key.encode() not in procfs.cmdline(process.pid), process


def left_ready(service):
    """The transition that ended the last time of Ready."""
    return [line for line in service.events("transition") if line["from"] == "Ready"][-1]


# --- to Ready ----------------------------------------------------------------------------------------------------


def test_a_fresh_store_leads_to_ready(service):
    assert service.path()[:2] == ["Loading", "Ready"]
    loading, ready = service.events("transition")[:2]
    assert (loading["trigger"], loading["from"], loading["reason"]) == ("WantedChanged", "NoModel", None)
    assert (ready["trigger"], ready["from"], ready["attempt"]) == ("ProbePassed", "Loading", 1)
    assert (ready["engine"], ready["reason"], ready["message"]) == ("Alive", None, "The vLLM API is ready")
    assert ready["pid"] in service.sessions
    assert ready["lasted"] > 1
    health = service.health()
    assert (health["result"], health["message"], health["messageId"]) == ("success", "The vLLM API is ready", "Ready")
    assert health["target"] == health["active"]
    assert health["active"]["arguments"][-2:] == ["--max-model-len", "256"]
    assert health["warnings"] == []
    phases = ["Imports", "Configuration", "Processes", "Weights", "Memory", "Listening"]
    assert [phase["name"] for phase in health["phases"]] == phases
    assert sum(phase["seconds"] for phase in health["phases"]) == pytest.approx(ready["lasted"], abs=5.0)
    assert main(["health", "--run-dir", str(service.run_dir)]) == 0


def test_the_api_is_guarded_by_the_key(service):
    models = "/v1/models"
    assert service.ask(models)[0] == 401
    assert service.ask(models, service.key[:-1])[0] == 401
    assert service.ask("/health")[0] == 200
    assert service.length() == 256
    service.generates()
    body = {"model": "tiny", "prompt": "Hello", "max_tokens": 1}
    assert service.ask("/v1/completions", None, body)[0] == 401
    mode = service.credentials.stat().st_mode
    assert (stat.S_IMODE(mode), len(service.key)) == (0o644, 22)


def test_the_engine_gets_its_own_environment(service):
    leader = service.family()["leader"]
    content = Path(f"/proc/{leader.pid}/environ").read_bytes().decode().rstrip("\0")
    environment = dict(line.split("=", 1) for line in content.split("\0"))
    assert [environment["TMPDIR"]] == service.scratch()
    assert environment["VLLM_API_KEY"] == service.key
    assert environment["HF_HUB_CACHE"] == str(service.data / "models")
    assert environment["VLLM_CACHE_ROOT"] == str(service.data / "cache" / "vllm")
    assert "VLLM_FSM_TEST_VLLM" in os.environ
    assert not [name for name in environment if name.startswith("VLLM_FSM_")]
    # vLLM's sockets are there and not in /tmp.
    assert [path for path in Path(environment["TMPDIR"]).iterdir() if path.is_socket()]


# --- a hang ------------------------------------------------------------------------------------------------------


def test_a_hung_engine_is_failed_and_ready_again_without_a_restart(service):
    before = service.health()
    core = service.family()["core"]
    procfs.send(core, signal.SIGSTOP)
    try:
        health = service.until("Failed", START)
        assert (health["reason"], health["result"], health["engine"]) == ("EngineUnresponsive", "failure", "Alive")
        assert service.ask("/health")[0] == 200
    finally:
        procfs.send(core, signal.SIGCONT)
    health = service.until("Ready", START)
    assert (health["attempt"], health["pid"]) == (before["attempt"], before["pid"])
    assert runs(core)
    service.generates()
    wait_for(lambda: service.path()[-2:] == ["Failed", "Ready"], what="both lines")


# --- changes of the files ----------------------------------------------------------------------------------------


def test_deleting_the_credentials_rotates_the_key(service):
    attempt, old = service.health()["attempt"], service.key
    service.credentials.unlink()
    wait_for(lambda: service.credentials.exists(), what="a new key")
    service.started(attempt + 1)
    assert service.comes_up(attempt)["attempt"] == attempt + 1
    assert service.key != old
    assert service.ask("/v1/models", old)[0] == 401
    service.generates()
    check_secret(service, old)


def test_other_arguments_replace_the_engine(service):
    attempt, family = service.health()["attempt"], service.family()
    (scratch,) = service.scratch()
    segments = shared_memory(*family.values())
    with Census(service) as census:
        service.wish(128)
        service.started(attempt + 1)
        assert not [process for process in family.values() if runs(process)]
    assert {family["leader"].pid} in census.engines
    assert max(map(len, census.engines)) == 1
    assert not os.path.exists(scratch)
    assert not [path for path in segments if os.path.exists(path)]
    assert service.comes_up(attempt)["attempt"] == attempt + 1
    assert service.length() == 128
    assert service.path()[-2:] == ["Loading", "Ready"]
    assert left_ready(service)["trigger"] == "WeightsComplete"


def test_a_change_while_it_loads_does_not_wait_for_the_grace_period(service):
    attempt = service.health()["attempt"]
    service.wish(192)
    started = service.started(attempt + 1)
    # From here on until it is ready, vLLM loses the first SIGTERM.
    began = service.lines.index(started)
    wait_for(
        lambda: any("Initializing a V1 LLM engine" in line.get("line", "") for line in service.lines[began:]),
        120.0,
        f"the engine process begins: {service.last_lines()}",
    )
    with Census(service) as census:
        service.wish(224)
        service.started(attempt + 2)
    assert {started["pid"]} in census.engines
    assert max(map(len, census.engines)) == 1
    assert service.comes_up(attempt)["attempt"] == attempt + 2
    assert service.length() == 224
    assert service.path()[-2:] == ["Loading", "Ready"]


# --- actions -----------------------------------------------------------------------------------------------------


def set_model(service, *arguments):
    """Run Set Model with custom arguments for the tiny model; return the exit code."""
    places = ("--data", str(service.data), "--run-dir", str(service.run_dir), "--engine", command())
    variables = [word for name, value in ENVIRONMENT.items() for word in ("--env", f"{name}={value}")]
    return main(["set-model", "--custom", shlex.join([service.model, *PLAIN, *arguments]), *variables, *places])


def test_set_model_replaces_the_engine_by_one_that_answers(service, capsys):
    before, family = service.health(), service.family()
    assert set_model(service, "--max-model-len", "160") == 0
    assert "The running service follows" in capsys.readouterr().out
    service.started(before["attempt"] + 1)
    assert not [process for process in family.values() if runs(process)]
    assert service.comes_up(before["attempt"])["attempt"] == before["attempt"] + 1
    service.generates()
    assert service.length() == 160
    check_order(service)

    # The same again, and what vLLM would refuse: by the action, and by hand.
    served, store = service.health(), service.store.read_bytes()
    assert set_model(service, "--max-model-len", "160") == 0
    assert set_model(service, "--max-model-length", "170") == 2
    assert "perhaps --max-model-len was" in capsys.readouterr().err
    assert service.store.read_bytes() == store
    service.serve(service.model, *PLAIN, "--max-model-length", "170", **ENVIRONMENT)
    health = service.until("Ready", also=lambda h: h["reason"])
    assert (health["reason"], health["pid"]) == ("BadArguments", served["pid"])
    assert "perhaps --max-model-len was meant" in health["message"]
    service.generates()
    assert set_model(service, "--max-model-len", "160") == 0
    assert service.until("Ready", also=lambda h: not h["reason"])["pid"] == served["pid"]
    service.generates()


def test_rotating_the_key_by_the_action(service, capsys):
    attempt, old = service.health()["attempt"], service.key
    places = ("--public", str(service.public), "--run-dir", str(service.run_dir))
    assert main(["rotate-api-key", "--json", *places]) == 0
    new = json.loads(capsys.readouterr().out)["result"]["values"][0]["value"]
    assert new == service.key != old
    assert service.comes_up(attempt)["attempt"] == attempt + 1
    assert service.ask("/v1/models", old)[0] == 401
    service.generates()


# --- violent ends ------------------------------------------------------------------------------------------------


def test_an_engine_that_ends_unasked_is_restarted_after_all_of_it_is_gone(service):
    """First by a signal, then with exit code 0: the second failure waits a second, and so is told with its number."""
    attempt, family = service.health()["attempt"], service.family()
    (scratch,) = service.scratch()
    segments = shared_memory(*family.values())
    assert [path for path in segments if "/psm_" in path]
    assert [path for path in segments if "/sem.mp-" in path]
    with Census(service) as census:
        procfs.send(family["leader"], signal.SIGKILL)
        service.started(attempt + 1)
        # vLLM's other processes outlive their leader for good.
        assert not [process for process in family.values() if runs(process)]
    assert {family["leader"].pid} in census.engines
    assert max(map(len, census.engines)) == 1
    assert not [path for path in segments if os.path.exists(path)]
    assert not os.path.exists(scratch)
    assert (left_ready(service)["trigger"], left_ready(service)["reason"]) == ("EngineExited", "EngineKilled")
    assert service.comes_up(attempt)["attempt"] == attempt + 1
    service.generates()
    check_order(service)

    family = service.family()
    procfs.send(family["core"], signal.SIGKILL)
    # The leader looks every 5 s whether its engine lives, then ends "cleanly".
    service.started(attempt + 2)
    assert not [process for process in family.values() if runs(process)]
    assert (left_ready(service)["trigger"], left_ready(service)["reason"]) == ("EngineExited", "EngineVanished")
    assert service.comes_up(attempt + 1)["attempt"] == attempt + 2
    service.generates()


# --- the controller's own end, and its next life -----------------------------------------------------------------


def test_the_whole_tree_dies_with_a_killed_controller_and_the_next_one_starts_clean(service):
    family = service.family()
    tree = [*family.values(), service.guardian()]
    key, segments = service.key, shared_memory(*tree)
    # Python's tracker would remove the semaphores, in its own time.
    procfs.send(family["tracker"], signal.SIGKILL)
    killed = unhurried()
    service.signal(signal.SIGKILL)
    wait_for(lambda: not [process for process in tree if runs(process)], what=f"the end of {tree}")
    assert unhurried() - killed < 2.0
    service.ends()
    assert refused(service.port)
    assert service.scratch() == []
    assert not [path for path in segments if os.path.exists(path)]
    service.again(**SECOND_LIFE)
    assert service.comes_up(0)["attempt"] == 1
    assert service.events("leftovers-found") == []
    assert service.key == key
    service.generates()


def test_a_dead_worker_behind_a_living_server_is_noticed(service):
    attempt, family = service.health()["attempt"], service.family()
    killed = unhurried()
    procfs.send(family["worker"], signal.SIGKILL)
    # The leader would stand for 5 s; `/health` says 503 within a tenth.
    service.started(attempt + 1)
    assert unhurried() - killed < 4.0
    assert (left_ready(service)["trigger"], left_ready(service)["reason"]) == ("EngineDead", "EngineDead")
    assert not [process for process in family.values() if runs(process)]
    assert service.comes_up(attempt)["attempt"] == attempt + 1
    service.generates()


def test_a_stopped_controller_leaves_nothing(service):
    tree = [*service.family().values(), service.guardian()]
    segments = shared_memory(*tree)
    assert service.stop() == 0
    assert service.says("stopped")["code"] == 0
    assert not [process for process in tree if runs(process)]
    assert service.ours() == []
    assert refused(service.port)
    assert service.scratch() == service.marks() == []
    assert not [path for path in segments if os.path.exists(path)]
    assert json.loads((service.run_dir / "health.json").read_text())["engine"] == "Absent"
