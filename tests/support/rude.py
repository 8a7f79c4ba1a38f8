"""How tests run the rude fake engine: `tests/fakes/rude_vllm.py` lists its modes."""

import socket
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "fakes" / "rude_vllm.py"
COMMAND = (sys.executable, "-I", "-S", str(SCRIPT))
"""What `--engine` takes, split; the interpreter is named because a shebang's `env python3` may be a slow shim."""


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
