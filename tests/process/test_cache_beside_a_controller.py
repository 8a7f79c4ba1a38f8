"""Listing and deleting while a controller runs: what it serves is kept, and it tries again when there is room."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from support.controller import Controller
from support.hub_cache import keep
from vllm_fsm.cli import main

COMMIT = "d" * 40
HUGE = 1 << 60
"""Bytes, more than any volume has."""


@pytest.fixture
def controller(tmp_path):
    with Controller(tmp_path) as controller:
        yield controller


class Hub(BaseHTTPRequestHandler):
    """Has one model, which fits nowhere."""

    def do_GET(self) -> None:
        file = {"type": "file", "path": "config.json", "size": HUGE, "oid": "e" * 40}
        answer = [file] if "/tree/" in self.path else {"id": "org/huge", "sha": COMMIT}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def call(controller, command, *words):
    return main([command, "--data", str(controller.data), "--run-dir", str(controller.run_dir), *words])


def states(controller, capsys):
    capsys.readouterr()
    assert call(controller, "cache", "--json") == 0
    return {model["name"]: model["state"] for model in json.loads(capsys.readouterr().out)["models"]}


def test_what_is_served_is_kept_until_another_is(controller, capsys):
    keep(controller.data / "models", "other")
    controller.serve("tiny")
    controller.ready()
    assert states(controller, capsys) == {"tiny": "served", "other": None}
    assert call(controller, "delete-model-cache", "tiny") == 2
    controller.serve("other")
    controller.ready(2)
    assert states(controller, capsys) == {"tiny": None, "other": "served"}
    assert call(controller, "delete-model-cache", "tiny") == 0
    assert states(controller, capsys) == {"other": "served"}
    assert controller.health()["attempt"] == 2
    assert controller.events("request") == []


def test_a_served_model_can_be_deleted_by_force_and_goes_on_serving(controller, capsys):
    controller.serve("tiny")
    controller.ready()
    assert call(controller, "delete-model-cache", "tiny", "--force") == 0
    assert states(controller, capsys) == {}
    assert controller.health()["state"] == "Ready"


def test_a_controller_without_room_tries_again_after_a_deletion(controller, hub, capsys):
    controller.serve("org/huge", HF_ENDPOINT=hub)
    controller.until("Failed", also=lambda health: health["reason"] == "DiskFull")
    assert states(controller, capsys) == {"tiny": None, "org/huge": "selected"}
    assert call(controller, "delete-model-cache", "org/huge") == 2
    assert controller.events("request") == []
    assert call(controller, "delete-model-cache", "tiny", "--json") == 0
    assert json.loads(capsys.readouterr().out)["result"]["retried"] is True
    controller.says("request", kind="retry")
    controller.says("transition", trigger="RetryRequested")
    controller.until("Failed", also=lambda health: health["reason"] == "VolumeTooSmall")
