"""`vllm-fsm run`: the controller in the foreground."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from dataclasses import fields

from vllm_fsm import no_plugins
from vllm_fsm.cli import USAGE
from vllm_fsm.config import Config
from vllm_fsm.lock import Held
from vllm_fsm.stand_in import stand_in

# Nothing here speaks TLS: OpenSSL would be loaded for nothing.
with stand_in("ssl"):
    import asyncio
with stand_in(no_plugins.REAL, no_plugins):
    from vllm_fsm import app

HELD = 3


def main(arguments: argparse.Namespace) -> int:
    """Run until asked to stop; return the exit code."""
    # What was imported stays: from now on the collector looks at the rest only.
    gc.freeze()
    gc.enable()
    return guarded(lambda: asyncio.run(app.run(config(arguments))))


def config(arguments: argparse.Namespace) -> Config:
    """Return what the flags say."""
    return Config(**{field.name: getattr(arguments, field.name) for field in fields(Config)})


def guarded(work: Callable[[], int]) -> int:
    """Do `work`; say in a sentence why it cannot begin."""
    try:
        return work()
    except Held as held:
        print(f"vllm-fsm: {held}: stop it first, or give this one directories of its own", file=sys.stderr)
        return HELD
    except app.Unusable as unusable:
        print(f"vllm-fsm: {unusable}", file=sys.stderr)
        return USAGE
