"""`make run`: the controller with a real vLLM and a tiny model, in the foreground, until Ctrl-C.

Makes what is missing below `.run/` (a tiny random model, the store) and leaves what is there; `-- ARGS` writes the
store anew. Standard library only, apart from the controller itself, which runs as a child.
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import tiny_model

HERE = Path(__file__).resolve().parent
LOOK = 0.5
"""Seconds between two looks at the health."""

TINY = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "256")
"""A random model of two layers needs no compilation and no half precision, which some CPUs lack."""
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}


def main() -> int:
    """Prepare, run, and say how to ask the model something once it is ready."""
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    parser.add_argument("--engine", required=True, help="the vllm command")
    parser.add_argument("--port", default="8000")
    parser.add_argument("--root", type=Path, default=HERE.parent / ".run")
    parser.add_argument("arguments", nargs="*", help="what `vllm serve` is given instead of the tiny model")
    options = parser.parse_args()
    root = options.root.resolve()
    prepare(root, options.arguments)
    directories = ["--data", str(root / "data"), "--public", str(root / "public"), "--run-dir", str(root / "run")]
    command = [sys.executable, "-m", "vllm_fsm", "run", *directories]
    command += ["--engine", shlex.quote(options.engine), "--host", "127.0.0.1", "--port", options.port]
    # A Ctrl-C reaches the child too, as it is in the same group; it ends in order and so do we.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    began = time.time()
    controller = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: controller.terminate())
    told = False
    while True:
        try:
            return controller.wait(LOOK)
        except subprocess.TimeoutExpired:
            if not told and ready(root, began):
                told = True
                print(hint(root, options.port), flush=True)


def prepare(root: Path, arguments: list[str]) -> None:
    """Make the directories, the tiny model if it is to be served, and the store if it is missing or to be another."""
    store = root / "data" / "store.json"
    for directory in (root / "data", root / "public"):
        directory.mkdir(parents=True, exist_ok=True)
    if store.exists() and not arguments:
        return
    if not arguments:
        model = root / "tiny-model"
        tiny_model.make(str(model))
        arguments = [str(model), *TINY, "--served-model-name", "tiny"]
    content = {
        "serveArgs": arguments,
        "serveEnv": [{"name": name, "value": value} for name, value in ENVIRONMENT.items()],
    }
    store.touch(mode=0o600)
    store.write_text(json.dumps(content, indent=2) + "\n")


def ready(root: Path, began: float) -> bool:
    """Whether the health file says so, and not that of an earlier run."""
    path = root / "run" / "health.json"
    try:
        return path.stat().st_mtime > began and json.loads(path.read_text())["result"] == "success"
    except (OSError, ValueError):
        return False


def hint(root: Path, port: str) -> str:
    """How to go on, in a few lines that can be pasted."""
    health = json.loads((root / "run" / "health.json").read_text())
    arguments = health["active"]["arguments"]
    name = arguments[arguments.index("--served-model-name") + 1] if "--served-model-name" in arguments else arguments[0]
    credentials = root / "public" / "credentials.json"
    body = json.dumps({"model": name, "prompt": "Hello", "max_tokens": 16})
    status = f"{sys.executable} -m vllm_fsm status --run-dir {root / 'run'}"
    return f"""
Ready. In another terminal:

  KEY=$(sed -n 's/.*"apiKey": *"\\([^"]*\\)".*/\\1/p' {credentials})
  curl http://127.0.0.1:{port}/v1/completions -H "Authorization: Bearer $KEY" \\
    -H 'Content-Type: application/json' -d '{body}'

  {status}

Edit {root / "data" / "store.json"} or delete {credentials}
and watch what happens here. Ctrl-C ends it in order.
"""


if __name__ == "__main__":
    sys.exit(main())
