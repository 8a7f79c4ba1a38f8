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


def installed(root: Path, version: str) -> tuple[str, ...]:
    """Install the rude engine below `root` as pip would install vLLM of that version; return its command."""
    script, python = root / "bin" / "vllm", root / "bin" / "python3"
    script.parent.mkdir(parents=True)
    python.symlink_to(Path(sys.executable).resolve())
    script.write_text(f"#!{python} -IS\n" + SCRIPT.read_text().partition("\n")[2])
    script.chmod(0o755)
    (root / "lib" / "python3" / "site-packages" / f"vllm-{version}.dist-info").mkdir(parents=True)
    return (str(script),)
