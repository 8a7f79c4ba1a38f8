"""The whole controller between a rude fake engine and a fake hub: nobody is without service while a model downloads."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from support import hub_cache
from support.controller import Controller
from support.fake_hub import FakeHub
from support.pressure import unhurried
from support.wait import LIMIT, wait_for

MIB = 1 << 20
FAST = {"settings": {"nudge_after": 0.2, "restart_first": 0.1, "kill_again": 0.5, "download_first": 0.2}}


@pytest.fixture
def hub(tmp_path):
    with FakeHub(tmp_path / "hub") as hub:
        hub.repo("org/two", size_mb=40, shards=2)
        hub.repo("org/three", seed=3)
        yield hub


def stop_at(hub, share):
    """Let the hub send so many per cent of each of the weights of org/two, and then no more."""
    size = 20 * MIB * share // 100
    hub.faults({"match": r"GET /org/two/.*\.safetensors$", "action": "stall", "after_bytes": size, "seconds": 3600})


@pytest.fixture
def controller(tmp_path, hub):
    with Controller(tmp_path, overrides=FAST, environment={"HF_ENDPOINT": hub.url}) as controller:
        hub_cache.keep(controller.data / "models", "org/one")
        yield controller


class Client:
    """Somebody who asks all the time, and notes when no answer came."""

    def __init__(self, controller):
        self.controller = controller
        self.failed: list[float] = []
        """When, as the log has it."""
        self.answered = 0
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.ends.is_set():
            with closing(http.client.HTTPConnection("127.0.0.1", self.controller.port, timeout=LIMIT)) as connection:
                try:
                    connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {self.controller.key}"})
                    assert connection.getresponse().status == 200
                    self.answered += 1
                except (OSError, http.client.HTTPException, AssertionError):
                    self.failed.append(time.time())
            self.ends.wait(0.02)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join()


def downloading(controller, share=1):
    """Wait until `share` per cent of a download are there."""

    def far(health):
        download = health.get("download")
        return bool(download and download["total"] and 100 * download["done"] >= share * download["total"])

    return far


def fetchers(controller: Controller) -> list[int]:
    """The download processes of this controller."""
    assert controller.process is not None
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if f"HF_HUB_CACHE={controller.data}/models".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                found += [int(pid)] if b"fetcher.py" in line else []
        except OSError:
            continue
    return found


def test_a_model_that_is_not_there_is_downloaded_first(controller, hub):
    hub.bandwidth(MIB)
    controller.serve("org/two")
    health = controller.until("Downloading", also=downloading(controller, 5))
    hub.bandwidth(0)
    assert health["result"] == "loading"
    assert re.match(r"Downloading org/two: 0\.0 of 0\.0 GB \(\d+ %\)", health["message"])
    assert health["download"]["files"] == 8
    assert health["pid"] is None
    controller.ready(1)
    assert controller.path() == ["Loading", "Downloading", "Loading", "Ready"]
    assert controller.events("download"), "a line of the log says how far it is"


def test_a_complete_cache_needs_no_hub(controller, hub):
    hub.stop()
    began = unhurried()
    controller.serve("org/one")
    controller.says("engine-started")
    assert unhurried() - began < 2.0
    controller.ready(1)
    assert controller.path() == ["Loading", "Ready"]


def test_the_old_model_serves_until_the_new_one_is_there(controller, hub):
    hub.bandwidth(MIB)
    controller.serve("org/one").ready(1)
    with Client(controller) as client:
        controller.serve("org/two")
        health = controller.until("Ready", also=downloading(controller, 5))
        assert health["result"] == "success"
        assert health["message"].startswith("The vLLM API is ready. org/two is downloading: ")
        assert health["active"]["model"] == "org/one"
        answered = client.answered
        assert client.failed == []
        hub.bandwidth(0)
        controller.ready(2)
        stopped = datetime.fromisoformat(next(filter(_stops, controller.lines))["time"]).timestamp()
        assert client.answered > answered
        assert not [moment for moment in client.failed if moment < stopped], "none before the stop"
    assert controller.path() == ["Loading", "Ready", "Loading", "Ready"]


def _stops(line):
    return line["event"] == "transition" and (line["from"], line["to"]) == ("Ready", "Loading")


def test_a_change_of_mind_and_back_restarts_nothing_and_keeps_what_was_fetched(controller, hub):
    stop_at(hub, 45)
    pid = controller.serve("org/one").ready(1)["pid"]
    controller.serve("org/two")
    controller.until("Ready", also=downloading(controller, 30))
    controller.serve("org/one")
    controller.until("Ready", also=lambda health: health["download"] is None)
    wait_for(lambda: not fetchers(controller), what="the download ends")
    assert controller.health()["pid"] == pid
    sent = hub.sent("/org/two/resolve/")
    hub.faults()
    controller.serve("org/two").ready(2)
    size = sum(file.stat().st_size for file in (hub.root / "org/two").iterdir())
    assert hub.sent("/org/two/resolve/") - sent < size * 0.8


def test_a_second_change_of_mind_ends_the_first_download(controller, hub):
    stop_at(hub, 45)
    controller.serve("org/one").ready(1)
    controller.serve("org/two")
    controller.until("Ready", also=downloading(controller, 10))
    controller.serve("org/three")
    controller.until("Ready", also=lambda health: health["active"]["model"] == "org/three")
    assert [line["attempt"] for line in controller.events("engine-started")] == [1, 2]
    assert not list((controller.data / "models/models--org--two/refs").glob("*"))


def test_what_serves_goes_on_when_the_next_cannot_be_had(controller, hub):
    hub.repo("org/gated", gated=True)
    pid = controller.serve("org/one").ready(1)["pid"]
    controller.serve("org/gated")
    health = controller.until("Ready", also=lambda health: health["reason"] == "GatedRepo")
    assert health["result"] == "success"
    assert "It still serves org/one" in health["message"]
    assert "org/gated is gated. Accept its licence" in health["message"]
    assert health["pid"] == pid
    controller.serve("org/one")
    assert controller.until("Ready", also=lambda health: health["reason"] is None)["pid"] == pid


def test_an_immediate_swap_does_not_wait(tmp_path, hub):
    environment = {"HF_ENDPOINT": hub.url, "VLLM_FSM_SWAP": "immediate"}
    with Controller(tmp_path, overrides=FAST, environment=environment) as controller:
        hub_cache.keep(controller.data / "models", "org/one")
        controller.serve("org/one").ready(1)
        hub.bandwidth(MIB)
        controller.serve("org/two").until("Downloading", also=downloading(controller, 5))
        hub.bandwidth(0)
        controller.ready(2)


def test_a_hub_that_comes_back_is_found_again(controller, hub):
    hub.stop()
    controller.serve("org/three")
    health = controller.until("Downloading", also=lambda health: health["reason"] == "HubUnreachable")
    assert health["nextTry"]
    assert "cannot be reached" in health["message"]
    hub.start()
    controller.ready(1)


def test_killed_in_the_middle_it_goes_on_after_the_restart(controller, hub):
    stop_at(hub, 60)
    controller.serve("org/two")
    controller.until("Downloading", also=downloading(controller, 40))
    controller.signal(signal.SIGKILL).ends()
    wait_for(lambda: not fetchers(controller), what="the download ends with its controller")
    sent = hub.sent("/org/two/resolve/")
    hub.faults()
    controller.start()
    controller.ready()
    size = sum(file.stat().st_size for file in (hub.root / "org/two").iterdir())
    assert hub.sent("/org/two/resolve/") - sent < size * 0.7


def test_a_new_key_leaves_the_download_alone(controller, hub):
    hub.bandwidth(MIB)
    controller.serve("org/two")
    controller.until("Downloading", also=downloading(controller, 5))
    (child,) = fetchers(controller)
    key = controller.key
    controller.credentials.unlink()
    wait_for(lambda: controller.credentials.exists() and controller.key != key, what="a new key")
    assert fetchers(controller) == [child]
    hub.bandwidth(0)
    controller.ready(1)


def test_a_stop_ends_the_download(controller, hub):
    stop_at(hub, 45)
    controller.serve("org/two")
    controller.until("Downloading", also=downloading(controller, 10))
    assert controller.stop() == 0
    assert not fetchers(controller)


def test_status_tells_how_far_it_is(controller, hub):
    hub.bandwidth(MIB)
    controller.serve("org/two")
    controller.until("Downloading", also=downloading(controller, 5))
    command = [sys.executable, "-m", "vllm_fsm", "status", "--run-dir", str(controller.run_dir)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "download   org/two: 0.0" in said
    assert "of 8 files" in said
    hub.bandwidth(0)
    controller.ready(1)
