"""What is known of the engine's processes, kept beyond the controller's life: so its first start can be a hasty one.

A hint and no more. What is wrong in it costs a child that is not used, as a plan does that was true yesterday: a child
is used only where its environment is the one that the engine spawns with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from vllm_fsm.adapters.process.warm.parent import VOLATILE
from vllm_fsm.adapters.process.warm.plan import Node
from vllm_fsm.files import own

NAME: Final = "warm-plan.json"
LIMIT: Final = 64 * 1024
"""Bytes; three processes take one or two thousand."""
DEEPEST: Final = 8
"""Generations of processes."""


class Memo:
    """The file in `directory`. `redact` takes secrets out of a text: what holds one is not kept."""

    def __init__(self, directory: Path, redact: Callable[[str], str]) -> None:
        self._path = directory / NAME
        self._redact = redact
        self._kept = ""

    def recall(self) -> tuple[str, Node] | None:
        """Return of which version of vLLM something is known, and what its leader spawns; None if nothing is.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not one of ours.
        """
        try:
            text = own.read(self._path, LIMIT).decode()
        except FileNotFoundError:
            return None
        try:
            said = json.loads(text)
            version = said["version"]
            if not isinstance(version, str):
                raise TypeError("the version is no text")
            leader = _node(said["leader"], DEEPEST)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(f"{self._path} is of no use: {error}") from None
        self._kept = text
        return version, leader

    def keep(self, version: str, leader: Node) -> None:
        """Write it down, unless it stands there already or holds a secret.

        Raises:
            OSError: it cannot be written.
        """
        text = json.dumps({"version": version, "leader": _said(leader)})
        if text == self._kept or len(text) > LIMIT or self._redact(text) != text:
            return
        # Not synced: what a power cut leaves of it is read as nothing.
        with open(own.open_anew(self._path, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        self._kept = text

    def forget(self) -> None:
        """Have the next controller begin without it.

        Raises:
            OSError: it cannot be removed.
        """
        self._kept = ""
        self._path.unlink(missing_ok=True)


def _said(node: Node) -> dict[str, Any]:
    return {
        "values": node.values,
        "without": sorted(node.without),
        "children": [_said(child) for child in node.children],
    }


def _node(said: Any, deepest: int) -> Node:
    values, without, children = said["values"], said["without"], said["children"]
    if not (isinstance(values, dict) and isinstance(without, list) and isinstance(children, list)):
        raise ValueError("a field is of another type")
    if not all(_variable(*entry) for entry in (*values.items(), *((name, "") for name in without))):
        raise ValueError("an entry is no variable")
    if children and not deepest:
        raise ValueError("there are too many generations")
    node = Node(values, without)
    node.children = [_node(child, deepest - 1) for child in children]
    return node


def _variable(name: object, value: object) -> bool:
    """Whether it can be one of a process's environment, and is not given at the start only."""
    if not isinstance(name, str) or not isinstance(value, str) or not name or name in VOLATILE:
        return False
    return "=" not in name and "\0" not in name + value and _encodable(name + value)


def _encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True
