"""`vllm-fsm history`: the latest transitions."""

from __future__ import annotations

import argparse
import sys
from collections import deque

from vllm_fsm import history
from vllm_fsm.cli import safe
from vllm_fsm.config import STATE


def main(arguments: argparse.Namespace) -> int:
    """Print the latest entries, the newest last."""
    directory = arguments.state_dir or arguments.data / STATE
    try:
        entries = deque(history.read(directory), maxlen=arguments.lines)
    except OSError as error:
        print(f"vllm-fsm: {directory} cannot be read: {error.strerror}", file=sys.stderr)
        return 1
    if arguments.json:
        for entry in entries:
            print(safe.as_json(entry))
        return 0
    if not entries:
        print(f"No transition is recorded in {directory}.")
    for entry in entries:
        reason = f"  {entry['reason']}" if entry.get("reason") else ""
        time, attempt, source, dest, trigger = (
            str(entry.get(name, "")) for name in ("time", "attempt", "from", "to", "trigger")
        )
        told = f"{time[:19].replace('T', ' ')}  start {attempt:>3}  {source:>11} → {dest:<11} {trigger}{reason}"
        print(safe.line(told))
    return 0
