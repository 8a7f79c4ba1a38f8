"""`vllm-fsm history`: the latest transitions."""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque

from vllm_fsm import history
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
            print(json.dumps(entry, ensure_ascii=False))
        return 0
    if not entries:
        print(f"No transition is recorded in {directory}.")
    for entry in entries:
        reason = f"  {entry['reason']}" if entry.get("reason") else ""
        print(
            f"{entry.get('time', '')[:19].replace('T', ' ')}  start {entry.get('attempt', 0):>3}  "
            f"{entry.get('from', ''):>11} → {entry.get('to', ''):<11} {entry.get('trigger', '')}{reason}"
        )
    return 0
