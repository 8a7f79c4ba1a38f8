"""A server that is nobody's and healthy: `stranger.py PORT` answers everything with 200 and a list with the model."""

import http.server
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    """The same for everything."""

    def do_GET(self):
        """Answer."""
        body = b'{"object":"list","data":[{"id":"tiny","object":"model"}]}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the name is the base class's

    def log_message(self, *words):
        """Say nothing."""


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    server.handle_error = lambda *_: None  # whoever asks may go away at any time
    server.serve_forever()
