"""`vllm-fsm cache`: which models are in the cache, what they take up, and what needs them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vllm_fsm import cache, messages
from vllm_fsm.actions import models
from vllm_fsm.actions.problems import Rejected
from vllm_fsm.cli import safe, table
from vllm_fsm.cli.refusal import refuse
from vllm_fsm.cli.site import site
from vllm_fsm.health import gb, timestamp

if TYPE_CHECKING:
    pass

SCHEMA = 1
HEADER = ("MODEL", "SIZE", "LAST USED", "STATE")


def main(arguments: argparse.Namespace) -> int:
    """Print what the cache holds; return 1 when it cannot be read."""
    try:
        found = models.listed(site(arguments))
    except Rejected as refusal:
        return refuse(refusal, as_json=arguments.json)
    if arguments.json:
        print(safe.as_json(document(found), indent=2))
    else:
        print("\n".join(lines(found, table.columns())))
    return 0


def document(found: cache.Listing) -> dict[str, Any]:
    """Return what `--json` prints; sizes in bytes, times in RFC 3339."""
    return {
        "schema": SCHEMA,
        "models": [
            {
                "name": model.name,
                "folder": model.folder,
                "size": model.size,
                "files": model.files,
                "partial": model.partial,
                "complete": model.complete,
                "lastUsed": None if model.last_used is None else timestamp(model.last_used),
                "state": None if model.state is None else model.state.value,
                "linked": model.linked,
                "problem": model.problem and messages.document(model.problem),
            }
            for model in found.models
        ],
        "total": found.total,
        "free": found.free,
        "stale": [{"path": left.path, "size": left.size} for left in found.stale],
    }


def lines(found: cache.Listing, columns: int) -> list[str]:
    """Return the listing as lines of at most `columns` characters where words allow it."""
    shown = []
    if found.models:
        shown += [*table.table(HEADER, [_row(model) for model in found.models], columns), ""]
    count = len(found.models)
    named = [("models", f"{count}, {gb(found.total)} GB" if count else "none")]
    if found.stale:
        size = sum(left.size for left in found.stale)
        named.append(("left over", f"{len(found.stale)}, {gb(size)} GB, of interrupted deletions and downloads"))
    named.append(("free", f"{gb(found.free)} GB"))
    return shown + table.rows(named, columns)


def _row(model: cache.CachedModel) -> tuple[str, ...]:
    words = ["complete" if model.complete else "incomplete"]
    if model.partial:
        words.append(f"{gb(model.partial)} GB of it in partial files")
    if model.state is not None:
        words.append(model.state.value)
    if model.linked:
        words.append("a symbolic link: neither measured nor deleted here")
    problem = "" if model.problem is None else f". {messages.text(model.problem)}"
    used = "" if model.last_used is None else f"{model.last_used:%Y-%m-%d}"
    return (model.name, f"{gb(model.size)} GB", used, ", ".join(words) + problem)
