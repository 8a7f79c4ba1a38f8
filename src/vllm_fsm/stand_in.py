"""Lets what we import do without modules that it would load and nobody here needs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def stand_in(name: str, module: ModuleType | None = None) -> Iterator[None]:
    """Let imports of `name` find `module`, or fail for None, unless the real one is loaded already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = module  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
