"""`vllm-fsm states`: the page that is generated from the table."""

from __future__ import annotations

import argparse
import difflib
import sys
from itertools import islice

from vllm_fsm.core.render import states_md
from vllm_fsm.examples import examples


def main(arguments: argparse.Namespace) -> int:
    """Print `states.md`, or compare a file with it."""
    page = states_md(examples())
    if arguments.check is None:
        sys.stdout.write(page)
        return 0
    try:
        found = arguments.check.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        print(f"vllm-fsm: {arguments.check} cannot be read: {error}", file=sys.stderr)
        return 1
    if found == page:
        print(f"{arguments.check} is what the table says.")
        return 0
    print(
        f"vllm-fsm: {arguments.check} differs from the table; run: vllm-fsm states > {arguments.check}", file=sys.stderr
    )
    lines = difflib.unified_diff(found.splitlines(), page.splitlines(), str(arguments.check), "the table", lineterm="")
    for line in islice(lines, 20):
        print(line, file=sys.stderr)
    return 1
