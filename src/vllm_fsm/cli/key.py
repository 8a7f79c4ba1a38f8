"""How the API key is shown: in full to programs, and to people who ask for it."""

from __future__ import annotations

import argparse
import sys

from vllm_fsm.actions.credentials import Access
from vllm_fsm.actions.form import access, succeeded
from vllm_fsm.cli import safe, table

BULLET = "•"
LAST = 4
"""Characters at the end that tell one masked key from another."""
SHORTEST = 16
"""Characters of a key whose end may be shown."""


def show(found: Access, arguments: argparse.Namespace, note: str = "") -> None:
    """Print the key, masked on a terminal unless `--show`, the address, and what is to be known of them."""
    if arguments.json:
        print(safe.as_json(succeeded(access(found))))
        return
    key = found.key.reveal()
    hidden = sys.stdout.isatty() and not arguments.show
    rows = [("API key", masked(key) if hidden else key), ("base URL", found.url)]
    if hidden:
        rows.append(("", "--show prints the key in full."))
    if found.aside is not None:
        rows.append(("kept", f"the broken file, as {found.aside}"))
    shown = table.rows(rows, table.columns())
    print("\n".join([*shown, *table.fold(note, table.columns())] if note else shown))


def masked(key: str) -> str:
    """Return bullets, and the end of a key that is long enough for that."""
    return BULLET * 8 + (key[-LAST:] if len(key) >= SHORTEST else "")
