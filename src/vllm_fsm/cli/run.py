"""`vllm-fsm run`: the controller in the foreground."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields

from vllm_fsm.config import Config

HELD = 3
BUG = 70


def main(arguments: argparse.Namespace) -> int:
    """Run until asked to stop; return the exit code."""
    import asyncio

    from vllm_fsm import app
    from vllm_fsm.lock import Held

    config = Config(**{field.name: getattr(arguments, field.name) for field in fields(Config)})
    try:
        return asyncio.run(app.run(config))
    except Held as held:
        print(f"vllm-fsm: {held}: stop it first, or give this one directories of its own", file=sys.stderr)
        return HELD
    except app.Unusable as unusable:
        print(f"vllm-fsm: {unusable}", file=sys.stderr)
        return 2
