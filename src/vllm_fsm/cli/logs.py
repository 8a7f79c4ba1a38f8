"""`vllm-fsm logs`: what an engine printed."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from vllm_fsm import record
from vllm_fsm.cli import safe
from vllm_fsm.config import STATE

if TYPE_CHECKING:
    from collections.abc import Iterable

PACE = 0.2
"""Seconds between two looks for new lines."""


def main(arguments: argparse.Namespace) -> int:
    """Print the output of a start; with `--follow` go on until interrupted."""
    directory = arguments.state_dir or arguments.data / STATE
    try:
        if arguments.follow:
            _print(record.follow(directory, arguments.attempt, _wait), as_json=arguments.json)
        chosen = record.latest(directory, arguments.attempt)
        if not chosen:
            which = "a start" if arguments.attempt is None else f"start {arguments.attempt}"
            print(f"vllm-fsm: no output of {which} is kept in {directory}", file=sys.stderr)
            return 1
        _print(record.read(directory, chosen), as_json=arguments.json)
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"vllm-fsm: {directory} cannot be read: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _print(lines: Iterable[str], *, as_json: bool) -> None:
    for line in lines:
        print(safe.as_json(line) if as_json else safe.line(line))


def _wait() -> None:
    sys.stdout.flush()
    time.sleep(PACE)
