"""Runs inside vLLM's API server: asks for the key everywhere but at `/health`.

vLLM 0.32 asks for it below `/v1`, `/v2`, `/inference` and `/cohere` only (`serve/middleware/authenticate.py`). It
imports this by name (`--middleware`) and finds it by PYTHONPATH, so that nothing but the standard library is here.
"""

import hashlib
import hmac
import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN = "/health"
"""What load balancers and we look at; it tells nothing but that the engine lives."""
REFUSED = b'{"error":"Unauthorized"}'
POLICY_VIOLATION = 1008
"""Of a WebSocket (RFC 6455, 7.4.1)."""


class KeyEverywhere:
    """An ASGI middleware.

    Raises:
        RuntimeError: there is no key, so that it would let nobody in.
    """

    def __init__(self, app: App) -> None:
        key = os.environ.get("VLLM_API_KEY", "")
        if not key:
            raise RuntimeError("VLLM_API_KEY is empty")
        self._app = app
        self._key = _digest(key.encode())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Hand the request on, or refuse it. As with vLLM, OPTIONS is free: browsers ask without a key."""
        asks = scope["type"] in ("http", "websocket") and scope.get("method") != "OPTIONS" and scope["path"] != OPEN
        if not asks or self._holds_key(scope["headers"]):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        else:
            fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(REFUSED))]
            await send({"type": "http.response.start", "status": 401, "headers": fields})
            await send({"type": "http.response.body", "body": REFUSED})

    def _holds_key(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        value = next((value for name, value in headers if name.lower() == b"authorization"), b"")
        scheme, _, given = value.partition(b" ")
        # Compared in constant time, whatever the lengths.
        return hmac.compare_digest(_digest(given), self._key) and scheme.lower() == b"bearer"


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()
