"""How commands tell that an action was refused."""

from __future__ import annotations

import sys

from vllm_fsm.actions.form import failed
from vllm_fsm.actions.problems import Problem, Rejected
from vllm_fsm.cli import USAGE, safe, table
from vllm_fsm.messages import text as sentence

FAILED = 1
"""Exit code when nothing that was given is at fault: a volume is read-only, a file broken."""


def refuse(refusal: Rejected, *, as_json: bool) -> int:
    """Print the reasons and return the exit code."""
    if as_json:
        print(safe.as_json(failed(refusal)))
    else:
        for problem in refusal.problems:
            print(told(problem), file=sys.stderr)
    return FAILED if all(problem.field is None for problem in refusal.problems) else USAGE


def told(problem: Problem) -> str:
    """Return a problem as text for the terminal; places are counted from 1 there."""
    # Some sentences say it themselves.
    at = None if "character" in dict(problem.message.params) else problem.position
    place = "" if at is None else f" (at character {at + 1})"
    return table.complaint(sentence(problem.message) + place)
