"""The real vLLM from a hub: fetched before the start, served without the hub, swapped while it answers."""

from __future__ import annotations

import threading
import time
from datetime import datetime

import pytest

from support.fake_hub import FakeHub
from support.real_vllm import ENVIRONMENT, START, Service
from support.wait import wait_for

MIB = 1 << 20
PLAIN = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "256")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with FakeHub(tmp_path_factory.mktemp("hub")) as hub:
        hub.repo("org/one", files={"original/consolidated.00.pth": b"x", "pytorch_model.bin": b"x"})
        hub.repo("org/two", seed=2, size_mb=30, shards=3)
        yield hub


@pytest.fixture(scope="module")
def service(hub):
    with Service("--log-format", "json", environment={"HF_ENDPOINT": hub.url}) as service:
        service.until("NoModel")
        yield service


def asks(service, model):
    return service.ask("/v1/completions", service.key, {"model": model, "prompt": "Hello", "max_tokens": 4})


def test_it_is_fetched_and_served_under_its_name_without_the_hub(service, hub):
    service.serve("org/one", *PLAIN, **ENVIRONMENT)
    service.says("transition", to="Downloading")
    service.says("transition", trigger="WeightsComplete", to="Loading")
    hub.stop()
    service.comes_up(0)
    status, answer = asks(service, "org/one")
    assert (status, answer["model"]) == (200, "org/one")
    said = "".join(line["line"] for line in service.events("engine-output"))
    assert "HF_HUB_OFFLINE is True" in said
    hub.start()


def test_the_old_one_answers_until_the_new_one_is_there(service, hub):
    hub.bandwidth(MIB // 4)
    failed, answered, over = [], [], threading.Event()

    def keep_asking():
        while not over.is_set():
            try:
                status, _ = asks(service, "org/one")
            except OSError as error:
                status = repr(error)
            if status == 200:
                answered.append(service.health()["download"])
            else:
                failed.append(time.time())
            over.wait(0.1)

    before = service.health()["attempt"]
    client = threading.Thread(target=keep_asking)
    client.start()
    try:
        service.serve("org/two", *PLAIN, **ENVIRONMENT)
        service.until("Ready", START, also=lambda health: bool(health["download"]))
        wait_for(lambda: len(list(filter(None, answered))) > 10, START, "answers while the next one is downloaded")
        hub.bandwidth(0)
        stopped = service.says("transition", START, trigger="WeightsComplete", **{"from": "Ready"})
    finally:
        over.set()
        client.join()
    assert stopped["to"] == "Loading"
    moment = datetime.fromisoformat(stopped["time"]).timestamp()
    assert not [failure for failure in failed if failure < moment], "none failed meanwhile"
    service.comes_up(before)
    assert asks(service, "org/two")[0] == 200


def test_what_nobody_could_know_of_is_looked_for_with_the_hub_once(service, hub):
    """The cache of somebody else, without a list of its files: its tokenizer is not missed before the start."""
    hub.bandwidth(0)
    before = service.health()["attempt"]
    folder = service.data / "models/models--org--one"
    for listing in folder.glob("vllm-fsm/*.json"):
        listing.unlink()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        next(folder.glob(f"snapshots/*/{name}")).unlink()
    service.serve("org/one", *PLAIN, **ENVIRONMENT)
    service.comes_up(before)
    missed = [line for line in service.events("engine-exited") if not line["asked"]]
    assert len(missed) == 1
    assert service.health()["attempt"] == before + 2
    assert asks(service, "org/one")[0] == 200
