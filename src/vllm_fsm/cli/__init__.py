"""The command line. Each command is a module of its own, imported when it is asked for."""

from __future__ import annotations

import gc
import io
import sys
from collections.abc import Sequence

USAGE = 2
"""Exit code of a wrong command line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    # Importing makes much and drops little: collecting meanwhile would take an eighth of the time of a start.
    gc.disable()
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    finally:
        gc.enable()


def _run(words: Sequence[str]) -> int:
    from vllm_fsm.cli.parser import parser

    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal without a character must not fail a command that has done its work.
        sys.stdout.reconfigure(errors="replace")
    # No option before the command takes a value.
    asked = next((word for word in words if not word.startswith("-")), None)
    arguments = parser(asked).parse_args(words)
    try:
        return int(arguments.command(arguments))
    except BrokenPipeError:
        # The reader of our output left, as `head` does.
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130
