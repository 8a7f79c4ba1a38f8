"""`vllm-fsm status`: what is wanted, what runs, why not yet, what to do."""

from __future__ import annotations

import argparse
import shlex
from datetime import UTC, datetime
from typing import Any

from vllm_fsm.cli import safe, table
from vllm_fsm.cli.reading import health
from vllm_fsm.health import gb, told
from vllm_fsm.redaction import plain

WIDTH = 11
PLAIN = "plain"
"""A start of which nothing is to be said."""
TAKE = "vllm-fsm set-model --fix"
"""The command that takes the fix. It needs no quoting, and arguments with secrets can be had by nothing else."""


def main(arguments: argparse.Namespace) -> int:
    """Print the status; return 0 whenever a controller could be asked."""
    document = health(arguments.run_dir)
    if arguments.json:
        print(safe.as_json(document, indent=2))
    else:
        print("\n".join(lines(document, datetime.now(UTC), table.columns())))
    return 0 if document["state"] is not None else 1


def lines(document: dict[str, Any], now: datetime, columns: int) -> list[str]:
    """Return the status as lines of at most `columns` characters where words allow it."""
    if document["state"] is None:
        return [document["message"]]
    wanted, active = document["target"], document["active"]
    rows = [
        ("state", f"{document['state']} for {_lasted(document['since'], now)}"),
        ("health", f"{document['result']}: {document['message']}"),
        ("wanted", _target(wanted) if wanted else "nothing"),
        ("runs", _running(document, wanted, active)),
    ]
    if document.get("phase"):
        phase = document["phase"]
        rows.append(("phase", f"{phase['name']} for {_lasted(phase['since'], now)}: {phase['message']}"))
    if document.get("phases"):
        rows.append(("phases", _phases(document["phases"])))
    download = document["download"]
    if download:
        rows.append(("download", told(download)))
    warm = document.get("warm")
    if warm and not _hastens(document) and (start := _warm(warm)) != PLAIN:
        rows.append(("next start", start))
    if document["nextTry"]:
        rows.append(("next try", f"in {_lasted(now.isoformat(), _moment(document['nextTry']))}"))
    if document.get("evidence"):
        rows.append(("evidence", plain(document["evidence"])))
    rows.append(("to do", _advice(document)))
    if document.get("fix"):
        rows.append(("", TAKE))
    return table.rows(rows, max(table.NARROWEST, columns), WIDTH)


def _target(target: dict[str, Any]) -> str:
    variables = "".join(f" {name}=…" for name in target["environment"])
    return f"{shlex.join(target['arguments'])}{variables and ', with' + variables}"


def _phases(phases: list[dict[str, Any]]) -> str:
    """Return the phases of a start with their times, and in front the sum of several."""
    told = ", ".join(f"{phase['name']} {phase['seconds']:.1f} s" for phase in phases)
    total = sum(phase["seconds"] for phase in phases)
    return f"{total:.1f} s: {told}" if len(phases) > 1 else told


def _running(document: dict[str, Any], wanted: dict[str, Any] | None, active: dict[str, Any] | None) -> str:
    process = "not yet a process"
    if document["pid"]:
        process = f"process {document['pid']}"
    elif _hastens(document):
        process = "its processes are importing vLLM"
    what = "what is wanted" if active == wanted else _target(active) if active else "the last engine"
    if document.get("fallback"):
        what = f"the fallback, {what}"
    match document["engine"]:
        case "Alive" if document["state"] == "Ready":
            return f"{what}, {process}, start number {document['attempt']}"
        case "Alive":
            return f"{what}, starting, {process}, start number {document['attempt']}"
        case "Terminating":
            return f"the last engine, being stopped, {process}"
        case _:
            return "no engine"


def _hastens(document: dict[str, Any]) -> bool:
    """Whether the present start waits for a warm parent that is made in haste."""
    warm = document.get("warm")
    waits = document["engine"] == "Alive" and not document["pid"]
    return waits and warm is not None and warm["hasty"] and warm["state"] == "preparing"


def _warm(warm: dict[str, Any]) -> str:
    match warm["state"]:
        case "ready":
            count = warm["processes"]
            many = "a process" if count == 1 else f"{count} processes"
            return f"warm: {many} with all imported, {gb(warm['memory'])} GB, made in {warm['cpuSeconds']} s of CPU"
        case "preparing":
            return f"{_otherwise(warm)}, until a warm one is prepared"
        case _:
            return f"{_otherwise(warm)}{': ' + warm['why'] if warm['why'] else ''}"


def _otherwise(warm: dict[str, Any]) -> str:
    return "in haste" if warm["hasty"] else PLAIN


def _advice(document: dict[str, Any]) -> str:
    fix = document.get("fix")
    if fix:
        comes = document["state"] in ("Loading", "Downloading") and not document.get("fallback")
        meanwhile = "wait, or " if comes else ""
        return f"{meanwhile}serve the same model with {fix['change']}, which fits, by"
    match document["state"]:
        case "NoModel":
            return "choose a model"
        case "Ready" if document["reason"]:
            return 'change what the message names, or run "vllm-fsm retry"'
        case "Ready":
            return "nothing"
        case "Failed" if document["reason"] == "Stopping":
            return "nothing"
        case "Failed":
            if document["nextTry"]:
                return 'nothing: it is tried again by itself; "vllm-fsm retry" does it now'
            return 'change what the message names, or run "vllm-fsm retry"'
        case _:
            return "wait"


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _lasted(since: str, now: datetime) -> str:
    seconds = max(0.0, (now - _moment(since)).total_seconds())
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
