"""Input from outside that means harm, and what must hold whatever comes: used by `tests/process/test_fuzz.py` for a few
hundred examples each, and by `benchmarks/fuzz.py` for a million.

A target makes a check, once for each process, in an empty folder of its own. The check takes one example, which stands
for `SIZE` inputs or fewer, returns how many, and raises where something does not hold. No answer within `PATIENCE`
seconds is a hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from support.command_lines import FLAGS, VALUES
from support.site import Service
from vllm_fsm import config, history, journal, record
from vllm_fsm.actions import form
from vllm_fsm.actions.problems import Rejected
from vllm_fsm.adapters.download import blame as blaming
from vllm_fsm.adapters.download.hub import Hub
from vllm_fsm.adapters.probes import answers, http
from vllm_fsm.adapters.process import marks
from vllm_fsm.adapters.process.marks import Mark
from vllm_fsm.adapters.process.output import LONGEST_LINE, Output
from vllm_fsm.cli import main
from vllm_fsm.cli.reading import boot_id
from vllm_fsm.core.snapshot import Message, Secret
from vllm_fsm.diagnosis.ending import End, Site
from vllm_fsm.diagnosis.stream import Diagnosis
from vllm_fsm.files.credentials import parse_credentials
from vllm_fsm.files.reading import Good
from vllm_fsm.files.store import parse_store
from vllm_fsm.judgement import judged
from vllm_fsm.messages import text as sentence
from vllm_fsm.redaction import Redactor, plain
from vllm_fsm.weights import selection
from vllm_fsm.weights.hub_cache import RepoFolder
from vllm_fsm.weights.needs import Repo
from vllm_fsm.wishes import Wishes

PATIENCE = 30
"""Seconds; an example takes milliseconds, and a machine may be busy."""
SIZE = 40
"""Inputs that one example stands for, at most: a document, and what edits make of it."""
KEY = "Kq7vTz2LwXc9RbN4mEfH1s"
TOKEN = "hf_" + "aB3" * 11 + "x"
PLAIN = "correct-horse-9-battery"
"""A secret that does not look like one."""
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
COMMIT = "c" * 40
ORDERS = "\x1b]0;x\x07\x1b[2J\x9b1m\u202e\u2028\x85\r\x7f"
"""What a terminal obeys, and what ends a line."""

Check = Callable[[Any], int]


@dataclass(frozen=True)
class Target:
    """One way in."""

    examples: SearchStrategy[Any]
    check: Callable[[Path], Check]


class Hang(BaseException):
    """An example was not answered in time. No `Exception`: nobody may take it for an answer."""


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Raise Hang after PATIENCE seconds; on the main thread only."""

    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- documents -------------------------------------------------------------------------------------------------------

_ODD = st.sampled_from(
    [
        "",
        " ",
        "\0",
        "\ud800",
        ORDERS,
        KEY,
        TOKEN,
        PLAIN,
        "../..",
        "/etc/passwd",
        "{",
        "a" * 300,
        "\n",
        "-",
        "--",
        "%s{x}",
    ]
)
TEXTS = _ODD | st.text(max_size=20) | st.sampled_from(FLAGS) | st.sampled_from(VALUES)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.sampled_from([10**400, -(10**30)])
JSON = st.recursive(
    LEAVES, lambda part: st.lists(part, max_size=3) | st.dictionaries(TEXTS, part, max_size=3), max_leaves=8
)
VARIABLES = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["HF_TOKEN", "HTTPS_PROXY", "X", "A=B", ""]) | TEXTS, "value": TEXTS}
    )
    | JSON,
    max_size=3,
)
ARGUMENTS = st.lists(TEXTS | st.just("org/name"), max_size=6)
RAW = st.sampled_from(
    [
        b"",
        b"\xef\xbb\xbf",
        b"[" * 5000,
        b'{"a":' * 3000,
        b"\xff\xfe{\x00}\x00",
        b'{"serveArgs": ["m"], "serveArgs": []}',
        b"9" * 5000,
        b"NaN",
        b'"\\ud800"',
        TOKEN.encode(),
        f'{{"apiKey": "{KEY}" {PLAIN}'.encode(),
    ]
)
PIECES = (
    b"",
    b'"',
    b"{",
    b"}",
    b"[",
    b",",
    b":",
    b"\\",
    b"\0",
    b"\xff",
    b"\n",
    b"9" * 40,
    b"\\u0000",
    b"\x1b",
    b"a",
    b" ",
)
Edits = tuple[int, int]
"""A seed and how many: drawing each edit by Hypothesis would take longer than what is checked."""
EDITS = st.tuples(st.integers(0, 2**32), st.integers(0, SIZE - 1))


