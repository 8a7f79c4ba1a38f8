"""One HTTP/1.1 question over one connection: bounded in time and size, no redirects, no proxies.

Every connection serves one request: vLLM closes an idle one after 5 s (`VLLM_HTTP_TIMEOUT_KEEP_ALIVE`), which is our
own interval, and a second connection on loopback costs a fraction of a millisecond.

No text of an exception holds anything that was sent or received: a server may echo the key.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import h11

HEAD_LIMIT: Final = 64 * 1024
"""Bytes for status line, header fields and chunk marks of an answer."""
_PIECE: Final = 64 * 1024
_NO_HEADERS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Response:
    """A complete answer. Names of `headers` are in lower case; of repeated ones the last is kept."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NoAnswer(Exception):
    """No complete answer came; the text says why in a few words."""


class Refused(NoAnswer):
    """Nobody listens."""


class Broken(NoAnswer):
    """The connection was closed or reset before the answer was complete, or it is not HTTP, or too large."""


class TimedOut(NoAnswer):
    """The answer was not complete in time."""


class Unable(NoAnswer):
    """We could not even ask (descriptors, addresses, a bad header): this says nothing about the server."""


async def request(
    host: str,
    port: int,
    method: str,
    path: str,
    headers: Mapping[str, str] = _NO_HEADERS,
    body: bytes = b"",
    *,
    limit_bytes: int,
    timeout: float,  # noqa: ASYNC109 - the limit of the whole conversation, which is our job here
) -> Response:
    """Ask once and return the whole answer; `limit_bytes` bounds its body, `timeout` seconds all of it.

    Raises:
        Refused, Broken, TimedOut, Unable: see there.
    """
    try:
        async with asyncio.timeout(timeout):
            return await _converse(host, port, _question(host, port, method, path, headers, body), limit_bytes)
    except TimeoutError:
        pass
    # Raised outside of the handler: no exception that might quote the conversation hangs behind ours.
    raise TimedOut("no answer in time")


@dataclass(frozen=True, slots=True)
class _Question:
    head: h11.Request
    body: bytes


def _question(host: str, port: int, method: str, path: str, headers: Mapping[str, str], body: bytes) -> _Question:
    import h11

    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    fields = [
        ("host", authority),
        ("connection", "close"),
        ("user-agent", "vllm-fsm"),
        ("accept-encoding", "identity"),
        *headers.items(),
    ]
    if body:
        fields.append(("content-length", str(len(body))))
    try:
        return _Question(h11.Request(method=method, target=path, headers=fields), body)
    except (h11.LocalProtocolError, ValueError):
        pass
    raise Unable("a header, the method or the path is not allowed in HTTP")


async def _converse(host: str, port: int, question: _Question, limit_bytes: int) -> Response:
    import h11

    problem: NoAnswer
    try:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            return await _exchange(reader, writer, question, limit_bytes)
        finally:
            # Nothing is owed to the other side any more, and `close` would wait for what is still unsent.
            writer.transport.abort()
    except ConnectionRefusedError:
        problem = Refused("nobody listens")
    except ConnectionError:
        problem = Broken("the connection was reset")
    except TimeoutError:
        problem = TimedOut("the connection timed out")
    except OSError as error:
        problem = Unable(errno.errorcode.get(error.errno or 0, "unknown error"))
    except h11.RemoteProtocolError:
        problem = Broken("the answer is not HTTP or not complete")
    raise problem


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, question: _Question, limit_bytes: int
) -> Response:
    import h11

    connection = h11.Connection(our_role=h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)
    writer.write(connection.send(question.head) or b"")
    if question.body:
        writer.write(connection.send(h11.Data(data=question.body)) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    head: h11.Response | None = None
    body = bytearray()
    received = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            piece = await reader.read(_PIECE)
            received += len(piece)
            if received - len(body) > HEAD_LIMIT + _PIECE:
                raise Broken("the answer's head is too large")
            connection.receive_data(piece)
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > limit_bytes:
                raise Broken("the answer is too large")
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            fields = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers
            }  # h11 gives names in lower case
            return Response(head.status_code, fields, bytes(body))
        elif not isinstance(event, h11.InformationalResponse):
            raise Broken("the connection was closed")
