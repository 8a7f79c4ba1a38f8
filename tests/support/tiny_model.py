"""The tiny model of `vllm/tiny_model.py`, for tests: `make(out, seed=0, shards=1, size_mb=0, dtype="F32")`."""

from collections.abc import Callable
from pathlib import Path

from support.by_path import load

make: Callable[..., Path] = load("vllm/tiny_model.py").make