def _dumped(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def _edited(case: tuple[bytes, Edits]) -> list[bytes]:
    """A document and what each edit makes of it: a few bytes at a place are replaced."""
    document, (seed, count) = case
    draw = random.Random(seed)
    found = [document]
    for _ in range(count):
        at = draw.randrange(len(document) + 1)
        found.append(document[:at] + draw.choice(PIECES) + document[at + draw.randrange(9) :])
    return found


def documents(likely: SearchStrategy[Any]) -> SearchStrategy[list[bytes]]:
    """JSON of a likely shape, of any, and what is none."""
    return st.tuples((likely | JSON).map(_dumped) | RAW | st.binary(max_size=30), EDITS).map(_edited)


STORES = documents(
    st.fixed_dictionaries(
        {},
        optional={
            "serveArgs": ARGUMENTS | JSON,
            "serveEnv": VARIABLES | JSON,
            "modelSelection": st.fixed_dictionaries(
                {}, optional={"selection": TEXTS, "customArgs": TEXTS, "customEnv": VARIABLES}
            )
            | JSON,
            "more": JSON,
        },
    )
)
CREDENTIALS = documents(st.fixed_dictionaries({}, optional={"apiKey": TEXTS | JSON, "more": JSON}))


# --- what must hold of everything that is said -----------------------------------------------------------------------


class Said:
    """Takes log lines as the controller makes them, in both forms, and checks each."""

    def __init__(self, *secrets: str) -> None:
        self.redactor = Redactor(secrets)
        self.secrets = secrets
        self.text = ""
        self._logs = [
            journal.logger(self, self.redactor.scrub_value, lambda: "2026-01-02T12:00:00.000Z", console=console)
            for console in (False, True)
        ]

    def log(self, event: str, /, **fields: object) -> None:
        for log in self._logs:
            log(event, **fields)

    def msg(self, line: str) -> None:
        """Check one finished line."""
        line.encode()  # nothing that could not be written
        for row, part in enumerate(line.split("\n")):
            assert plain(part) == part, "a terminal would obey"
            assert part.startswith(("{", "12:00:00") if row == 0 else (" " * 9,)), "a forged line"
        self.text += line
        self.nothing_secret(line)

    def nothing_secret(self, text: str) -> None:
        for secret in (*self.secrets, TOKEN):
            assert secret not in text, f"a secret of {len(secret)} characters got out"


def _told(message: Message) -> str:
    return sentence(message)


# --- the two files ---------------------------------------------------------------------------------------------------


class _Files:
    """A data and a public directory with the controller's view of them."""

    def __init__(self, root: Path) -> None:
        self.store, self.credentials = root / "store.json", root / "credentials.json"
        self.root = root
        self.service = Service(root / "service") if (root / "service").mkdir() is None else None
        assert self.service is not None
        self.engine = self.service.config.engine

    def begin(self) -> None:
        for path in self.root.glob("*.json*"):
            path.unlink()

    def wishes(self, said: Said, *, judge: bool = True) -> Callable[[], Any]:
        now = [1000.0]
        wishes = Wishes(
            self.store,
            self.credentials,
            clock=lambda: now[0],
            log=said.log,
            wall=lambda: NOON,
            judge=(lambda found: judged(found, self.engine)) if judge else None,
        )

        def look() -> Any:
            for _ in range(3):
                wanted = wishes.look()
                if wanted.target is not None:
                    said.redactor.know(wanted.target.key)
                    said.redactor.know_environment(wanted.target.environment)
                now[0] += 2.0
            for message in wanted.warnings:
                said.log("warning", message=_told(message), params=dict(message.params))
            if wanted.target is not None and wanted.target.problem is not None:
                said.log("problem", message=_told(wanted.target.problem.message))
            return wanted

        return look


def store_check(root: Path) -> Check:
    """What `store.json` holds is read, judged and told; the file and the key stay as they are."""
    files = _Files(root)

    def check(inputs: list[bytes]) -> int:
        for raw in inputs:
            files.begin()
            said = Said(KEY)
            credentials = json.dumps({"apiKey": KEY}).encode()
            files.credentials.write_bytes(credentials)
            files.store.write_bytes(raw)
            wanted = files.wishes(said)()
            if wanted.target is not None:
                assert wanted.target.key == Secret(KEY)
            reading = parse_store("store.json", raw)
            if not isinstance(reading, Good):
                told = _told(reading.message) + repr(reading)
                assert PLAIN not in told
                said.nothing_secret(told)
            assert files.store.read_bytes() == raw
            assert files.credentials.read_bytes() == credentials
            assert sorted(path.name for path in root.glob("*.json*")) == ["credentials.json", "store.json"]
        return len(inputs)

    return check


def credentials_check(root: Path) -> Check:
    """What `credentials.json` holds is the key, or there is a new one, and nothing that stood there is lost."""
    files = _Files(root)

    def check(inputs: list[bytes]) -> int:
        for raw in inputs:
            files.begin()
            said = Said()
            store = b'{"serveArgs": ["org/name"]}'
            files.store.write_bytes(store)
            files.credentials.write_bytes(raw)
            wanted = files.wishes(said, judge=False)()
            assert wanted.target is not None
            key = wanted.target.key.reveal()
            assert key, "an engine is never started with an empty key"
            # Anywhere: where the key is a word or less, a text holds it for other reasons.
            assert len(key) < 8 or key not in said.text or key in str(files.root)
            reading = parse_credentials("credentials.json", raw)
            now = parse_credentials("credentials.json", files.credentials.read_bytes())
            assert isinstance(now, Good)
            assert now.value[0].key() == Secret(key)
            if isinstance(reading, Good):
                before, after = dict(reading.value[1]), dict(now.value[1])
                if reading.value[0].key() is not None:
                    assert files.credentials.read_bytes() == raw
                before.pop("apiKey", None), after.pop("apiKey")
                assert _dumped(before) == _dumped(after), "other fields are kept"
            elif raw.strip(b" \t\r\n\xef\xbb\xbf\x0b\x0c\x1c\x1d\x1e\x1f\xc2\x85\xa0"):
                assert raw in [path.read_bytes() for path in root.glob("credentials.json*")], "it is kept aside"
            assert files.store.read_bytes() == store
        return len(inputs)

    return check


# --- the hub ---------------------------------------------------------------------------------------------------------

_ENTRIES = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["file", "directory"]) | LEAVES,
            "path": st.sampled_from(["config.json", "../x", "/x", "a/../../b", "model.safetensors", "a\\b", "\0"])
            | LEAVES,
            "size": st.integers(-1, 10**6) | LEAVES,
            "oid": st.sampled_from(["a" * 40, "../../x"]) | LEAVES,
        },
        optional={
            "lfs": st.fixed_dictionaries({"oid": st.just("b" * 64), "size": st.just(1), "pointerSize": st.just(1)})
            | JSON
        },
    ),
    max_size=3,
)
_NAMES = st.sampled_from(
    [
        "X-Error-Message",
        "X-Error-Code",
        "Retry-After",
        "Location",
        "Link",
        "Content-Type",
        "X-HF-Warning",
        "Date",
        "X-Request-Id",
    ]
)
_FIELD = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20) | st.sampled_from(
    [
        "/",
        "http://127.0.0.1/loop",
        "-1",
        "1e9",
        "EntryNotFound",
        "RepoNotFound",
        "GatedRepo",
        "a" * 9000,
        '</x>; rel="next"',
    ]
)
HUB = st.fixed_dictionaries(
    {
        "status": st.sampled_from([200, 200, 200, 206, 301, 302, 307, 400, 401, 403, 404, 416, 429, 500, 503, 599]),
        "headers": st.dictionaries(_NAMES, _FIELD, max_size=3),
        "info": documents(st.fixed_dictionaries({"id": st.just("org/model"), "sha": st.just(COMMIT) | TEXTS})),
        "tree": documents(_ENTRIES),
    }
)


