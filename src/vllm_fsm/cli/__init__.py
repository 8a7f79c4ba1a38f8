"""The command line. Each command is a module of its own, imported when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence

USAGE = 2
"""Exit code of a wrong command line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    from vllm_fsm.cli.parser import parser

    arguments = parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except BrokenPipeError:
        # The reader of our output left, as `head` does.
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130
