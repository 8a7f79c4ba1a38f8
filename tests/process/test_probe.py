"""The prober against servers that are late, rude, wrong or somebody else's."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from support import patient_loop
from support.fake_api import KEY, MODEL, Asked, FakeApi, Handler, Writer, always, answer, models, serving, silence
from support.patient_loop import now
from support.rude import free_port
from support.wait import await_for, wait_for
from vllm_fsm.adapters.probes import api as engine_api
from vllm_fsm.adapters.probes import listeners
from vllm_fsm.adapters.probes import prober as probe_module
from vllm_fsm.adapters.probes.api import EngineApi
from vllm_fsm.adapters.probes.listeners import Ownership, Survey
from vllm_fsm.adapters.probes.prober import Prober
from vllm_fsm.core import effects as fx
from vllm_fsm.core import events as ev
from vllm_fsm.core.snapshot import Secret, Target

FAST = {
    "look": 0.005,
    "late_look": 0.02,
    "retry": 0.005,
    "answer_limit": 0.5,
    "health_every": 0.01,
    "step_every": 0.01,
    "canary_limit": 0.15,
    "canary_idle": 0.0,
    "canary_retry": 0.01,
}
OWN_SESSION = os.getsid(0)


def target(*arguments: str) -> Target:
    return Target((MODEL, *arguments), (), Secret(KEY), MODEL)


@dataclass
class Rig:
    """A prober with what it posted and logged."""

    prober: Prober
    events: list[ev.Event]
    lines: list[tuple[str, dict[str, object]]]

    def start(self, epoch: int = 1, pid: int = OWN_SESSION, rest: float = 60.0, wanted: Target | None = None) -> None:
        deadline = now() + rest
        self.prober.start(fx.StartProbes(epoch, wanted or target(), pid, deadline))

    def of(self, kind: type[ev.Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, kind: type[ev.Event], count: int = 1) -> list[Any]:
        await await_for(lambda: len(self.of(kind)) >= count, what=f"{count} {kind.__name__}: {self.events}")
        return self.of(kind)

    async def until_logged(self, event: str, count: int = 1, **fields: object) -> dict[str, object]:
        def found() -> list[dict[str, object]]:
            return [line for name, line in self.lines if name == event and fields.items() <= line.items()]

        await await_for(lambda: len(found()) >= count, what=f"{event} {fields}: {self.lines}")
        return found()[-1]

    async def proven(self, **start: Any) -> None:
        """Start and get to where the engine is watched."""
        self.start(**start)
        await self.until(ev.ProbePassed)
        self.prober.watch(fx.WatchLiveness(start.get("epoch", 1)))


Test = Callable[[FakeApi, Rig], Awaitable[None]]


def run(test: Test, api: FakeApi | None = None, port: int | None = None, host: str = "0.0.0.0", **pace: float) -> Rig:
    """Run `test` with a listening fake API and a prober; `port`: nobody listens there yet."""
    fake = api or FakeApi()

    async def all_of_it() -> Rig:
        events: list[ev.Event] = []
        lines: list[tuple[str, dict[str, object]]] = []

        def log(event: str, /, **fields: object) -> None:
            lines.append((event, fields))

        if port is None:
            await fake.listen()
        try:
            prober = Prober(events.append, now, log, host, port or fake.port, **{**FAST, **pace})
            rig = Rig(prober, events, lines)
            try:
                await test(fake, rig)
            finally:
                await prober.close()
            others = asyncio.all_tasks() - {asyncio.current_task()} - fake._tasks
            assert not others, "the prober leaves no task behind"
        finally:
            await fake.close()
        return rig

    rig = patient_loop.run(all_of_it())
    assert KEY not in repr(rig.lines) + repr(rig.events), "the key is nobody's business"
    assert not [line for line in rig.lines if line[0] == "probe-error"], rig.lines
    return rig


def rounds(api: FakeApi, more: int) -> Callable[[], bool]:
    """True once `more` further requests came."""
    goal = len(api.asked) + more
    return lambda: len(api.asked) >= goal


@contextlib.contextmanager
def looks() -> Iterator[list[float]]:
    """The times at which the prober looks who listens."""
    taken: list[float] = []
    look = EngineApi.listeners

    def counted(self: EngineApi) -> Any:
        taken.append(now())
        return look(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EngineApi, "listeners", counted)
        yield taken


# --- until it is proven ------------------------------------------------------------------------------------------


def test_an_engine_that_answers_everything_is_proven_once() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        rig.start(epoch=7)
        (passed,) = await rig.until(ev.ProbePassed)
        assert passed.epoch == 7
        asked = [(one.method, one.path, one.keyed) for one in api.asked]
        assert asked == [
            ("GET", "/v1/models", False),
            ("GET", "/v1/models", True),
            ("GET", "/health", False),
            ("POST", "/v1/completions", True),
        ]
        assert json.loads(api.asked[-1].body) == {"model": MODEL, "prompt": [1], "max_tokens": 1}
        line = await rig.until_logged("probe-passed", epoch=7, model=MODEL)
        assert set(line["answers"]) == {"key", "models", "health", "token"}  # type: ignore[call-overload]

    rig = run(test)
    assert len(rig.events) == 1


def test_an_engine_that_listens_late_is_proven_at_once() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        with looks() as taken:
            rig.start()
            await await_for(lambda: len(taken) >= 5, what="looks at a closed port")
            assert not rig.events
            assert not rig.lines, "waiting is no news"
            began = now()
            await api.listen(port)
            await rig.until(ev.ProbePassed)
        assert now() - began < 1
        assert api.connections == 4, "no connection but for a question"

    port = free_port()
    run(test, port=port, late_look=30)


def test_after_the_deadline_it_is_still_looked_at_but_slowly() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        rig.start(rest=-1)
        await asyncio.sleep(0)
        await api.listen(port)
        await rig.until(ev.ProbePassed)

    port = free_port()
    run(test, port=port, look=30, retry=30)


def test_names_given_to_the_model_are_what_is_looked_for() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        rig.start(wanted=target("--served_model_name", "one", "two", "--seed", "1"))
        await rig.until(ev.ProbePassed)
        assert json.loads(api.asked[-1].body)["model"] == "two"

    run(test, FakeApi(names=("x", "two")))


@pytest.mark.parametrize(
    ("told", "address"), [("::", "::"), ("::1", "::1"), ("127.0.0.1", "127.0.0.1"), ("127.0.0.3", "127.0.0.3")]
)
def test_an_engine_is_asked_where_it_was_told_to_listen(told: str, address: str) -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        rig.start()
        await api.listen(port, address)
        await rig.until(ev.ProbePassed)
        host = f"[{told}]" if told == "::1" else "[::1]" if told == "::" else told
        assert api.asked[0].headers["host"] == f"{host}:{port}"

    port = free_port()
    run(test, port=port, host=told)


def unkeyed(status: int, body: bytes = b"") -> Handler:
    """Answer `/v1/models` without a key; properly with it."""

    async def handle(asked: Asked, writer: Writer) -> None:
        writer.write(models(MODEL) if asked.keyed else answer(status, body))

    return handle


def keyed(raw: bytes) -> Handler:
    """Answer `/v1/models` with our key; 401 without."""

    async def handle(asked: Asked, writer: Writer) -> None:
        writer.write(raw if asked.keyed else answer(401))

    return handle


async def endless_headers(_asked: Asked, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x-more: and more\r\n" * 100)
        await writer.drain()


async def endless_body(_asked: Asked, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 50_000)
        await writer.drain()


async def slow_drip(_asked: Asked, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.005)


WRONG: list[tuple[str, Handler, str, str]] = [
    ("/v1/models", unkeyed(200, b'{"data": [{"id": "org/tiny"}]}'), "key", "200 without a key"),
    ("/v1/models", unkeyed(403), "key", "403 without a key"),
    ("/v1/models", unkeyed(302), "key", "302 without a key"),
    ("/v1/models", always(answer(401)), "models", "401 with our key"),
    ("/v1/models", keyed(answer(500)), "models", "500 with our key"),
    ("/v1/models", keyed(answer(307, location="/v1/models/")), "models", "307"),
    ("/v1/models", keyed(models("org/other")), "models", "does not name org/tiny"),
    ("/v1/models", keyed(answer(200, b'{"data": ' + b"[" * 100_000)), "models", "does not name"),
    ("/v1/models", keyed(answer(200, b"\xff\x00 ok")), "models", "does not name"),
    ("/v1/models", keyed(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"), "models", "not complete"),
    ("/v1/models", always(b""), "key", "not complete"),
    ("/v1/models", always(os.urandom(300) + b"\r\n\r\n"), "key", "not HTTP"),
    ("/v1/models", always(b"HTTP/1.1 401 No\r\nx: " + b"y" * 10_000_000), "key", "not HTTP|too large|reset"),
    ("/v1/models", endless_headers, "key", "not HTTP|too large"),
    ("/v1/models", silence, "key", "no answer in time"),
    ("/health", always(answer(503)), "health", "503"),
    ("/health", always(answer(204)), "health", "204"),
    ("/health", endless_body, "health", "too large"),
    ("/health", slow_drip, "health", "no answer in time"),
    ("/health", silence, "health", "no answer in time"),
    ("/v1/completions", always(answer(500)), "token", "500"),
    ("/v1/completions", always(answer(503)), "token", "503"),
    ("/v1/completions", always(answer(401)), "token", "401"),
    ("/v1/completions", always(answer(403)), "token", "403"),
    ("/v1/completions", always(answer(429)), "token", "429"),
    ("/v1/completions", always(answer(302)), "token", "302"),
    ("/v1/completions", always(answer(200, b"ok")), "token", "without a completion"),
    ("/v1/completions", always(answer(200, b'{"choices": []}')), "token", "without a completion"),
    ("/v1/completions", always(b""), "token", "not complete"),
]


@pytest.mark.parametrize(("path", "handler", "check", "why"), WRONG)
def test_what_fails_a_check_is_not_ready_and_is_once_it_is_repaired(
    path: str, handler: Handler, check: str, why: str
) -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        api.handlers[path] = handler
        rig.start()
        wrong = api.count(path) + 3
        await await_for(lambda: api.count(path) >= wrong, what="looked at again and again")
        assert not rig.events
        del api.handlers[path]
        await rig.until(ev.ProbePassed)
        failures = [line for name, line in rig.lines if name == "probe-failed"]
        assert len(failures) == 1, "one line for a failure that stays the same"
        assert failures[0]["check"] == check
        assert any(part in str(failures[0]["why"]) for part in why.split("|"))

    run(test, answer_limit=0.1)


def test_a_token_that_failed_is_asked_for_again_and_one_that_came_is_not() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        async def first_500(asked: Asked, writer: Writer) -> None:
            failed = api.count("/v1/completions") == 1
            writer.write(answer(500) if failed else api.proper(asked))

        api.handlers["/v1/completions"] = first_500
        rig.start()
        await rig.until(ev.ProbePassed)
        assert api.count("/v1/completions") == 2

    run(test)


@pytest.mark.parametrize("status", [400, 404, 405, 422])
def test_a_model_that_does_not_generate_is_ready_and_that_is_noted(status: int) -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        api.handlers["/v1/completions"] = always(answer(status))
        rig.start()
        await rig.until(ev.ProbePassed)
        await rig.until_logged("probe-no-generation", epoch=1, status=status)
        assert api.count("/v1/completions") == 1

    run(test)


def test_a_token_may_take_all_of_the_start_up_time_and_is_asked_for_once() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        release = asyncio.Event()

        async def late(asked: Asked, writer: Writer) -> None:
            await release.wait()
            writer.write(api.proper(asked))

        api.handlers["/v1/completions"] = late
        rig.start()
        await await_for(lambda: api.count("/v1/completions") == 1, what="the token request")
        asked = now()
        long = 0.1  # more than an answer without a token and than a canary may take
        await await_for(lambda: now() > asked + long, what="time to pass")
        assert not rig.events
        release.set()
        await rig.until(ev.ProbePassed)
        assert api.count("/v1/completions") == 1

    run(test, answer_limit=0.05, canary_limit=0.05)


def test_a_token_that_hangs_past_the_deadline_is_asked_for_again() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        api.handlers["/v1/completions"] = silence
        rig.start(rest=0.05)
        await rig.until_logged("probe-failed", check="token", why="no answer in time")
        await await_for(lambda: api.count("/v1/completions") >= 2, what="another try")
        assert not rig.events
        del api.handlers["/v1/completions"]
        await rig.until(ev.ProbePassed)

    run(test, canary_limit=0.05)


def test_a_port_that_changes_hands_while_we_ask_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [
        Ownership.OURS,
        Ownership.FOREIGN,  # after the token
        Ownership.OURS,
        Ownership.FOREIGN,
        Ownership.FOREIGN,
        Ownership.FOREIGN,
        Ownership.NONE,
        Ownership.FOREIGN,
        Ownership.FOREIGN,
    ]

    async def owner(_self: EngineApi) -> Survey:
        return Survey(seen.pop(0) if seen else Ownership.OURS, "nginx (pid 7)")

    async def test(api: FakeApi, rig: Rig) -> None:
        rig.start()
        await rig.until(ev.ProbePassed)
        kinds = [type(event).__name__ for event in rig.events]
        # One for each sighting that lasts for two looks, however long it lasts.
        assert kinds == ["PortTaken", "PortTaken", "ProbePassed"]
        assert dict(rig.events[0].finding.message.params) == {  # type: ignore[attr-defined]
            "port": api.port,
            "holder": "nginx (pid 7)",
        }
        assert api.count("/v1/completions") == 1

    monkeypatch.setattr(EngineApi, "owner", owner)
    run(test)


def test_a_listener_whose_holder_nobody_sees_is_not_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        rig.start()
        await rig.until(ev.ProbePassed)
        assert not rig.of(ev.PortTaken)

    monkeypatch.setattr(listeners, "_held", lambda _pid, _inodes: set())
    run(test)


def test_where_the_port_cannot_be_looked_at_the_engine_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_port: int, _host: str) -> Any:
        raise PermissionError(13, "denied")

    async def test(api: FakeApi, rig: Rig) -> None:
        rig.start()
        await rig.until_logged("probe-failed", check="key", why="nobody listens")
        await api.listen(port)
        await rig.until(ev.ProbePassed)

    monkeypatch.setattr(engine_api, "listening", denied)
    port = free_port()
    run(test, port=port)


def test_a_look_that_is_dear_is_taken_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0

    def dear(_self: EngineApi) -> Any:
        nonlocal taken
        taken += 1
        end = time.thread_time() + 0.002
        while time.thread_time() < end:
            pass
        return ()

    async def test(_api: FakeApi, rig: Rig) -> None:
        used = time.thread_time()
        began = now()
        rig.start()
        await await_for(lambda: taken >= 5, what="looks")
        await rig.prober.close()
        # A fiftieth of a core, and what this waiting itself takes.
        assert now() - began > 40 * 4 * 0.002
        assert time.thread_time() - used < 0.3

    monkeypatch.setattr(EngineApi, "listeners", dear)
    run(test, look=0.001, late_look=1.0)


# --- whose listener it is ----------------------------------------------------------------------------------------

CHILD = """
import http.server, json, os, socket, sys
key, model, port, record = sys.argv[1:]

