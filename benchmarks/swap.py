"""A swap to a model that must be downloaded first, with the real vLLM and a client that asks all the time.

Time without service is what the client sees: from the last answer of the old model to the first of the new one. It is
measured for a download of about a minute, and for a model that is in the cache already: stop and load alone.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress

import figure
from figure import Figure
from real import ENVIRONMENT, START, command

from support.fake_hub import FakeHub
from support.real_vllm import Service
from support.wait import wait_for

SIZE = 60
PLAIN = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "256")
PAUSE = 0.1
MEGABYTES = 60


class Client:
    """Asks for tokens of whatever serves, ten times a second."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answers: list[tuple[float, str]] = []
        """When, and of which model."""
        self.failures: list[float] = []

    def _run(self) -> None:
        while not self._over.is_set():
            model = "org/one"
            with suppress(Exception):
                model = (self._service.health()["active"] or {}).get("model", model)
            at = time.monotonic()
            try:
                body = {"model": model, "prompt": "Hello", "max_tokens": 2}
                status, _ = self._service.ask("/v1/completions", self._service.key, body, timeout=10.0)
            except Exception:
                status = 0
            if status == 200:
                self.answers.append((time.monotonic(), model))
            else:
                self.failures.append(at)
            self._over.wait(PAUSE)

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def measure(size: int = SIZE) -> list[Figure]:
    """Swap to a model that takes about `size` seconds to download, and to one that is there; nothing without vLLM."""
    if command() is None:
        print("VLLM_FSM_TEST_VLLM is not set: the swap is left out", file=sys.stderr)
        return []
    with Service("--log-format", "json") as service, FakeHub(service.root / "hub") as hub:
        service.environment["HF_ENDPOINT"] = hub.url
        hub.repo("org/one")
        hub.repo("org/two", seed=2, size_mb=MEGABYTES)
        service.start() if service.process is None else None
        _serve(service, hub, "org/one")
        service.comes_up(0)
        with Client(service) as client:
            hub.bandwidth(MEGABYTES * 1_000_000 // size)
            began = time.monotonic()
            first = _swapped(service, hub, client, "org/two")
            lasted = first[1] - began
        with Client(service) as client:
            second = _swapped(service, hub, client, "org/one")
    return [
        Figure("swap after a download: failed before the stop", "requests", [first[0]], figure.Bound("max", 0), 0),
        Figure("… from the change to the stop", "s", [lasted]),
        Figure("… time without service", "s", [first[2]]),
        Figure("swap to a cached model: time without service", "s", [second[2]]),
    ]


def _serve(service: Service, hub: FakeHub, model: str) -> None:
    service.serve(model, *PLAIN, HF_ENDPOINT=hub.url, **ENVIRONMENT)


def _swapped(service: Service, hub: FakeHub, client: Client, model: str) -> tuple[float, float, float]:
    """Ask for `model`; return the failures before the stop, when that was, and the seconds without service."""
    wait_for(lambda: client.answers, START, "an answer of what serves now")
    before = service.health()["attempt"]
    lines = len(service.lines)
    _serve(service, hub, model)
    service.comes_up(before)
    end = time.monotonic() + START
    while not any(served == model for _, served in client.answers):
        assert time.monotonic() < end, f"no answer of {model}"
        time.sleep(PAUSE)
    left = [at for line, at in zip(service.lines[lines:], service.times[lines:], strict=False) if _stops(line)]
    early = [at for at in client.failures if at < left[0] - 0.5]
    old = max(at for at, served in client.answers if served != model)
    new = min(at for at, served in client.answers if served == model)
    return float(len(early)), left[0], new - old


def _stops(line: dict[str, object]) -> bool:
    return line["event"] == "transition" and line["from"] == "Ready"


if __name__ == "__main__":
    figure.main(measure, SIZE, "seconds of the download")
