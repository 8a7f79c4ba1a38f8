"""What is known of the engine's processes, kept beyond the controller's life: so its first start can be a hasty one.

A hint and no more. What is wrong in it costs children that are not used, as a plan does that was true yesterday: a
child is used only where its environment is the one that the engine spawns with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from vllm_fsm.adapters.process.warm.parent import VOLATILE
from vllm_fsm.adapters.process.warm.plan import MOST, Node
from vllm_fsm.files import own

NAME: Final = "warm-plan.json"
LIMIT: Final = 64 * 1024
"""Bytes; three processes take one or two thousand."""
LARGEST: Final = 2 + MOST
"""Processes: a leader, its engine, and that one's workers."""


class Memo:
    """The file in `directory`. `redact` takes secrets out of a text: where a value holds one, nothing is kept."""

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
            content = own.read(self._path, LIMIT)
        except FileNotFoundError:
            return None
        try:
            text = content.decode()
            said = json.loads(text)
            version = said["version"]
            if not isinstance(version, str):
                raise TypeError("the version is no text")
            leader = _node(said["leader"], LARGEST)
            if leader.count() > LARGEST:
                raise ValueError("there are too many processes")
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(f"{self._path} is of no use: {error}") from None
        self._kept = text
        return version, leader

    def keep(self, version: str, leader: Node) -> None:
        """Write it down, unless it stands there already. What must not be kept leaves nothing there.

        Raises:
            OSError: it cannot be written.
            ValueError: it holds a secret, or is too much to be read again.
        """
        text = json.dumps({"version": version, "leader": _said(leader)})
        if text == self._kept:
            return
        self.forget()
        if any(self._redact(value) != value for value in _values(leader)):
            raise ValueError("a variable of one of the engine's processes holds a secret")
        if len(text) > LIMIT or leader.count() > LARGEST:
            raise ValueError("the engine has too many processes, or too many variables")
        # Not synced: what a power cut leaves of it is read as nothing.
        try:
            with open(own.open_anew(self._path, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
        except OSError:
            self._path.unlink(missing_ok=True)
            raise
        self._kept = text

    def forget(self) -> None:
        """Have the next controller begin without it.

        Raises:
            OSError: it cannot be removed.
        """
        self._kept = ""
        self._path.unlink(missing_ok=True)


def _values(node: Node) -> Iterator[str]:
    yield from node.values.values()
    for child in node.children:
        yield from _values(child)


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
        raise ValueError("there are too many processes")
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