def hub_check(root: Path) -> Check:
    """What a hub answers becomes a listing within the cache, or a sentence; also what is kept of it on the disk."""
    from huggingface_hub import set_client_factory

    current: dict[str, Any] = {}

    def answer(request: httpx2.Request) -> httpx2.Response:
        current["asked"] += 1
        body = current["tree"] if "/tree/" in str(request.url) else current["info"]
        # A hub that redirects for ever, or has another page behind each, is answered properly in the end.
        odd = current["asked"] < 30
        return httpx2.Response(
            current["status"] if odd else 404, headers=current["headers"] if odd else {}, content=body, request=request
        )

    set_client_factory(lambda: httpx2.Client(transport=httpx2.MockTransport(answer), follow_redirects=True))
    hub = Hub(5.0)
    repo = Repo("org/model")
    folder = RepoFolder(root, repo.id)
    kept = Path(folder.path) / ".vllm-fsm" / f"{COMMIT}.json"
    kept.parent.mkdir(parents=True)

    def check(example: dict[str, Any]) -> int:
        said = Said(PLAIN)
        pairs = list(zip(example["info"], [*example["tree"], *example["tree"][-1:] * SIZE], strict=False))
        for info, tree in pairs:
            current.update(status=example["status"], headers=example["headers"], info=info, tree=tree, asked=0)
            try:
                listing = hub.resolve(repo, lambda: None)
            except Exception as error:
                blame = blaming.blame(error, repo, hub, 5.0)
                json.dumps(blame.params)
                said.log(
                    "download-failed", message=_told(Message.of(blame.reason, **blame.params)), evidence=blame.evidence
                )
                assert 0 <= blame.retry_after <= blaming.LONGEST_WAIT
            else:
                for entry in listing.entries.values():
                    for place in (
                        folder.snapshot(listing.commit, entry.path),
                        folder.blob(entry),
                        folder.lock(entry.etag),
                    ):
                        assert os.path.normpath(place).startswith(f"{root}/"), "out of the cache"
            kept.write_bytes(tree)
            folder.listing(COMMIT)
            selection.index_shards(tree)
            selection.foreign_code(tree)
            selection.elsewhere(info)
        return len(pairs)

    return check


