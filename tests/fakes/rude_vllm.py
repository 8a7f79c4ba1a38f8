#!/usr/bin/env python3
"""A fake `vllm serve` that can be told to misbehave. Standard library only; listens about 30 ms after exec.

It takes the command line of the real one (`serve MODEL … --host H --port P --download-dir D`), reads the key from
`VLLM_API_KEY`, and answers in the manner of vLLM 0.32: `/health` (200, empty), `/v1/models` and `/v1/completions`
(401 without the key), `/metrics` (open; `vllm:generation_tokens_total` counts generated tokens). It binds the port
early and listens late, prints phase lines, and leaves a socket in TMPDIR, as the real one does.

Every mode is an environment variable, so that a store's `serveEnv` can set it. Times are seconds.

| variable | meaning |
|---|---|
| `RUDE_LISTEN_AFTER=S` | listen (and print `Application startup complete.`) after S; default 0 |
| `RUDE_LISTEN_ONCE=PATH` | … and not before there is a file PATH |
| `RUDE_NEVER_LISTEN=1` | stay alive and never listen |
| `RUDE_EXIT_CODE=N` | exit with N: at once, or when `RUDE_EXIT_AFTER` / `RUDE_DIE_AFTER_READY` says so |
| `RUDE_EXIT_AFTER=S` | exit S after the start (code 0 unless `RUDE_EXIT_CODE`) |
| `RUDE_DIE_AFTER_READY=S` | exit S after listening (code 0 unless `RUDE_EXIT_CODE`) |
| `RUDE_LAST_LINE=TEXT` | print TEXT to stderr right before such an exit |
| `RUDE_SIGTERM=MODE` | `obey` (default; exit 0), `deaf`, `first` (the first one is lost), `loading` (the first one is |
| | lost if it comes before listening), `slow:S` (exit 0 S later, serving meanwhile) |
| `RUDE_CHILDREN=N` | fork N children that stay in the session, like EngineCore and workers; they hold the output |
| | pipe, outlive a killed leader, and are ended by a leader that exits in order |
| `RUDE_CHILDREN_STAY=1` | … not even then |
| `RUDE_CHILDREN_DEEP=1` | each of them is a grandchild whose parent has ended |
| `RUDE_DAEMON=MODE` | fork a process that leaves the session (own setsid, parent ended): `pipe` keeps the output |
| | pipe, `quiet` has its output on /dev/null, `wiped` is quiet and overwrote its environment too |
| `RUDE_TITLE=TEXT` | children overwrite their argv and environ with TEXT, as setproctitle does |
| `RUDE_SHM=N` | make and map N segments `/dev/shm/psm_…`, removed by an exit in order only |
| `RUDE_SEMAPHORE=1` | make `/dev/shm/sem.mp-…`, which nobody maps and only Python's resource tracker knows |
| `RUDE_HEALTH=CODE` | status of `/health`; `hang` never answers |
| `RUDE_COMPLETIONS=MODE` | `ok`, `hang`, `close` (closes the connection), or a status code such as 500 |
| `RUDE_MODELS=MODE` | `ok`, `open` (200 without a key), `foreign` (401 even with the key), `hang`, or a status code |
| `RUDE_MODEL_NAME=NAME` | what `/v1/models` names instead of the model |
| `RUDE_ANSWER_DELAY=S` | wait S before every answer |
| `RUDE_DRIP=S` | send every answer byte by byte, S between them |
| `RUDE_BUSY=RATE` | the token counter moves by RATE a second by itself (a busy engine) |
| `RUDE_METRICS=MODE` | `ok`, `none` (404), `hang`, `garbage` (200, binary) |
| `RUDE_PROGRESS=N` | print N steps of a `\\r` progress bar, then a newline, to stderr |
| `RUDE_LONG_LINE=BYTES` | print one line of that length |
| `RUDE_FLOOD=BYTES` | print so many bytes in lines of 100 characters, as fast as possible |
| `RUDE_BAD_UTF8=1` | print a line that is not UTF-8 |
| `RUDE_PRINT_KEY=1` | print the key and the value of HF_TOKEN |
| `RUDE_REPORT=PATH` | write PATH (JSON): pid, session, parent, argv, environ, cwd, fds, core limit, ignored signals, |
| | start (CLOCK_MONOTONIC at the first statement), shm (paths of the segments and the semaphore) |
| `RUDE_LINE_COUNTER=PATH` | append one line `PID` to PATH at every start |
| `RUDE_STAMPS=PATH` | append one line `NAME SECONDS ARGUMENTS` to PATH, a file or a fifo that is read, SECONDS of |
| | CLOCK_MONOTONIC: `start` (first statement), `listen` (right after listen), `term` (SIGTERM arrived) |
| `RUDE_SWITCH=PATH` | a file of `NAME=VALUE` lines that is read anew for every request and replaces the variables |
| | of the HTTP behaviour (HEALTH, COMPLETIONS, MODELS, MODEL_NAME, ANSWER_DELAY, DRIP, BUSY, METRICS); |
| | names with or without `RUDE_` |
"""

