"""`vllm-fsm delete-model-cache`: delete one cached model for good."""

from __future__ import annotations

import argparse
import sys

from vllm_fsm.actions import form, models
from vllm_fsm.actions.problems import Rejected
from vllm_fsm.cli import safe, table
from vllm_fsm.cli.refusal import refuse
from vllm_fsm.cli.site import site
from vllm_fsm.health import gb
from vllm_fsm.messages import text as sentence


def main(arguments: argparse.Namespace) -> int:
    """Delete it and say what that freed; return 2 when it was refused."""
    try:
        removed = models.delete(site(arguments), arguments.model, force=arguments.force)
    except Rejected as refusal:
        return refuse(refusal, as_json=arguments.json)
    if arguments.json:
        print(safe.as_json(form.succeeded(form.removed(removed))))
        return 0
    deleted = removed.deleted
    if removed.problem is not None:
        problem = sentence(removed.problem)
        print(table.complaint(f"The controller could not be asked to try again: {problem}"), file=sys.stderr)
    print(f"{arguments.model} was deleted: {gb(deleted.freed)} GB.")
    print(f"Free before: {gb(deleted.free_before)} GB, free now: {gb(deleted.free_after)} GB.")
    if removed.retried:
        print('The controller lacked room and was asked to try again. "vllm-fsm status" shows what it does.')
    return 0
