"""Which vLLM the project means, and its source."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Final

VLLM: Final = Path(__file__).parents[2] / "vllm"


def pins() -> dict[str, Any]:
    """Return what `vllm/version.toml` says."""
    return tomllib.loads((VLLM / "version.toml").read_text())


def version() -> str:
    """Return the release of vLLM."""
    return str(pins()["vllm"]["version"])


@cache
def source() -> Path:
    """Return where vLLM's source is; the first call ever fetches it from a package index."""
    done = subprocess.run((sys.executable, str(VLLM / "fetch")), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{VLLM}/docker/Dockerfile.cpu\n"
    return VLLM / "source"