# --- the engine's answers --------------------------------------------------------------------------------------------

_BODIES = documents(
    st.fixed_dictionaries(
        {"data": st.lists(st.fixed_dictionaries({}, optional={"id": TEXTS, "root": TEXTS, "parent": LEAVES})) | JSON},
        optional={"choices": JSON},
    )
) | st.sampled_from(
    [
        [b'vllm:generation_tokens_total{a="b\\"}"} 1e9\n'],
        [b"vllm:num_requests_running nan\n" * 9],
        [b'vllm:kv_cache_usage_perc{"' * 99],
    ]
)
_HEADS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=" + b"y" * 200 + b"\r\nhello\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
        b"HTTP/0.9 \r\n",
        b"HTTP/1.1 999 \x1b]0;\r\n\r\n",
        b"SSH-2.0-x\r\n",
        f"HTTP/1.1 401 {KEY}\r\nX: {KEY}\r\n\r\n".encode(),
        b"",
    ]
)
ANSWERS = st.tuples(_HEADS, _BODIES, EDITS, st.booleans(), st.integers(1, 70_000))
BODY_LIMIT = 1 << 16


class _Reader:
    """The reading end of a connection: pieces of a size, then the end, or the last piece for ever."""

    def __init__(self, content: bytes, piece: int, endless: bool) -> None:
        self.content, self.piece, self.endless = content, piece, endless
        self.given = 0

    async def read(self, size: int) -> bytes:
        at = self.given
        found = self.content[at : at + min(size, self.piece)]
        if not found and self.endless:
            found = ((self.content[-1000:] or b"x" * 1000) * 16)[:size]
        self.given += len(found)
        return found


class _Writer:
    class transport:  # noqa: N801 - asyncio's name
        @staticmethod
        def abort() -> None: ...

    @staticmethod
    def write(_: bytes) -> None: ...


