"""The part of the fake hub that knows HTTP and how to misbehave, and nothing of models; `hub.py` describes it."""

import io
import json
import re
import select
import socket
import socketserver
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from time import monotonic
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote

CHUNK = 1 << 16
TICK = 0.02
"""Seconds of bandwidth that are sent at once."""
INVERTED = bytes(255 - byte for byte in range(256))
SECONDS = {"delay": 5.0, "stall": 3600.0}
IN_BODY = ("stall", "drop", "corrupt")
ACTIONS = ("status", "delay", "ignore-range", *IN_BODY)

Headers = Mapping[str, str]


@dataclass
class Fault:
    """One rule of misbehaviour."""

    match: str
    action: str
    times: int | None = None
    status: int = 503
    headers: Headers = field(default_factory=dict)
    body: str = '{"error": "as asked"}'
    seconds: float = -1
    after_bytes: int = 0

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"the action {self.action!r} is none of {', '.join(ACTIONS)}")
        re.compile(self.match)
        if self.seconds < 0:
            self.seconds = SECONDS.get(self.action, 0)

    def fits(self, method: str, path: str, ranged: bool) -> bool:
        """Whether the rule is for this request, and is not used up, and can act on it."""
        acts = ranged if self.action == "ignore-range" else method != "HEAD" or self.action not in IN_BODY
        return acts and self.times != 0 and bool(re.search(self.match, f"{method} {path}"))


