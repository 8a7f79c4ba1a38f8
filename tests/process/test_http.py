import asyncio
import errno
import traceback

import pytest

from support import patient_loop
from support.fake_api import KEY, Asked, FakeApi, Writer, answer, serving, silence
from support.rude import free_port
from vllm_fsm.adapters.probes import http
from vllm_fsm.adapters.probes.http import Broken, NoAnswer, Refused, Response, TimedOut, Unable, request


def ask(api: FakeApi, path: str = "/x", *, body: bytes = b"", limit: int = 1000, within: float = 5) -> Response:
    """Ask an API that lives as long as the question."""

    async def conversation() -> Response:
        async with serving(api):
            method = "POST" if body else "GET"
            headers = {"authorization": f"Bearer {KEY}"}
            return await request("127.0.0.1", api.port, method, path, headers, body, limit_bytes=limit, timeout=within)

    return patient_loop.run(conversation())


def sends(*pieces: bytes, then: str = "close") -> FakeApi:
    async def handle(_asked: Asked, writer: Writer) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if then == "silence":
            await asyncio.Event().wait()
        elif then == "reset":
            writer.transport.abort()

    return FakeApi(handlers={"/x": handle})


def streams(head: bytes, piece: bytes) -> FakeApi:
    async def handle(_asked: Asked, writer: Writer) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()

    return FakeApi(handlers={"/x": handle})


def test_an_answer_comes_back_whole() -> None:
    response = ask(
        FakeApi(handlers={"/x": lambda asked, writer: put(writer, answer(418, asked.body, X_A="b"))}), body=b"hi"
    )
    assert (response.status, response.body, response.headers["x-a"]) == (418, b"hi", "b")


async def put(writer: Writer, raw: bytes) -> None:
    writer.write(raw)


def test_what_is_asked_is_plain_http() -> None:
    api = FakeApi()
    ask(api, "/health")
    (asked,) = api.asked
    assert asked.headers == {
        "host": f"127.0.0.1:{api.port}",
        "connection": "close",
        "user-agent": "vllm-fsm",
        "accept-encoding": "identity",
        "authorization": f"Bearer {KEY}",
    }


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcdef",
    ],
)
def test_every_framing_of_a_body_is_read(raw: bytes) -> None:
    assert ask(sends(raw)).body == b"abc"


def test_an_answer_in_single_bytes_is_read() -> None:
    raw = answer(200, b"abc")
    assert ask(sends(*(raw[at : at + 1] for at in range(len(raw))))).body == b"abc"


def test_a_redirect_is_an_answer_and_not_followed() -> None:
    api = sends(answer(302, location="/health"))
    assert ask(api).status == 302
    assert api.paths() == ["/x"]


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert ask(FakeApi(), "/health").status == 200


def test_nobody_listens() -> None:
    with pytest.raises(Refused):
        patient_loop.run(request("127.0.0.1", free_port(), "GET", "/", limit_bytes=1, timeout=5))


