"""`vllm-fsm action`: the actions for programs, as JSON."""

from __future__ import annotations

import argparse
import sys

from vllm_fsm.actions import form
from vllm_fsm.actions.problems import Rejected
from vllm_fsm.cli import USAGE, safe
from vllm_fsm.cli.site import site
from vllm_fsm.files.reading import LIMIT

STDIN = "-"


def main(arguments: argparse.Namespace) -> int:
    """Print the list, a form or a result; return 2 when the action is refused."""
    try:
        answer = _answer(arguments)
    except Rejected as refusal:
        answer = form.failed(refusal)
    print(safe.as_json(answer))
    return 0 if answer.get("ok", True) else USAGE


def _answer(arguments: argparse.Namespace) -> form.Document:
    if arguments.verb == "list":
        return {"actions": [action.document() for action in form.ACTIONS]}
    action = form.named(arguments.id)
    if arguments.verb == "form":
        return action.form(site(arguments))
    return form.succeeded(action.run(site(arguments), _input(arguments.input)))


def _input(text: str) -> bytes:
    """Return what was given, or what stands on standard input: no more of it than can be judged to be too much."""
    if text == STDIN:
        return sys.stdin.buffer.read(LIMIT + 1)
    return text.encode("utf-8", "surrogateescape")
