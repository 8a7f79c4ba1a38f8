"""`vllm-fsm retry`: ask the running controller to try again now."""

from __future__ import annotations

import argparse
import sys

from vllm_fsm import lock, request
from vllm_fsm.cli import safe
from vllm_fsm.cli.reading import NOT_RUNNING
from vllm_fsm.files.writing import Refused


def main(arguments: argparse.Namespace) -> int:
    """Leave the request; return 0 when a controller is there to take it."""
    problem = None
    if not lock.held(arguments.run_dir):
        problem = f"{NOT_RUNNING} No process holds {arguments.run_dir}."
    else:
        try:
            request.write_request(arguments.run_dir, request.Kind.RETRY)
        except Refused as refused:
            problem = str(refused)
    if arguments.json:
        print(safe.as_json({"ok": problem is None, "message": problem}))
    elif problem is None:
        print('The controller was asked to try again. "vllm-fsm status" shows what it does.')
    if problem is not None and not arguments.json:
        print(f"vllm-fsm: {problem}", file=sys.stderr)
    return 0 if problem is None else 1
