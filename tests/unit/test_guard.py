"""The middleware that runs inside vLLM: nobody without the key comes past it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from support.by_path import load
from vllm_fsm import engine_command

KEY = "Kq7vTz2LwXc9RbN4mEfH1s"
MODULE, _, CLASS = engine_command.GUARD.rpartition(".")
SOURCE = Path(engine_command.ENGINE_SIDE) / f"{MODULE}.py"
RIGHT = (b"authorization", f"Bearer {KEY}".encode())


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    return getattr(load(str(SOURCE)), CLASS)


def asked(
    guard: Any, path: str, headers: Iterable[tuple[bytes, bytes]] = (), kind: str = "http", method: str = "GET"
) -> list[dict[str, Any]]:
    """What is sent for one request; `passed` is what the server behind it says."""
    sent: list[dict[str, Any]] = []

    async def app(_scope: object, _receive: object, send: Any) -> None:
        await send({"type": "passed"})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    scope = {"type": kind, "path": path, "method": method, "headers": list(headers)}
    asyncio.run(guard(app)(scope, receive, send))
    return sent


@pytest.mark.parametrize(
    "path", ["/invocations", "/metrics", "/", "/v1/models", "/health/", "/HEALTH", "//health", "/docs"]
)
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", KEY.encode())],
        [(b"authorization", f"Basic {KEY}".encode())],
        [(b"authorization", f"Bearer {KEY}x".encode())],
        [(b"authorization", f"Bearer {KEY[:-1]}".encode())],
        [(b"authorization", f"Bearer  {KEY}".encode())],
        [(b"authorization", b"Bearer \xff")],
        [(b"authorization", b"x"), RIGHT],
        [(b"x-authorization", RIGHT[1])],
    ],
)
def test_without_the_key_nothing_is_handed_on(guard: Any, path: str, headers: list[tuple[bytes, bytes]]) -> None:
    start, body = asked(guard, path, headers)
    assert (start["type"], start["status"]) == ("http.response.start", 401)
    assert body["body"] == b'{"error":"Unauthorized"}'
    (closed,) = asked(guard, path, headers, kind="websocket")
    assert closed == {"type": "websocket.close", "code": 1008}


@pytest.mark.parametrize("name", [b"authorization", b"Authorization"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_with_the_key_everything_is(guard: Any, name: bytes, scheme: str) -> None:
    headers = [(b"accept", b"*/*"), (name, f"{scheme} {KEY}".encode())]
    for kind in ("http", "websocket"):
        assert asked(guard, "/invocations", headers, kind) == [{"type": "passed"}]


def test_what_needs_no_key(guard: Any) -> None:
    passed = [{"type": "passed"}]
    assert asked(guard, "/health") == passed
    assert asked(guard, "/v1/models", method="OPTIONS") == passed
    assert asked(guard, "/any", kind="lifespan") == passed


def test_without_any_key_it_does_not_start(guard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "")
    with pytest.raises(RuntimeError, match="VLLM_API_KEY"):
        guard(None)


def test_it_needs_the_standard_library_only() -> None:
    """It is imported by vLLM's interpreter, which knows nothing of ours."""
    command = (sys.executable, "-I", "-S", "-c", "import runpy, sys; runpy.run_path(sys.argv[1])", str(SOURCE))
    subprocess.run(command, check=True)
