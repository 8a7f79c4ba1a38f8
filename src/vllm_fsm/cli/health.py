"""`vllm-fsm health`: one line, and an exit code for a health check."""

from __future__ import annotations

import argparse

from vllm_fsm.cli import safe
from vllm_fsm.cli.reading import health


def main(arguments: argparse.Namespace) -> int:
    """Print the health line; return 0 only for `success`."""
    document = health(arguments.run_dir)
    print(safe.as_json(document) if arguments.json else safe.line(document["message"]))
    return 0 if document["result"] == "success" else 1
