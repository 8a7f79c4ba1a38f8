"""`vllm-fsm delete-model-cache`: delete one cached model for good."""

from __future__ import annotations

import argparse
import json
import sys

from vllm_fsm import cache
from vllm_fsm.actions import models
from vllm_fsm.cli.cache import refuse
from vllm_fsm.cli.site import site
from vllm_fsm.health import gb
from vllm_fsm.messages import text as sentence


def main(arguments: argparse.Namespace) -> int:
    """Delete it and say what that freed; return 1 when it was refused."""
    try:
        removed = models.delete(site(arguments), arguments.model, force=arguments.force)
    except cache.Refused as refused:
        return refuse(refused, arguments.json)
    deleted = removed.deleted
    if removed.problem is not None:
        problem = sentence(removed.problem)
        print(f"vllm-fsm: the controller could not be asked to try again: {problem}", file=sys.stderr)
    if arguments.json:
        sizes = {"freed": deleted.freed, "freeBefore": deleted.free_before, "freeAfter": deleted.free_after}
        print(json.dumps({"ok": True, "model": arguments.model, **sizes, "retry": removed.retried}))
        return 0
    print(f"{arguments.model} was deleted: {gb(deleted.freed)} GB.")
    print(f"Free before: {gb(deleted.free_before)} GB, free now: {gb(deleted.free_after)} GB.")
    if removed.retried:
        print('The controller lacked room and was asked to try again. "vllm-fsm status" shows what it does.')
    return 0