GARBAGE = bytes(range(256)) * 4
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("api", "why"),
    [
        (sends(), "not complete"),
        (sends(b"HTTP/1.1 200 OK\r\ncontent-le"), "not complete"),
        (sends(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"), "not complete"),
        (sends(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab"), "not complete"),
        (sends(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", then="reset"), "reset|not complete"),
        (sends(GARBAGE), "not HTTP"),
        (sends(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"), "not HTTP"),
        (sends(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", then="silence"), "not HTTP"),
        (sends(answer(200, b"x" * 1001)), "too large"),
        (streams(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 10_000), "too large"),
        (streams(CHUNKED, b"1;" + b"e" * 5000 + b"\r\nx\r\n"), "too large"),
        (streams(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 1000), "not HTTP"),
        (streams(b"HTTP/1.1 200 OK\r\na: ", b"b" * 10_000), "not HTTP"),
        (streams(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), "too large"),
    ],
)  # fmt: skip
def test_what_is_no_complete_answer_is_broken(api: FakeApi, why: str) -> None:
    with pytest.raises(Broken, match=why):
        ask(api)


@pytest.mark.parametrize(
    "api",
    [
        FakeApi(handlers={"/x": silence}),
        sends(b"SSH-2.0-OpenSSH_9.2\r\n", then="silence"),
        sends(b"HTTP/1.1 200 OK\r\n", then="silence"),
        sends(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", then="silence"),
    ],
)
def test_silence_ends_with_the_time_limit(api: FakeApi) -> None:
    with pytest.raises(TimedOut):
        ask(api, within=0.1)


def test_a_slow_drip_does_not_extend_the_time_limit() -> None:
    async def drip(_asked: Asked, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.01)

    with pytest.raises(TimedOut):
        ask(FakeApi(handlers={"/x": drip}), limit=100_000, within=0.2)


def test_a_large_question_is_sent_to_somebody_who_does_not_read() -> None:
    async def conversation() -> None:
        async def idle(_reader: asyncio.StreamReader, writer: Writer) -> None:
            await hung_up.wait()
            writer.transport.abort()

        hung_up = asyncio.Event()

        server = await asyncio.start_server(idle, "127.0.0.1", 0, limit=1)
        try:
            port = server.sockets[0].getsockname()[1]
            await request("127.0.0.1", port, "POST", "/", {}, b"x" * (8 << 20), limit_bytes=1, timeout=0.2)
        finally:
            hung_up.set()
            server.close()
            await server.wait_closed()

    with pytest.raises(TimedOut):
        patient_loop.run(conversation())


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.ENOBUFS])
def test_our_own_trouble_is_told_apart(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise OSError(code, "ours")

    monkeypatch.setattr(http.asyncio, "open_connection", fail)
    with pytest.raises(Unable, match=errno.errorcode[code]):
        patient_loop.run(request("127.0.0.1", 1, "GET", "/", limit_bytes=1, timeout=5))


def test_a_cancelled_question_closes_its_connection() -> None:
    async def conversation() -> bool:
        async with serving(FakeApi(handlers={"/x": silence})) as api:
            closed = asyncio.Event()

            async def until_closed(_asked: Asked, writer: Writer) -> None:
                try:
                    while True:
                        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                        await writer.drain()
                        await asyncio.sleep(0.001)
                except ConnectionError:
                    closed.set()

            api.handlers["/x"] = until_closed
            question = asyncio.create_task(request("127.0.0.1", api.port, "GET", "/x", limit_bytes=1, timeout=60))
            while not api.asked:
                await asyncio.sleep(0.001)
            question.cancel()
            await asyncio.gather(question, return_exceptions=True)
            assert question.cancelled()
            await asyncio.wait_for(closed.wait(), 5)
            return True

    assert patient_loop.run(conversation())


# --- the key ---


def everything(error: BaseException) -> str:
    """All that anybody could print of an exception, with what hangs behind it."""
    text = ""
    behind: BaseException | None = error
    while behind is not None:
        text += repr(behind) + str(behind) + repr(behind.args)
        behind = behind.__context__
    return text + "".join(traceback.format_exception(error))


async def echo(asked: Asked, writer: Writer) -> None:
    for name, value in asked.headers.items():
        writer.write(f"{name}: {value}\r\n".encode())


async def echo_as_header(asked: Asked, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nbad header " + asked.headers["authorization"].encode() + b"\r\n\r\n")


async def echo_as_length(asked: Asked, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: " + asked.headers["authorization"].encode() + b"\r\n\r\n")


async def echo_then_hang(asked: Asked, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nx: " + asked.headers["authorization"].encode() + b"\r\n")
    await asyncio.Event().wait()


@pytest.mark.parametrize("handler", [echo, echo_as_header, echo_as_length, echo_then_hang, silence])
def test_no_error_shows_the_key_even_if_the_server_echoes_it(handler: object) -> None:
    with pytest.raises(NoAnswer) as caught:
        ask(FakeApi(handlers={"/x": handler}), within=0.2)  # type: ignore[dict-item]
    assert KEY not in everything(caught.value)


def test_a_key_that_is_no_header_value_is_not_shown() -> None:
    headers = {"authorization": f"Bearer {KEY}\n"}
    with pytest.raises(Unable) as caught:
        patient_loop.run(request("127.0.0.1", 1, "GET", "/", headers, limit_bytes=1, timeout=1))
    assert KEY not in everything(caught.value)
    with pytest.raises(Unable) as caught:
        patient_loop.run(request("127.0.0.1", 1, "GET", "/", {"a": f"\u20ac{KEY}"}, limit_bytes=1, timeout=1))
    assert KEY not in everything(caught.value)