from time import monotonic, sleep

STARTED = monotonic()

import os  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402

FIXED_VALUES = {"--host", "--port", "--download-dir", "--served-model-name", "--model"}
SEGMENT_BYTES = 1 << 16


def option(name: str, default: str = "") -> str:
    """The value of RUDE_`name`; the switch file, if there is one, goes first."""
    path = os.environ.get("RUDE_SWITCH")
    if path:
        try:
            with open(path, encoding="utf-8") as file:
                for line in file:
                    key, _, value = line.strip().partition("=")
                    if key.removeprefix("RUDE_") == name:
                        return value
        except FileNotFoundError:
            pass
    return os.environ.get(f"RUDE_{name}", default)


def say(text: str, stream: int = 1) -> None:
    """Write `text` whole; a reader that went away is not an error, as in the real one."""
    data = memoryview(text.encode("utf-8", "surrogateescape"))
    try:
        while data:
            data = data[os.write(stream, data) :]
    except (BrokenPipeError, BlockingIOError):
        pass


def log(text: str) -> None:
    """Print a line as vLLM's API server does."""
    say(f"(APIServer pid={os.getpid()}) INFO 11-23 09:00:00 [api_server.py:1] {text}\n")


def stamp(name: str, at: float) -> None:
    """Note that `name` happened at `at`; a fifo that nobody reads is not an error."""
    path = os.environ.get("RUDE_STAMPS")
    if path:
        try:
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o644)
            os.write(file, os.fsencode(" ".join((name, repr(at), *sys.argv[1:])) + "\n"))
            os.close(file)
        except OSError:
            pass


class CommandLine:
    """What the real parser would make of our argv, as far as a fake needs it."""

    def __init__(self, argv: list[str]) -> None:
        if argv[:1] != ["serve"]:
            say("vllm: error: argument subparser: invalid choice\n", 2)
            os._exit(2)
        self.values: dict[str, list[str]] = {}
        self.model = ""
        rest = argv[1:]
        if rest and not rest[0].startswith("-"):
            self.model = rest.pop(0)
        while rest:
            flag, equals, value = rest.pop(0).partition("=")
            values = [value] if equals else []
            while not equals and rest and not rest[0].startswith("--"):
                values.append(rest.pop(0))
            self.values[flag] = values
            if flag == "--no-such-flag":
                say(f"usage: vllm [-h]\nvllm: error: unrecognized arguments: {flag}\n", 2)
                os._exit(2)
        self.model = self.model or self.one("--model") or "Qwen/Qwen3-0.6B"

    def one(self, flag: str, default: str = "") -> str:
        return (self.values.get(flag) or [default])[0]

    @property
    def names(self) -> list[str]:
        return self.values.get("--served-model-name") or [self.model]