class Refusal(Exception):
    """The request is answered with an error or a redirect."""

    def __init__(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        self.status = status
        self.content = json.dumps({"error": message}).encode() if message else b""
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.headers |= {"X-Error-Code": code} if code else {}
        self.headers |= {"X-Error-Message": message} if message else {}


class Server(socketserver.ThreadingTCPServer):
    """What it was told, and what it was asked."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, bandwidth: float, handler: "type[Handler]") -> None:
        self.bandwidth = bandwidth
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._ended: list[str] = []  # as JSON already: a test may ask often
        self._running: dict[int, dict[str, Any]] = {}
        super().__init__(("127.0.0.1", port), handler)
        self.port: int = self.socket.getsockname()[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def begin(self, record: dict[str, Any]) -> None:
        with self._lock:
            self._running[id(record)] = record

    def end(self, record: dict[str, Any], **more: Any) -> None:
        with self._lock:
            del self._running[id(record)]
            self._ended.append(json.dumps(record | more))

    def requests(self, since: int) -> bytes:
        with self._lock:
            running = [json.dumps(record | {"running": True}) for record in self._running.values()]
            return f"[{','.join(self._ended[since:] + running)}]".encode()

    def set_faults(self, rules: list[dict[str, Any]]) -> None:
        """Replace the rules; if one is not understood, change nothing and raise ValueError, TypeError or re.error."""
        faults = [Fault(**rule) for rule in rules]
        with self._lock:
            self._faults = faults

    def take_fault(self, method: str, path: str, ranged: bool) -> Fault | None:
        with self._lock:
            fault = next((fault for fault in self._faults if fault.fits(method, path, ranged)), None)
            if fault is not None and fault.times is not None:
                fault.times -= 1
            return fault


class Handler(ABC, BaseHTTPRequestHandler):
    """One connection, request after request; a subclass has the `answer`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    @abstractmethod
    def answer(self) -> None:
        """Reply to the request, or raise Refusal."""

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        self.content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.quoted, _, query = self.path.partition("?")
        self.query = {name: values[-1] for name, values in parse_qs(query).items()}
        self.fault: Fault | None = None
        self.record: dict[str, Any] = {
            "t": monotonic(),
            "method": self.command,
            "path": unquote(self.quoted),
            "range": self.headers.get("Range"),
            "auth": "Authorization" in self.headers,
            "agent": self.headers.get("User-Agent", "").partition(";")[0],
            "status": None,
            "sent": 0,
        }
        if self.quoted.startswith("/_fake/"):
            self.reply(*self._control())
        else:
            self._serve_recorded()

    do_GET = do_HEAD = do_POST = _serve  # noqa: N815 (the base class wants these names)

    def _serve_recorded(self) -> None:
        more: dict[str, Any] = {}
        self.server.begin(self.record)
        try:
            self._misbehave()
        except ConnectionError:
            self.close_connection = True
            more["aborted"] = True
        finally:
            more |= {"fault": self.fault.action} if self.fault else {}
            self.server.end(self.record, seconds=round(monotonic() - self.record["t"], 3), **more)

    def _misbehave(self) -> None:
        """Do what a rule wants before the answer, or instead of it."""
        fault = self.fault = self.server.take_fault(self.command, self.record["path"], self.record["range"] is not None)
        if fault and fault.action == "delay":
            self._wait(fault.seconds)
        if fault and fault.action == "status":
            self.reply(fault.status, fault.body.encode(), fault.headers)
            return
        try:
            self.answer()
        except Refusal as refusal:
            self.reply(refusal.status, refusal.content, refusal.headers)

    def _control(self) -> tuple[int, bytes]:
        try:
            match self.command, self.quoted:
                case "GET", "/_fake/health":
                    return 200, b"{}"
                case "GET", "/_fake/requests":
                    return 200, self.server.requests(int(self.query.get("since", "0")))
                case "POST", "/_fake/faults":
                    self.server.set_faults(json.loads(self.content))
                    return 200, b"{}"
                case "POST", "/_fake/bandwidth":
                    self.server.bandwidth = float(self.content)
                    return 200, b"{}"
        except (TypeError, ValueError, re.error) as error:
            return 400, json.dumps({"error": str(error)}).encode()
        return 404, b"{}"

    # --- replies -------------------------------------------------------------------------------------------------

    def reply(self, status: int, content: bytes, headers: Headers | None = None) -> None:
        """Send JSON."""
        self._head(status, len(content), {"Content-Type": "application/json; charset=utf-8", **(headers or {})})
        self._body(io.BytesIO(content), len(content))

    def reply_file(self, place: str, size: int, headers: Headers) -> None:
        """Send the file at `place`, or the part of it that was asked for; raise Refusal if there is no such part."""
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.record["range"] or "")
        start, end, status = 0, size, 200
        if wanted and any(wanted.groups()) and not (self.fault and self.fault.action == "ignore-range"):
            first, last = wanted.groups()
            start = int(first) if first else max(0, size - int(last))
            end = min(int(last) + 1, size) if first and last else size
            status = 206
            if start >= end:
                raise Refusal(416, Content_Range=f"bytes */{size}")
            headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{size}"}
        with open(place, "rb", buffering=0) as file:
            file.seek(start)
            self._head(status, end - start, {**headers, "Accept-Ranges": "bytes"})
            self._body(file, end - start)

    def _head(self, status: int, length: int, headers: Headers) -> None:
        self.record["status"] = status
        self.send_response(status)
        for name, value in {"Content-Length": str(length), "X-Request-Id": "Root=1-00000000-fake", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _body(self, file: BinaryIO | io.FileIO, length: int) -> None:
        """Send so many bytes, no faster than the bandwidth, and misbehave on the way as asked."""
        fault = self.fault if self.fault and self.fault.action in IN_BODY else None
        sent, due = 0, monotonic()
        while sent < length and self.command != "HEAD":
            if fault and sent == fault.after_bytes and fault.action == "stall":
                self._wait(fault.seconds)
            rate = 0 if self.quoted.startswith("/_fake/") else self.server.bandwidth
            until = fault.after_bytes if fault and sent < fault.after_bytes < length else length
            chunk = file.read(min(until - sent, CHUNK, max(1, int(rate * TICK)) if rate else CHUNK))
            if not chunk or (fault and fault.action == "drop" and sent == fault.after_bytes):
                self.close_connection = True  # also when somebody has made the file shorter
                self.connection.shutdown(socket.SHUT_RDWR)
                break
            if fault and fault.action == "corrupt" and sent >= fault.after_bytes:
                chunk = chunk.translate(INVERTED)
            if rate:
                due = max(due, monotonic() - TICK) + len(chunk) / rate
                self._wait(due - monotonic())
            sent += len(chunk)
            self.record["sent"] = sent  # before the client has it: who has a whole file finds it counted
            self.wfile.write(chunk)

    def _wait(self, seconds: float) -> None:
        """Let `seconds` pass; raise ConnectionAbortedError when the client leaves meanwhile."""
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)
        if seconds > 0 and poll.poll(seconds * 1000):
            raise ConnectionAbortedError