class Engine(http.server.BaseHTTPRequestHandler):
    def answer(self, status, body):
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)
    def do_GET(self):
        with open(record, "a") as file:
            file.write(str(self.headers))
        if self.path.startswith("/v1") and self.headers["authorization"] != "Bearer " + key:
            return self.answer(401, {})
        self.answer(200, {"data": [{"id": model}]})
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(200, {"choices": [{}]})
    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind(self.server_address)

if len(sys.argv) > 5 or os.environ.get("GRANDCHILD"):
    if os.fork():
        os.wait()
        sys.exit()
server = Server(("127.0.0.1", int(port)), Engine)
print("listens", flush=True)
server.serve_forever()
"""


@dataclass
class Children:
    """Engines in sessions of their own."""

    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    def engine(self, port: int, record: str = "/dev/null", *, grandchild: bool = False) -> int:
        """Start one that listens on `port`; return its session."""
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", CHILD, KEY, MODEL, str(port), record],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={"GRANDCHILD": "1" if grandchild else ""},
        )
        self.started.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "listens\n"
        return child.pid

    def idle(self) -> int:
        """Start one that listens nowhere; return its session."""
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True, text=True)
        self.started.append(child)
        return child.pid

    def end(self, pid: int) -> None:
        (child,) = [child for child in self.started if child.pid == pid]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


@pytest.fixture
def children() -> Iterator[Children]:
    everyone = Children()
    yield everyone
    for child in everyone.started:
        everyone.end(child.pid)


@pytest.mark.parametrize("grandchild", [False, True])
def test_an_engine_whose_session_holds_the_listener_is_proven(children: Children, grandchild: bool) -> None:
    async def test(_api: FakeApi, rig: Rig) -> None:
        rig.start(pid=session)
        await rig.until(ev.ProbePassed)
        assert listeners.ownership(port, session) is Ownership.OURS

    port = free_port()
    session = children.engine(port, grandchild=grandchild)
    run(test, port=port)


def test_a_perfect_server_of_somebody_else_is_never_ready_and_is_named_once(children: Children, tmp_path: Any) -> None:
    record = tmp_path / "asked"

    async def test(_api: FakeApi, rig: Rig) -> None:
        with looks() as seen:
            rig.start(pid=ours)
            (taken,) = await rig.until(ev.PortTaken)
            params = dict(taken.finding.message.params)
            assert params["port"] == port
            assert str(params["holder"]).endswith(f"(pid {foreign})")
            goal = len(seen) + 6
            await await_for(lambda: len(seen) >= goal, what="further looks")
        assert len(rig.events) == 1
        assert not record.exists(), "it was asked nothing: it would learn the key"

    port = free_port()
    foreign = children.engine(port, str(record))
    ours = children.idle()
    run(test, port=port)


def test_our_engine_beside_a_foreign_listener_is_not_ready_until_that_is_gone(children: Children) -> None:
    async def test(_api: FakeApi, rig: Rig) -> None:
        rig.start(pid=ours)
        await rig.until(ev.PortTaken)
        assert not rig.of(ev.ProbePassed)
        await asyncio.to_thread(children.end, foreign)
        await rig.until(ev.ProbePassed)

    port = free_port()
    ours = children.engine(port)
    foreign = children.engine(port)
    run(test, port=port)


def test_a_foreign_listener_that_takes_over_from_a_ready_engine_is_reported(children: Children) -> None:
    async def test(_api: FakeApi, rig: Rig) -> None:
        await rig.proven(pid=ours)
        await rig.until(ev.EngineStepped)
        foreign = await asyncio.to_thread(children.engine, port)
        (taken,) = await rig.until(ev.PortTaken)
        assert str(dict(taken.finding.message.params)["holder"]).endswith(f"(pid {foreign})")
        await asyncio.to_thread(children.end, ours)
        steps = len(rig.of(ev.EngineStepped))
        await rig.until_logged("liveness", check="listener", shows="foreign")
        assert not rig.of(ev.EngineDead)
        # The stranger answers everything: that says nothing about our engine.
        with looks() as seen:
            await await_for(lambda: len(seen) >= 6, what="further looks")
        assert len(rig.of(ev.EngineStepped)) <= steps + 1
        assert len(rig.of(ev.PortTaken)) == 1

    port = free_port()
    ours = children.engine(port)
    run(test, port=port)


@pytest.mark.parametrize("canary_idle", [0.0, 60.0])
def test_a_stranger_on_the_port_is_asked_nothing_about_our_engine(
    canary_idle: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = Ownership.OURS
    seen: list[Ownership] = []

    async def owner(_self: EngineApi) -> Survey:
        seen.append(holder)
        return Survey(holder)

    async def test(api: FakeApi, rig: Rig) -> None:
        nonlocal holder

        async def busy(asked: Asked, writer: Writer) -> None:
            api.tokens += 1
            writer.write(api.proper(asked))

        if canary_idle:
            api.handlers["/metrics"] = busy
        await rig.proven()
        await rig.until(ev.EngineStepped)
        holder = Ownership.FOREIGN
        await rig.until(ev.PortTaken)
        await await_for(lambda: seen[-10:] == [holder] * 10, what="questions on their way are over")
        asked, events = len(api.asked), len(rig.events)
        goal = len(seen) + 30
        await await_for(lambda: len(seen) >= goal, what="further looks")
        assert (len(api.asked), len(rig.events)) == (asked, events)
        holder = Ownership.OURS
        await rig.until(ev.EngineStepped, len(rig.of(ev.EngineStepped)) + 1)

    monkeypatch.setattr(EngineApi, "owner", owner)
    run(test, canary_idle=canary_idle)


def test_only_the_listeners_of_one_session_are_ours(children: Children) -> None:
    port = free_port()
    one = children.engine(port, grandchild=True)
    two = children.engine(port)
    assert listeners.ownership(port, one) is Ownership.FOREIGN
    assert listeners.ownership(port, two) is Ownership.FOREIGN
    children.end(two)
    assert listeners.ownership(port, one) is Ownership.OURS
    assert listeners.ownership(port, two) is Ownership.FOREIGN
    children.end(one)
    wait_for(lambda: listeners.ownership(port, one) is Ownership.NONE, what="nobody listens")


# --- the port before a start -------------------------------------------------------------------------------------


def test_a_free_port_is_free_and_a_taken_one_is_not() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        rig.prober.check_port(fx.CheckPort(3))
        (taken,) = await rig.until(ev.PortTaken)
        assert taken.epoch == 3
        assert f"(pid {os.getpid()})" in str(dict(taken.finding.message.params)["holder"])
        await api.close()
        rig.prober.check_port(fx.CheckPort(4))
        (free,) = await rig.until(ev.PortFree)
        assert free.epoch == 4
        assert api.connections == 0

    run(test)


def test_a_holder_that_nobody_sees_is_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        rig.prober.check_port(fx.CheckPort(3))
        (taken,) = await rig.until(ev.PortTaken)
        assert dict(taken.finding.message.params) == {"port": api.port, "holder": "another program"}

    monkeypatch.setattr(listeners, "_held", lambda _pid, _inodes: set())
    run(test)


def test_a_port_that_cannot_be_looked_at_is_not_called_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_port: int, _host: str) -> Any:
        raise PermissionError(13, "denied")

    async def test(_api: FakeApi, rig: Rig) -> None:
        rig.prober.check_port(fx.CheckPort(3))
        await rig.until(ev.PortFree)
        await rig.until_logged("port-unknown", epoch=3)

    monkeypatch.setattr(probe_module, "listening", denied)
    run(test)


# --- staying ready: health ---------------------------------------------------------------------------------------


def test_503_is_a_dead_engine_said_once() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        await rig.proven(epoch=5)
        await await_for(rounds(api, 3), what="looked at while fine")
        assert not rig.events[1:]
        api.handlers["/health"] = always(answer(503))
        (dead,) = await rig.until(ev.EngineDead)
        assert (dead.epoch, dead.finding.reason) == (5, "EngineDead")
        await await_for(rounds(api, 5), what="looked at again")
        assert len(rig.of(ev.EngineDead)) == 1

    run(test, canary_idle=60, step_every=60)


@pytest.mark.parametrize(
    "handler",
    [silence, always(b""), always(b"\x00garbage\r\n\r\n"), always(answer(500)), always(answer(404)), slow_drip],
)  # fmt: skip
def test_a_health_probe_that_goes_wrong_is_no_verdict(handler: Handler) -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        await rig.proven()
        api.handlers["/health"] = handler
        goal = api.count("/health") + 4
        await await_for(lambda: api.count("/health") >= goal, what="looked at again")
        del api.handlers["/health"]
        await rig.until_logged("liveness", check="health", shows="200")
        assert len(rig.events) == 1

    run(test, canary_idle=60, step_every=60, answer_limit=0.03)


def test_an_engine_that_listens_no_more_is_no_verdict_either() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        await rig.proven()
        await api.close()
        await rig.until_logged("liveness", check="listener", shows="none")
        await rig.until_logged("liveness", check="health", shows="nobody listens")
        assert len(rig.events) == 1

    run(test, canary_idle=60, step_every=60)


# --- staying ready: steps ----------------------------------------------------------------------------------------


def completions(rig: Rig, api: FakeApi) -> int:
    """Canaries: the token that proved the engine is none."""
    return api.count("/v1/completions") - 1


def test_an_engine_whose_counter_moves_is_asked_for_nothing() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        async def busy(asked: Asked, writer: Writer) -> None:
            api.tokens += 1
            writer.write(api.proper(asked))

        api.handlers["/metrics"] = busy
        await rig.proven(epoch=2)
        for stepped in await rig.until(ev.EngineStepped, 5):
            assert stepped.epoch == 2
        assert completions(rig, api) == 0

    run(test)


def test_an_idle_engine_gets_a_canary_each_time_its_own_tokens_are_no_movement() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        await rig.proven()
        steps = len(await rig.until(ev.EngineStepped, 5))
        assert completions(rig, api) >= steps
        assert not [line for name, line in rig.lines if line.get("shows") == "counter"]

    run(test)


def test_the_token_that_proved_it_puts_off_the_first_canary() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        await rig.proven()
        await await_for(lambda: api.count("/metrics") >= 10, what="checks")
        assert completions(rig, api) == 0
        assert len(rig.events) == 1

    run(test, canary_idle=60)


def test_an_answered_canary_puts_off_the_next_one() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        await rig.proven()
        proven = now()
        await rig.until(ev.EngineStepped, 3)
        assert now() - proven >= 3 * 0.1
        assert completions(rig, api) == 3
        assert api.count("/metrics") > 6, "the counter is read meanwhile"

    run(test, canary_idle=0.1)


def test_an_engine_that_hangs_is_stuck_again_and_again_and_steps_as_soon_as_it_answers() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        await rig.proven(epoch=9)
        await rig.until(ev.EngineStepped)
        release = asyncio.Event()

        async def hang(asked: Asked, writer: Writer) -> None:
            await release.wait()
            writer.write(api.proper(asked))

        api.handlers["/v1/completions"] = hang
        began = now()
        stuck = await rig.until(ev.EngineStuck, 2)
        assert {event.epoch for event in stuck} == {9}
        assert now() - began >= 2 * 0.15
        assert stuck[1].at - stuck[0].at >= 0.15, "each canary has all of its time"
        steps = len(rig.of(ev.EngineStepped))
        release.set()
        await rig.until(ev.EngineStepped, steps + 1)

    # The pause after an answered canary does not hold back the ones after a strike.
    run(test, canary_idle=0.05, answer_limit=0.05)


def test_a_busy_engine_that_keeps_canaries_waiting_is_not_stuck() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        await rig.proven()
        api.handlers["/v1/completions"] = silence
        await await_for(lambda: completions(rig, api) >= 1, what="a canary without an answer")
        steps = len(rig.of(ev.EngineStepped))
        api.tokens += 1
        await rig.until(ev.EngineStepped, steps + 1)
        assert not rig.of(ev.EngineStuck)

    run(test)


def test_a_long_prompt_that_fills_the_cache_keeps_the_engine_from_being_stuck() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        async def metrics(_asked: Asked, writer: Writer) -> None:
            usage = api.count("/metrics") / 1000
            writer.write(answer(200, api.metrics() + f"vllm:kv_cache_usage_perc {usage}\n".encode()))

        api.handlers["/metrics"] = metrics
        await rig.proven()
        api.handlers["/v1/completions"] = silence
        await rig.until(ev.EngineStepped, 5)
        assert not rig.of(ev.EngineStuck)

    run(test)


@pytest.mark.parametrize(
    "metrics", [always(answer(404)), always(answer(200, b"nothing known")), always(b""), silence, endless_body]
)
def test_metrics_that_cannot_be_read_are_unmoved_and_the_canary_decides(metrics: Handler) -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        api.handlers["/metrics"] = metrics
        await rig.proven()
        await rig.until(ev.EngineStepped, 2)
        assert not rig.of(ev.EngineStuck)
        api.handlers["/v1/completions"] = silence
        await rig.until(ev.EngineStuck, 2)
        # That the counter can be read now is no movement.
        del api.handlers["/metrics"]
        steps = len(rig.of(ev.EngineStepped))
        await rig.until(ev.EngineStuck, 4)
        assert len(rig.of(ev.EngineStepped)) == steps

    run(test, answer_limit=0.02, canary_limit=0.05)


@pytest.mark.parametrize("status", [400, 401, 404, 429])
def test_a_refusal_is_an_answer(status: int) -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        await rig.proven()
        api.handlers["/v1/completions"] = always(answer(status))
        await rig.until_logged("liveness", check="canary", shows=str(status))
        await rig.until(ev.EngineStepped, len(rig.of(ev.EngineStepped)) + 1)
        assert not rig.of(ev.EngineStuck)

    run(test)


@pytest.mark.parametrize("handler", [always(answer(500)), always(answer(503)), always(answer(302)), always(b"")])
def test_errors_for_all_of_the_canary_s_time_are_a_strike_and_one_alone_is_none(handler: Handler) -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        await rig.proven()
        failures = 0

        async def once(asked: Asked, writer: Writer) -> None:
            nonlocal failures
            failures += 1
            if failures == 1:
                await handler(asked, writer)
            else:
                writer.write(api.proper(asked))

        api.handlers["/v1/completions"] = once
        await await_for(lambda: failures >= 2, what="asked again within the same canary")
        await rig.until(ev.EngineStepped, len(rig.of(ev.EngineStepped)) + 1)
        assert not rig.of(ev.EngineStuck)
        began = now()
        api.handlers["/v1/completions"] = handler
        await rig.until(ev.EngineStuck, 2)
        assert now() - began >= 2 * 0.15

    run(test)


def test_a_living_process_that_listens_no_more_is_stuck_in_the_end() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        await rig.proven()
        await rig.until(ev.EngineStepped)
        await api.close()
        await rig.until(ev.EngineStuck, 2)
        steps = len(rig.of(ev.EngineStepped))
        await api.listen(api.port)
        await rig.until(ev.EngineStepped, steps + 1)

    run(test)


def test_a_canary_that_we_cannot_send_is_no_strike(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        connect = asyncio.open_connection
        failed = 0

        async def exhausted(*_: object) -> Any:
            nonlocal failed
            failed += 1
            raise OSError(24, "too many open files")

        await rig.proven()
        await rig.until(ev.EngineStepped)
        monkeypatch.setattr(asyncio, "open_connection", exhausted)
        await rig.until_logged("liveness", check="canary", shows="EMFILE")
        goal = failed + 40  # more than two canaries' worth
        await await_for(lambda: failed >= goal, what="tried again and again")
        assert not rig.of(ev.EngineStuck)
        monkeypatch.setattr(asyncio, "open_connection", connect)
        await rig.until(ev.EngineStepped, len(rig.of(ev.EngineStepped)) + 1)
        assert not rig.of(ev.EngineStuck)

    run(test, canary_limit=0.05, canary_retry=0.005)


# --- starting, stopping, closing ---------------------------------------------------------------------------------


def test_after_stop_nothing_more_is_asked_or_said() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        await rig.proven()
        api.handlers["/v1/completions"] = silence
        await await_for(lambda: completions(rig, api) >= 1, what="a canary on its way")
        rig.prober.stop(fx.StopProbes(1))
        events, asked = len(rig.events), len(api.asked)
        await await_for(lambda: len(asyncio.all_tasks()) == 1 + len(api._tasks), what="everything has ended")
        assert (len(rig.events), len(api.asked)) == (events, asked)

    run(test)


def test_a_late_stop_of_an_earlier_start_stops_nothing() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        api.handlers["/health"] = always(answer(500))
        rig.start(epoch=1)
        await rig.until_logged("probe-failed", epoch=1)
        rig.start(epoch=2)
        rig.prober.stop(fx.StopProbes(1))
        del api.handlers["/health"]
        (passed,) = await rig.until(ev.ProbePassed)
        assert passed.epoch == 2

    run(test)


def test_watching_what_was_never_probed_is_said_to_be_impossible() -> None:
    async def test(_api: FakeApi, rig: Rig) -> None:
        effect = fx.WatchLiveness(8)
        rig.prober.watch(effect)
        (failed,) = await rig.until(ev.EffectFailed)
        assert (failed.epoch, failed.effect, failed.finding.reason) == (8, effect, "EffectFailed")
        await rig.proven(epoch=1)
        rig.prober.stop(fx.StopProbes(1))
        rig.prober.watch(fx.WatchLiveness(1))
        await rig.until(ev.EffectFailed, 2)

    run(test)


def test_close_may_come_at_any_time_and_twice() -> None:
    async def test(api: FakeApi, rig: Rig) -> None:
        await rig.prober.close()
        rig.prober.check_port(fx.CheckPort(1))
        rig.start()
        await rig.prober.close()
        await rig.prober.close()
        assert not rig.of(ev.ProbePassed)

    run(test)


def test_a_mistake_of_ours_is_logged_without_the_key_and_probing_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def all_of_it() -> None:
        events: list[ev.Event] = []
        lines: list[tuple[str, dict[str, object]]] = []
        ask, health = EngineApi.models, EngineApi.health
        mistakes = 2

        async def wrong(self: EngineApi, *, key: bool) -> Any:
            nonlocal mistakes
            if mistakes:
                mistakes -= 1
                raise RuntimeError(KEY)
            return await ask(self, key=key)

        async def wrong_health(self: EngineApi) -> int:
            if any(isinstance(event, ev.ProbePassed) for event in events) and not any(
                line.get("effect") == "WatchLiveness" for _, line in lines
            ):
                raise KeyError(KEY)
            return await health(self)

        monkeypatch.setattr(EngineApi, "models", wrong)
        monkeypatch.setattr(EngineApi, "health", wrong_health)
        async with serving(FakeApi()) as api:
            prober = Prober(
                events.append,
                now,
                lambda event, /, **fields: lines.append((event, fields)),
                "127.0.0.1",
                api.port,
                **FAST,
            )
            rig = Rig(prober, events, lines)
            await rig.proven()
            await rig.until_logged("probe-error", effect="WatchLiveness")
            await rig.until_logged("liveness", check="health", shows="200")
            await rig.until(ev.EngineStepped)
            await prober.close()
        errors = [str(line["error"]) for name, line in lines if name == "probe-error"]
        assert [error.partition(" ")[0] for error in errors] == ["RuntimeError", "RuntimeError", "KeyError"]
        assert all("line" in error for error in errors)
        assert KEY not in repr(lines)

    patient_loop.run(all_of_it())