class Tokens:
    """The counter of generated tokens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def generate(self) -> None:
        with self._lock:
            self._count += 1

    @property
    def total(self) -> float:
        return float(self._count + int(float(option("BUSY", "0")) * (monotonic() - STARTED)))


class Leader:
    """The process and what it leaves behind."""

    def __init__(self) -> None:
        self.children: list[int] = []
        self.segments: list[str] = []
        self.semaphore = ""
        self.maps: list[object] = []
        self.terms = 0
        self.listening = False

    def end(self, code: int) -> None:
        """Exit in order: end the children, remove the segments, no clean-up of Python's (threads may hang)."""
        if not option("CHILDREN_STAY"):
            for pid in self.children:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        for path in self.segments:
            os.unlink(path)
        os._exit(code)

    def on_term(self, number: int, frame: object) -> None:
        stamp("term", monotonic())
        self.terms += 1
        mode = option("SIGTERM", "obey")
        lost = self.terms == 1 and (mode == "first" or (mode == "loading" and not self.listening))
        if mode == "deaf" or lost:
            return
        log("[shutdown] API server: shutdown triggered")
        if mode.startswith("slow:"):
            delay = threading.Timer(float(mode[5:]), self.end, (0,))
            delay.daemon = True
            delay.start()
            return
        say("INFO:     Application shutdown complete.\n", 2)
        self.end(0)

    def populate(self) -> None:
        """Make the children, the daemon, the segments and the socket that a real engine has."""
        import mmap

        for _ in range(int(option("SHM", "0"))):
            path = f"/dev/shm/psm_{os.urandom(4).hex()}"
            with open(path, "x+b") as file:
                file.truncate(SEGMENT_BYTES)
                self.maps.append(mmap.mmap(file.fileno(), SEGMENT_BYTES))
            self.segments.append(path)
        if option("SEMAPHORE"):
            from multiprocessing import resource_tracker

            name = f"/mp-{os.urandom(4).hex()}"
            self.semaphore = f"/dev/shm/sem.{name[1:]}"
            with open(self.semaphore, "xb"):
                resource_tracker.register(name, "semaphore")
        leave = os.environ.get("TMPDIR")
        if leave:
            random = os.urandom(16).hex()
            name = "-".join((random[:8], random[8:12], random[12:16], random[16:20], random[20:]))
            ipc = socket.socket(socket.AF_UNIX)
            ipc.bind(f"{leave}/{name}")  # an OSError here is what vLLM does with a path that is too long
            self.maps.append(ipc)
        for _ in range(int(option("CHILDREN", "0"))):
            self.children.append(self._fork(deep=bool(option("CHILDREN_DEEP"))))
        if option("DAEMON"):
            self._fork(deep=True, daemon=option("DAEMON"))

    def _fork(self, *, deep: bool, daemon: str = "") -> int:
        """Fork a process that sleeps for ever; return its pid once it has taken its place."""
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            if deep and os.fork():
                os._exit(0)
            try:
                self._settle(daemon)
                os.write(tell, b"%d" % os.getpid())
                os.close(tell)
                while True:
                    signal.pause()
            finally:
                os._exit(1)
        os.close(tell)
        if deep:
            os.waitpid(child, 0)
        pid = int(os.read(told, 20))
        os.close(told)
        return pid

    def _settle(self, daemon: str) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if option("SIGTERM") == "deaf" else signal.SIG_DFL)
        if daemon:
            os.setsid()
        if daemon in ("quiet", "wiped"):
            null = os.open("/dev/null", os.O_RDWR)
            os.dup2(null, 1)
            os.dup2(null, 2)
        title = option("TITLE") or ("wiped" if daemon == "wiped" else "")
        if title:
            overwrite_title(title)


