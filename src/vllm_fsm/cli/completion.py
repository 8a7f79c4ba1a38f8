"""`vllm-fsm completion`: a completion script, made by shtab."""

from __future__ import annotations

import argparse
import sys

from vllm_fsm.cli.parser import parser


def main(arguments: argparse.Namespace) -> int:
    """Print the script for one shell."""
    try:
        import shtab
    except ImportError:
        print("vllm-fsm: completion needs shtab: pip install 'vllm-fsm[completion]'", file=sys.stderr)
        return 1
    print(shtab.complete(parser(), arguments.shell))
    return 0
