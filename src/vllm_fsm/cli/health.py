"""`vllm-fsm health`: one line, and an exit code for a health check."""

from __future__ import annotations

import argparse
import json

from vllm_fsm.cli.reading import health


def main(arguments: argparse.Namespace) -> int:
    """Print the health line; return 0 only for `success`."""
    document = health(arguments.run_dir)
    print(json.dumps(document, ensure_ascii=False) if arguments.json else document["message"])
    return 0 if document["result"] == "success" else 1
