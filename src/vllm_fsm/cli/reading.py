"""What commands read of a running controller, and how they tell a dead one from a quiet one."""

from __future__ import annotations

import json
import os
import time

from vllm_fsm import lock
from vllm_fsm.adapters.health_file import NAME, STALE
from vllm_fsm.files import own

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

NOT_RUNNING = "The controller is not running."
LIMIT = 4 * 1024 * 1024
"""Bytes of a health file; 1 MiB of arguments stands in it twice."""


def health(run_dir: str | Path) -> dict[str, Any]:
    """Return the content of `health.json`, or what stands for it when nobody keeps it up to date."""
    if not lock.held(run_dir):
        return _absent("NotRunning", f"{NOT_RUNNING} No process holds {run_dir}.")
    path = os.path.join(run_dir, NAME)
    try:
        age = time.time() - os.stat(path).st_mtime
        document = json.loads(own.read(path, LIMIT))
    except FileNotFoundError:
        return _absent("Starting", "The controller is starting.")
    except OSError as error:
        return _absent("Unreadable", f"{path} cannot be read: {error.strerror}.")
    except (ValueError, RecursionError):
        return _absent("Unreadable", f"{path} cannot be read: it holds no JSON.")
    if age < -STALE:
        return _absent("Stuck", "The controller has not been heard of since the clock was set back. Restart it.")
    if age > STALE:
        return _absent("Stuck", f"The controller has not been heard of for {age:.0f} s. Restart it.")
    if not isinstance(document, dict):
        return _absent("Unreadable", f"{path} holds no JSON object.")
    if document.get("bootId") != boot_id():
        return _absent("Starting", "The controller is starting.")
    if not isinstance(document.get("message"), str) or not isinstance(document.get("result"), str):
        return _absent("Unreadable", f"{path} is no health file.")
    return document


def boot_id() -> str:
    """The kernel's: a file that an earlier boot left says nothing."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _absent(reason: str, message: str) -> dict[str, Any]:
    return {"state": None, "result": "failure", "message": message, "messageId": reason, "reason": reason}