def overwrite_title(title: str) -> None:
    """Overwrite argv and environ in memory, as setproctitle does."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[48])  # arg_start, env_end: fields 48 and 51 of proc(5)
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(start)
        memory.write(title.encode().ljust(end - start, b"\0")[: end - start])


def report(path: str, leader: Leader) -> None:
    """Write what a test wants to know about how we were executed."""
    import json
    import resource

    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        status = dict(line.split(":\t", 1) for line in file if ":\t" in line)
    listing = {
        fd: os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.lexists(f"/proc/self/fd/{fd}")
    }
    facts = {
        "pid": os.getpid(),
        "session": os.getsid(0),
        "parent": os.getppid(),
        "argv": sys.argv[1:],
        "environ": dict(os.environ),
        "cwd": os.getcwd(),
        "fds": listing,
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "ignored": int(status["SigIgn"], 16),
        "blocked": int(status["SigBlk"], 16),
        "start": STARTED,
        "shm": [*leader.segments, *filter(None, [leader.semaphore])],
    }
    temporary = f"{path}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(facts, file)
    os.replace(temporary, path)


def print_noise() -> None:
    """Print what was asked for."""
    for step in range(int(option("PROGRESS", "0"))):
        say(f"\rLoading safetensors checkpoint shards:  {step * 10}% Completed | {step}/10", 2)
    if option("PROGRESS"):
        say("\n", 2)
    if option("LONG_LINE"):
        say("x" * int(option("LONG_LINE")) + "\n")
    for number in range(int(option("FLOOD", "0")) // 100):
        say(f"{number:08d} ".ljust(99, ".") + "\n")
    if option("BAD_UTF8"):
        os.write(1, b"caf\xe9 \xff\xfe end\n")
    if option("PRINT_KEY"):
        say(f"the key is {os.environ.get('VLLM_API_KEY')} and the token {os.environ.get('HF_TOKEN')}\n")


class Connection:
    """One client: requests one after the other, as HTTP/1.1 keeps a connection open."""

    def __init__(self, peer: socket.socket, command: CommandLine, tokens: Tokens) -> None:
        self._peer = peer
        self._file = peer.makefile("rb")
        self._command = command
        self._tokens = tokens

    def serve(self) -> None:
        try:
            while self._request():
                pass
        except (OSError, ValueError):
            pass
        finally:
            self._file.close()
            self._peer.close()

    def _request(self) -> bool:
        words = self._file.readline().split()
        if len(words) != 3:
            return False
        method, path = words[0].decode(), words[1].decode().partition("?")[0]
        headers: dict[str, str] = {}
        while (line := self._file.readline()) not in (b"\r\n", b"\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        body = self._file.read(int(headers.get("content-length", "0")))
        keep = headers.get("connection", "").lower() != "close" and words[2] == b"HTTP/1.1"
        status, kind, answer = self._answer(method, path, headers, body)
        sleep(float(option("ANSWER_DELAY", "0")))
        reason = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found"}.get(status, "Whatever")
        head = (
            f"HTTP/1.1 {status} {reason}\r\nserver: uvicorn\r\ncontent-length: {len(answer)}\r\n"
            f"content-type: {kind}\r\nconnection: {'keep-alive' if keep else 'close'}\r\n\r\n"
        )
        drip = float(option("DRIP", "0"))
        if drip:
            for byte in head.encode() + answer:
                self._peer.sendall(bytes((byte,)))
                sleep(drip)
        else:
            self._peer.sendall(head.encode() + answer)
        return keep

    def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, str, bytes]:
        json_type = "application/json"
        models = option("MODELS", "ok")
        if path.startswith("/v1/"):
            known = headers.get("authorization") == f"Bearer {os.environ.get('VLLM_API_KEY')}"
            if models == "foreign" or (not known and models != "open"):
                return 401, json_type, b'{"error":"Unauthorized"}'
        if method == "GET" and path in ("/health", "/ping"):
            return self._status(option("HEALTH", "200")), json_type, b""
        if method == "GET" and path == "/v1/models":
            import json

            status = 200 if models in ("ok", "open") else self._status(models)
            names = [option("MODEL_NAME")] if option("MODEL_NAME") else self._command.names
            listing = {
                "object": "list",
                "data": [{"id": name, "object": "model", "owned_by": "vllm"} for name in names],
            }
            return status, json_type, json.dumps(listing).encode()
        if method == "POST" and path == "/v1/completions":
            return self._complete(body)
        if method == "GET" and path == "/metrics":
            mode = option("METRICS", "ok")
            if mode == "garbage":
                return 200, "text/plain", bytes(range(256)) * 8
            if mode != "none":
                self._status(mode)
                return 200, "text/plain; version=1.0.0; charset=utf-8", self._metrics()
        return 404, json_type, b'{"detail":"Not Found"}'

    def _complete(self, body: bytes) -> tuple[int, str, bytes]:
        import json

        json_type = "application/json"
        status = self._status(option("COMPLETIONS", "ok"))
        if status != 200:
            return status, json_type, b'{"error":{"message":"as asked","type":"Error","code":%d}}' % status
        try:
            request = json.loads(body)
        except ValueError:
            return 400, json_type, b'{"error":{"message":"not JSON","type":"Bad Request","code":400}}'
        model = request.get("model", self._command.names[0])
        if model not in self._command.names:
            text = {"error": {"message": f"The model `{model}` does not exist.", "type": "NotFoundError", "code": 404}}
            return 404, json_type, json.dumps(text).encode()
        self._tokens.generate()
        choice = {"index": 0, "text": "a", "finish_reason": "length"}
        return 200, json_type, json.dumps({"object": "text_completion", "model": model, "choices": [choice]}).encode()

    def _metrics(self) -> bytes:
        label = f'{{engine="0",model_name="{self._command.names[0]}"}}'
        return (
            "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
            "# TYPE vllm:num_requests_running gauge\n"
            f"vllm:num_requests_running{label} 0.0\n"
            "# HELP vllm:generation_tokens_total Number of generation tokens processed.\n"
            "# TYPE vllm:generation_tokens_total counter\n"
            f"vllm:generation_tokens_total{label} {self._tokens.total}\n"
            f"vllm:generation_tokens_created{label} 1.7e+09\n"
        ).encode()

    def _status(self, mode: str) -> int:
        """The status that `mode` asks for, if it asks for an answer at all."""
        if mode == "hang":
            threading.Event().wait()  # nobody ever sets it
        if mode == "close":
            raise ConnectionAbortedError
        return 200 if mode == "ok" else int(mode)


def exit_later(leader: Leader, seconds: str) -> None:
    timer = threading.Timer(float(seconds), exit_as_asked, (leader,))
    timer.daemon = True
    timer.start()


def exit_as_asked(leader: Leader) -> None:
    if option("LAST_LINE"):
        say(option("LAST_LINE") + "\n", 2)
    leader.end(int(option("EXIT_CODE", "0")))


def main() -> None:
    stamp("start", STARTED)
    leader = Leader()
    signal.signal(signal.SIGTERM, leader.on_term)
    signal.signal(signal.SIGINT, leader.on_term)
    command = CommandLine(sys.argv[1:])
    if option("LINE_COUNTER"):
        with open(option("LINE_COUNTER"), "a", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    port = int(command.one("--port", "8000"))
    try:
        server.bind((command.one("--host", "0.0.0.0"), port))
    except OSError as error:
        say(f"OSError: {error}\n", 2)
        os._exit(1)
    log(f"non-default args: {{'model': '{command.model}'}}")
    leader.populate()
    if option("REPORT"):
        report(option("REPORT"), leader)
    print_noise()
    timed = [name for name in ("EXIT_AFTER", "DIE_AFTER_READY") if option(name)]
    if option("EXIT_CODE") and not timed:
        exit_as_asked(leader)
    if option("EXIT_AFTER"):
        exit_later(leader, option("EXIT_AFTER"))
    while option("NEVER_LISTEN"):
        signal.pause()
    sleep(float(option("LISTEN_AFTER", "0")))
    while option("LISTEN_ONCE") and not os.path.exists(option("LISTEN_ONCE")):
        sleep(0.01)
    log(f"Starting vLLM server on http://{command.one('--host', '0.0.0.0')}:{port}")
    server.listen(128)
    stamp("listen", monotonic())
    leader.listening = True
    say("INFO:     Application startup complete.\n", 2)
    if option("DIE_AFTER_READY"):
        exit_later(leader, option("DIE_AFTER_READY"))
    tokens = Tokens()
    while True:
        peer, _ = server.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=Connection(peer, command, tokens).serve, daemon=True).start()


if __name__ == "__main__":
    main()
