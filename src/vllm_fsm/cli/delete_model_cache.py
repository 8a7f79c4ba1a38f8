"""`vllm-fsm delete-model-cache`: delete one cached model for good."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from vllm_fsm import cache, request
from vllm_fsm.cli.cache import needed, refuse
from vllm_fsm.cli.reading import health
from vllm_fsm.config import Config
from vllm_fsm.files.writing import Refused
from vllm_fsm.health import gb


def main(arguments: argparse.Namespace) -> int:
    """Delete it and say what that freed; return 1 when it was refused."""
    said = health(arguments.run_dir)
    used = needed(arguments.data, said)
    try:
        if used.unknown is not None and not arguments.force:
            raise cache.Refused(used.unknown)
        models = Config(data=arguments.data).models
        deleted = cache.delete(models, arguments.model, in_use=used, force=arguments.force)
    except cache.Refused as refused:
        return refuse(refused, arguments.json)
    retried = _retry(arguments, said)
    if arguments.json:
        sizes = {"freed": deleted.freed, "freeBefore": deleted.free_before, "freeAfter": deleted.free_after}
        print(json.dumps({"ok": True, "model": arguments.model, **sizes, "retry": retried}))
        return 0
    print(f"{arguments.model} was deleted: {gb(deleted.freed)} GB.")
    print(f"Free before: {gb(deleted.free_before)} GB, free now: {gb(deleted.free_after)} GB.")
    if retried:
        print('The controller lacked room and was asked to try again. "vllm-fsm status" shows what it does.')
    return 0


def _retry(arguments: argparse.Namespace, said: dict[str, Any]) -> bool:
    """Ask a controller that lacked room to try again; return whether it was asked."""
    if not cache.lacks_room(said):
        return False
    try:
        request.write_request(arguments.run_dir, request.Kind.RETRY)
    except Refused as refused:
        print(f"vllm-fsm: the controller could not be asked to try again: {refused}", file=sys.stderr)
        return False
    return True
