"""What commands read of a running controller, and how they tell a dead one from a quiet one."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from vllm_fsm import lock
from vllm_fsm.adapters.health_file import NAME, STALE

NOT_RUNNING = "The controller is not running."


def health(run_dir: Path) -> dict[str, Any]:
    """Return the content of `health.json`, or what stands for it when nobody keeps it up to date."""
    if not lock.held(run_dir):
        return _absent("NotRunning", f"{NOT_RUNNING} No process holds {run_dir}.")
    path = run_dir / NAME
    try:
        age = time.time() - os.stat(path).st_mtime
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return _absent("Starting", "The controller is starting.")
    except (OSError, ValueError) as error:
        return _absent("Unreadable", f"{path} cannot be read: {error}.")
    if age > STALE:
        return _absent("Stuck", f"The controller has not been heard of for {age:.0f} s. Restart it.")
    if not isinstance(document, dict):
        return _absent("Unreadable", f"{path} holds no JSON object.")
    return document


def _absent(reason: str, message: str) -> dict[str, Any]:
    return {"state": None, "result": "failure", "message": message, "messageId": reason, "reason": reason}
