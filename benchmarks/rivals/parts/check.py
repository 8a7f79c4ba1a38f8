"""Exit 0 if something on the port answers `/health` with 200: `check.py PORT`; every readiness check here but ours."""

import socket
import sys


def healthy(port):
    """Whether it does, within a second."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0) as peer:
            peer.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return b" 200 " in peer.recv(64)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(not healthy(int(sys.argv[1])))
