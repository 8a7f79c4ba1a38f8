"""An engine's API in the test's own process, as rude as a test wants it: every path can be answered by hand."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

KEY = "k3yk3yk3yk3yk3yk3yk3yk"
MODEL = "org/tiny"

Writer = asyncio.StreamWriter
Handler = Callable[["Asked", Writer], Awaitable[None]]


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def keyed(self) -> bool:
        return self.headers.get("authorization") == f"Bearer {KEY}"


def answer(status: int, body: bytes | dict[str, Any] = b"", **headers: str) -> bytes:
    """A whole HTTP/1.1 answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def always(raw: bytes) -> Handler:
    """A handler that sends `raw` and closes."""

    async def handle(_asked: Asked, writer: Writer) -> None:
        writer.write(raw)

    return handle


def models(*names: str, **more: Any) -> bytes:
    """The answer of `/v1/models` with the key."""
    return answer(200, {"object": "list", "data": [{"id": name, "object": "model", **more} for name in names]})


async def silence(_asked: Asked, _writer: Writer) -> None:
    """Never answer."""
    await asyncio.Event().wait()


@dataclass
class FakeApi:
    """Behaves as a ready vLLM 0.32; `handlers` replaces single paths. Counts tokens in its metrics like vLLM."""

    names: tuple[str, ...] = (MODEL,)
    handlers: dict[str, Handler] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    """Every request head as it came, also of what is no HTTP."""
    tokens: int = 0
    port: int = 0
    connections: int = 0
    _server: asyncio.Server | None = None
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]

    def count(self, path: str) -> int:
        return self.paths().count(path)

    async def listen(self, port: int = 0, address: str = "127.0.0.1") -> int:
        """Begin to listen; return the port."""
        self._server = await asyncio.start_server(self._serve, address, port, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._respond(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _respond(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.raw.append(head)
        first, *lines = head.decode().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        asked = Asked(method, path, headers, body)
        self.asked.append(asked)
        handler = self.handlers.get(path)
        if handler is not None:
            await handler(asked, writer)
        else:
            writer.write(self.proper(asked))
        await writer.drain()

    def proper(self, asked: Asked) -> bytes:
        """What vLLM would answer."""
        if asked.path.startswith("/v1") and not asked.keyed:
            return answer(401, {"error": "Unauthorized"})
        match asked.path:
            case "/v1/models":
                return models(*self.names)
            case "/health":
                return answer(200)
            case "/metrics":
                return answer(200, self.metrics())
            case "/v1/completions":
                if json.loads(asked.body)["model"] not in self.names:
                    return answer(404, {"error": {"message": "no such model"}})
                self.tokens += 1
                return answer(200, {"object": "text_completion", "choices": [{"text": "a", "index": 0}]})
        return answer(404, {"detail": "Not Found"})

    def metrics(self) -> bytes:
        return (
            b"# HELP vllm:generation_tokens_total Number of generation tokens processed.\n"
            b"# TYPE vllm:generation_tokens_total counter\n"
            b'vllm:generation_tokens_total{engine="0",model_name="m"} %d.0\n' % self.tokens
        )


@asynccontextmanager
async def serving(api: FakeApi, port: int = 0) -> Any:
    """Let `api` listen meanwhile."""
    await api.listen(port)
    try:
        yield api
    finally:
        await api.close()
