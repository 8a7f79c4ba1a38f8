"""What the real vLLM answers without the key: what `docs/security.md` says of it, and what becomes of it."""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.real_vllm import Service, python
from support.wait import wait_for

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
GENERATING = {"prompt": "hello", "max_tokens": 1}
OPEN = {
    ("POST", "/invocations"): GENERATING,
    ("POST", "/tokenize"): {"prompt": "hello"},
    ("POST", "/detokenize"): {"tokens": [1]},
    ("GET", "/metrics"): None,
    ("GET", "/version"): None,
    ("GET", "/load"): None,
    ("GET", "/ping"): None,
    ("GET", "/docs"): None,
    ("GET", "/openapi.json"): None,
    ("GET", "/health"): None,
}
"""What answers without the key when only the API is guarded."""
CHANGING = ["/scale_elastic_ep"]
"""What would change the engine and is open too: asked for nonsense only."""


def status(service: Service, method: str, path: str, body: object = None, key: str | None = None) -> int:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    with closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)) as connection:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        with connection.getresponse() as response:
            response.read()
            return response.status


@pytest.fixture(scope="module", params=["api", "all"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    quick = {"step_every": 1.0, "health_every": 1.0, "canary_idle": 600.0}
    with Service("--log-format", "json", "--guard", request.param, overrides={"pace": quick}) as service:
        service.until("NoModel")
        service.wish(256)
        service.comes_up(0)
        service.guard = request.param  # type: ignore[attr-defined]
        yield service


def test_what_is_open_is_what_the_page_says(service: Service) -> None:
    told = PAGE.read_text()
    for (method, path), body in OPEN.items():
        found = status(service, method, path, body)
        closed = service.guard == "all" and path != "/health"  # type: ignore[attr-defined]
        assert found == (401 if closed else 200), path
        assert f"`{path}`" in told
        assert status(service, method, path, body, service.key) == 200, path
    for path in CHANGING:
        found = status(service, "POST", path, {"nonsense": 1})
        assert (found == 401) == (service.guard == "all"), (path, found)  # type: ignore[attr-defined]
        assert f"`{path}`" in told
    for path in ("/v1/models", "/v1/chat/completions", "/v2/rerank", "/inference/v1/generate"):
        assert status(service, "POST", path, {}) == 401


def test_it_is_still_seen_stepping(service: Service) -> None:
    """The counters are read with the key: nobody takes an engine for stuck because it is guarded."""

    def looked() -> bool:
        return '"GET /metrics HTTP/1.1" 401' not in "".join(service.raw) and service.health()["state"] == "Ready"

    before = len(service.events("liveness"))
    assert status(service, "POST", "/v1/completions", {"model": "tiny", **GENERATING}, service.key) == 200
    wait_for(looked, what="a look")
    assert [line for line in service.events("liveness")[before:] if "metrics" in json.dumps(line)] == []


def test_the_key_is_compared_in_constant_time() -> None:
    """By vLLM, which is the only one that compares it with what somebody sends."""
    source = (
        "import inspect; from vllm.entrypoints.serve.middleware import authenticate as a; print(inspect.getsource(a))"
    )
    run = subprocess.run((*python(), "-c", source), capture_output=True, text=True, check=True)
    assert "secrets.compare_digest(param_hash, token_hash)" in run.stdout
    assert 'GUARDED_PREFIX = ("/v1", "/v2", "/inference", "/cohere")' in run.stdout