def answers_check(_root: Path) -> Check:
    """What an engine answers becomes a response within its limits, or a refusal that repeats nothing of it."""
    reader = [_Reader(b"", 1, False)]

    async def connect(*_: object) -> tuple[_Reader, type[_Writer]]:
        return reader[0], _Writer

    loop = asyncio.new_event_loop()

    async def ask() -> object:
        try:
            return await http.request(
                "127.0.0.1", 1, "GET", "/", {"authorization": f"Bearer {KEY}"}, limit_bytes=BODY_LIMIT, timeout=PATIENCE
            )
        except http.NoAnswer as problem:
            return problem

    def check(example: tuple[bytes, list[bytes], Edits, bool, int]) -> int:
        head, bodies, edits, endless, piece = example
        inputs = [*_edited((head + bodies[0], edits)), *bodies[1:]]
        for raw in inputs:
            reader[0] = _Reader(raw, max(piece, len(raw) // 40), endless)
            connect_, asyncio.open_connection = asyncio.open_connection, connect  # type: ignore[assignment]
            try:
                found = loop.run_until_complete(ask())
            finally:
                asyncio.open_connection = connect_
            assert reader[0].given <= BODY_LIMIT + 6 * http.HEAD_LIMIT, "it reads for ever"
            if isinstance(found, http.Response):
                assert len(found.body) <= BODY_LIMIT
            else:
                assert isinstance(found, http.NoAnswer)
                assert KEY not in repr(found)
                assert found.__context__ is None or KEY not in repr(found.__context__)
            answers.steps(raw)
            answers.listed_model(raw, ["org/name"], "org/name")
            answers.generated(raw)
        return len(inputs)

    return check


# --- the engine's output ---------------------------------------------------------------------------------------------

_STARTS = st.sampled_from(
    [
        "ERROR 11-23 09:00:00 [core.py:1] ",
        "(EngineCore_DP0 pid=7) ERROR 11-23 09:00:00 [core.py:1] ",
        "(APIServer pid=7) ",
        "Traceback (most recent call last):",
        '  File "x.py", line 1, in f',
        "ValueError: ",
        "torch.OutOfMemoryError: CUDA out of memory. ",
        "vllm: error: argument --x: ",
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for X",
        "During handling of the above exception, another exception occurred:",
        '{"event": "transition", "to": "Ready"}',
        "12:00:00 ● Loading → Ready after 1.0 s (ProbePassed): The vLLM API is ready",
        f"the key is {KEY} ",
        f"Authorization: Bearer {KEY} {TOKEN} ",
        f"http://me:{PLAIN}@proxy:1/ ",
        KEY[:11] + "\x1b[0m" + KEY[11:],
        "x" * LONGEST_LINE + KEY,
        "Loading safetensors checkpoint shards:  50% Completed | 1/2",
    ]
)
OUTPUT = st.lists(
    st.tuples(
        _STARTS, TEXTS | st.just(ORDERS) | st.just(KEY), st.sampled_from(["\n", "\r", "\r\n", "", "\x0b", "\u2028"])
    ),
    min_size=1,
    max_size=SIZE,
)


def output_check(root: Path) -> Check:
    """What an engine prints is kept, logged and explained, without its secrets and without orders to a terminal."""
    loop = asyncio.new_event_loop()
    written = record.Record(root, first=1 << 20, later=1 << 20)
    start = [0]

    def check(example: list[tuple[str, str, str]]) -> int:
        said = Said(KEY, PLAIN)
        heard = Diagnosis(Site("org/name", "huggingface.co", 8000), redact=said.redactor.line)
        start[0] += 1

        def relay(line: str) -> None:
            heard.feed(line)
            shown = said.redactor.line(line)
            said.log(journal.ENGINE_LINE, line=shown)
            written.write(start[0], shown)

        async def run() -> None:
            reading, writing = os.pipe()
            output = Output(reading, relay=relay, secret=KEY)
            for words in example:
                os.write(writing, "".join(words).encode("utf-8", "surrogatepass"))
                output.drain()
            os.close(writing)
            output.close()

        loop.run_until_complete(run())
        for end in (End(1), End(-9, oom_kills=1), End(0, asked=True), End(-11)):
            finding = heard.finding(end)
            said.log("engine-exited", message=_told(finding.message), evidence=finding.evidence)
        if start[0] % 50 == 0:
            for line in record.read(root, record.latest(root)):
                said.nothing_secret(line)
                assert plain(line) == line
        return len(example)

    return check


# --- actions and commands --------------------------------------------------------------------------------------------

ACTIONS = st.tuples(
    st.sampled_from([action.id for action in form.ACTIONS] + ["nothing"]),
    documents(
        st.fixed_dictionaries(
            {},
            optional={
                "selection": st.sampled_from(["custom", "x"]) | TEXTS,
                "customArgs": ARGUMENTS.map(" ".join) | TEXTS,
                "customEnv": VARIABLES | JSON,
                "hfToken": st.just(TOKEN) | TEXTS,
                "model": TEXTS,
                "force": LEAVES,
                "more": JSON,
            },
        )
    ),
)


def actions_check(root: Path) -> Check:
    """An action is done or refused in words; what is refused changes nothing."""
    service = Service(root)
    outside = root / "outside"
    outside.write_text("not ours")

    def check(example: tuple[str, list[bytes]]) -> int:
        id_, inputs = example
        said = Said(KEY)
        for raw in inputs:
            service.put({"serveArgs": ["org/name"], "serveEnv": [{"name": "HF_TOKEN", "value": TOKEN}]})
            service.config.credentials.write_text(json.dumps({"apiKey": KEY}))
            before = service.files()
            try:
                form.succeeded(form.named(id_).run(service.site, raw))
            except Rejected as refusal:
                document = form.failed(refusal)
                said.nothing_secret(
                    json.dumps(document)
                ) if TOKEN.encode() not in raw and KEY.encode() not in raw else None
                assert service.files() == before, "what is refused changes nothing"
            else:
                assert isinstance(parse_store("store.json", service.config.store.read_bytes()), Good)
            assert outside.read_text() == "not ours"
        return len(inputs)

    return check


_COMMANDS = (
    "health",
    "status",
    "history",
    "logs",
    "cache",
    "action",
    "states",
    "retry",
    "get-api-key",
    "delete-model-cache",
)
_PARTS = st.sampled_from(
    [
        *(
            "--json",
            "--show",
            "--help",
            "--version",
            "-n",
            "--lines",
            "--attempt",
            "--force",
            "--input",
            "list",
            "form",
            "run",
        ),
        *(
            "set-model",
            "delete-model-cache",
            "get-api-credentials",
            "--check",
            "--run-dir",
            "1",
            "-1",
            "0",
            "9" * 5000,
            "²",
        ),
    ]
)
COMMANDS = st.tuples(
    st.sampled_from(_COMMANDS),
    st.lists(_PARTS | TEXTS.filter(lambda text: not text.startswith(("/", ".."))), max_size=5),
)


def commands_check(root: Path) -> Check:
    """Any command line ends with an exit code, and shows nothing that a terminal obeys."""
    service = Service(root / "service") if (root / "service").mkdir() is None else None
    assert service is not None
    os.chdir(root)
    os.environ.update(
        VLLM_FSM_DATA=str(service.config.data),
        VLLM_FSM_PUBLIC=str(service.config.public),
        VLLM_FSM_RUN_DIR=str(service.config.run_dir),
        COLUMNS="80",
    )

    def check(example: tuple[str, list[str]]) -> int:
        command, words = example
        out = io.TextIOWrapper(io.BytesIO(), errors="surrogateescape")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            try:
                code: object = main([command, *words])
            except SystemExit as end:
                code = end.code
        assert code in (0, 1, 2), code
        out.flush()
        shown = out.buffer.getvalue().decode()  # type: ignore[attr-defined]
        assert plain(shown) == shown
        return 1

    return check


# --- our own files ---------------------------------------------------------------------------------------------------

OWN = documents(
    st.fixed_dictionaries(
        {"bootId": st.just(boot_id())},
        optional=dict.fromkeys(("state", "message", "result", "reason", "from", "to", "time", "attempt"), JSON),
    )
    | st.just("b 1 2 3 4 /t")
)


def own_check(root: Path) -> Check:
    """What somebody made of our own files is read by whoever reads them, and breaks nobody."""

    def check(inputs: list[bytes]) -> int:
        for raw in inputs:
            for name in (history.NAME, "engine-2-3.mark", "request.json"):
                (root / name).write_bytes(raw)
            for entry in history.read(root):
                assert isinstance(entry, dict)
            for mark in marks.read_all(str(root)):
                assert isinstance(mark, Mark)
            for settle in (config.duration, config.port, config.command, config.switch):
                with contextlib.suppress(ValueError):
                    value = settle(raw.decode("latin-1"))
                    assert not isinstance(value, float) or value < float("inf")
        return len(inputs)

    return check


TARGETS: dict[str, Target] = {
    "store.json": Target(STORES, store_check),
    "credentials.json": Target(CREDENTIALS, credentials_check),
    "answers of the hub": Target(HUB, hub_check),
    "answers of the engine": Target(ANSWERS, answers_check),
    "output of the engine": Target(OUTPUT, output_check),
    "input of actions": Target(ACTIONS, actions_check),
    "command lines": Target(COMMANDS, commands_check),
    "our own files": Target(OWN, own_check),
}
