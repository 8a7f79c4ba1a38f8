#!/usr/bin/env python3
"""Writes `startos/i18n/controller/en_US.json` from the controller's own list; `--check` only compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ENGLISH: Final = HERE / "startos" / "i18n" / "controller" / "en_US.json"


def dictionary() -> str:
    """Return the content of the file."""
    sys.path.insert(0, str(HERE.parent / "src"))
    from vllm_fsm import messages

    return json.dumps(messages.ENGLISH, ensure_ascii=False, indent=2) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        if ENGLISH.read_text() != dictionary():
            sys.exit(f"{ENGLISH} is not what the controller says: run make messages, and translate what is new")
    else:
        ENGLISH.write_text(dictionary())
