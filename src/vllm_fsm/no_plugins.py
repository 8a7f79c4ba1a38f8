"""Stands in for `importlib.metadata` while pydantic is loaded, which looks for plugins of its own with it.

The look goes through every installed package, of which a vLLM image has hundreds, and the module brings `email` along.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Final

REAL: Final = "importlib.metadata"


def entry_points(**_wanted: str) -> tuple[()]:
    """Find no plugin."""
    return ()


def __getattr__(name: str) -> Any:
    """Return whatever else is asked for as it really is."""
    if name.startswith("__"):
        raise AttributeError(name)
    ours = sys.modules.pop(REAL, None)
    try:
        return getattr(import_module(REAL), name)
    finally:
        if ours is not None:
            sys.modules[REAL] = ours
