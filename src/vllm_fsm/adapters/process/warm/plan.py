"""Which processes an engine spawned, and with what environment: seen from outside, while one starts.

A process shows the environment that it was executed with until vLLM gives it a title, seconds later; a look a second
is enough. What was seen of one start is the plan for the spares of the next.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.process.warm.parent import VOLATILE

SPAWNED: Final = b"--multiprocessing-fork\0"
OURS: Final = b"parent.py\0"
NO_ANSWER: Final = "no answer"
"""Why a spare was not used whose environment is as planned."""
MOST: Final = 8
"""Spares of one process: more workers than that import at the same time anyway."""


class Node:
    """A process to be spawned: how its environment differs from the engine's first one, and what it spawns itself.

    The private TMPDIR is another one each time; its path stands as `{TMPDIR}` in values.
    """

    __slots__ = ("children", "values", "without")

    def __init__(self, values: Mapping[str, str], without: Iterable[str]) -> None:
        self.values = dict(values)
        self.without = frozenset(without)
        self.children: list[Node] = []

    @classmethod
    def seen(cls, environment: Mapping[str, str], given: Mapping[str, str]) -> Node:
        """Describe a process that shows `environment`, in an engine that was given `given`."""
        tmpdir = given.get("TMPDIR") or "\0"
        values = {
            name: value.replace(tmpdir, "{TMPDIR}")
            for name, value in environment.items()
            if name not in VOLATILE and given.get(name) != value
        }
        return cls(values, (name for name in given if name not in environment and name not in VOLATILE))

    def order(self, given: Mapping[str, str]) -> dict[str, Any]:
        """Return what the warm parent is told, for an engine that is given `given`."""
        environment = {name: value for name, value in given.items() if name not in (*self.without, *VOLATILE)}
        environment |= {name: value.replace("{TMPDIR}", given.get("TMPDIR", "")) for name, value in self.values.items()}
        return {"environment": environment, "children": [child.order(given) for child in self.children[:MOST]]}

    def count(self) -> int:
        """Return how many processes this is."""
        return 1 + sum(child.count() for child in self.children)


def root() -> Node:
    """Return the leader, which spawns nothing as far as is known."""
    return Node({}, ())


class Study:
    """Looks at one start, and brings `leader`, what is known, up to date.

    `given`: the engine's environment. `spares`: what a warm parent said of its children, see `parent`.
    """

    def __init__(self, leader: Node, session: int, given: Mapping[str, str], spares: Iterable[Any] = ()) -> None:
        self._session = session
        self._given = given
        self._nodes = {session: leader}
        self._spares: dict[int, tuple[Node, Node]] = {}
        """By pid: the parent's node, and its own."""
        self._place(leader, spares)

    def _place(self, parent: Node, spares: Iterable[Any]) -> None:
        for node, said in zip(tuple(parent.children), spares, strict=False):
            self._nodes[said["pid"]] = node
            self._spares[said["pid"]] = parent, node
            self._place(node, said["children"])

    def look(self) -> list[str]:
        """Look once; return for each spare that was spawned anew why: which variables were not as planned."""
        here = sorted((p for p in procfs.processes() if p.session == self._session), key=lambda one: one.start)
        living = {process.pid for process in here}
        reasons = []
        for process in here:
            parent = self._nodes.get(process.parent)
            if parent is None or process.pid in self._nodes:
                continue
            environment = _shown(process.pid)
            if environment is None:
                continue
            # Spares that were not taken are dead: what was spawned instead comes after those that were.
            gone = [node for pid, (above, node) in self._spares.items() if above is parent and pid not in living]
            parent.children = [node for node in parent.children if node not in gone]
            node = Node.seen(environment, self._given)
            seen = sum(1 for known in self._nodes.values() if known in parent.children)
            parent.children = [*parent.children[:seen], node]
            self._nodes[process.pid] = node
            reasons += [_difference(one.order(self._given)["environment"], environment) for one in gone]
        return reasons

    def end(self) -> None:
        """The engine serves: what waits still is not needed by such a start."""
        for pid, (above, node) in self._spares.items():
            if OURS in procfs.cmdline(pid):
                above.children = [child for child in above.children if child is not node]


def _difference(planned: Mapping[str, str], found: Mapping[str, str]) -> str:
    names = (name for name in {*planned, *found} - {*VOLATILE} if planned.get(name) != found.get(name))
    return ", ".join(sorted(names)) or NO_ANSWER


def _shown(pid: int) -> dict[str, str] | None:
    """Return the environment of a process that was spawned and has no title yet."""
    before = procfs.cmdline(pid)
    environment = procfs.environ(pid)
    if not before.endswith(SPAWNED) or procfs.cmdline(pid) != before:
        return None
    return dict(_variables(environment))


def _variables(block: bytes) -> Iterator[tuple[str, str]]:
    for entry in block.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals:
            yield os.fsdecode(name), os.fsdecode(value)
