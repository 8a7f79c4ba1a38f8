"""A hub of one repository that answers what a test says, also what no hub should."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40
Answer = tuple[int, Mapping[str, str], bytes | None]
"""Status, headers and body; None is a body without an end."""
Odd = Callable[[str, Mapping[str, str]], Answer | None]
"""From a request's path and headers to the answer, None for the usual one."""


def listed(path: str, content: bytes) -> dict[str, object]:
    """Return the entry of a small file."""
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return {"type": "file", "path": path, "size": len(content), "oid": oid}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def weights(path: str, content: bytes) -> dict[str, object]:
    """Return the entry of a large file."""
    return {**listed(path, content), "lfs": {"oid": sha256(content), "size": len(content), "pointerSize": 130}}


@contextmanager
def odd_hub(files: Mapping[str, bytes], odd: Odd = lambda *_: None) -> Iterator[str]:
    """Serve `files`, `*.safetensors` as large ones; yield the address."""

    def usual(path: str) -> Answer:
        if "/tree/" in path:
            entries = [(weights if name.endswith(".safetensors") else listed)(name, files[name]) for name in files]
            return 200, {}, json.dumps(entries).encode()
        if "/resolve/" in path:
            return 200, {}, files[path.split(f"/{COMMIT}/", 1)[1]]
        return 200, {}, json.dumps({"id": "org/model", "sha": COMMIT, "siblings": [], "tags": []}).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = odd(self.path, self.headers) or usual(self.path)  # type: ignore[arg-type]
            self.send_response_only(status)  # without a Date of its own
            length = {"Connection": "close"} if body is None else {"Content-Length": str(len(body))}
            for name, value in {**length, **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(ConnectionError):  # it had enough
                while body is None:
                    self.wfile.write(bytes(1 << 20))
                self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
