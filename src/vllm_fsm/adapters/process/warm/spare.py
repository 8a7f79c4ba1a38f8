"""One warm parent: a process that becomes an engine when it is told to, or is thrown away."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.process.attempt import Attempt
from vllm_fsm.adapters.process.warm import parent
from vllm_fsm.adapters.process.warm.plan import Node

if TYPE_CHECKING:
    from vllm_fsm.adapters.process.warm.identity import Identity

LONGEST: Final = 1 << 20
"""Bytes of an answer."""
ROOM: Final = 32 * 1024
"""Bytes of arguments that an engine can be shown with: all of them, by far."""
REMEMBERED: Final = 20
"""Lines of its own output that are kept, to explain an end by."""


class Broken(Exception):
    """The parent ended, or said something that it should not say; the text says which."""


class Spare:
    """What is known of it. `body` is what an engine start takes over: process, output, TMPDIR, mark.

    `given`: its environment, which is the engine's without what is given at the start only.
    `hasty`: a start waits for it.
    """

    def __init__(self, identity: Identity, body: Attempt, given: Mapping[str, str], *, hasty: bool = False) -> None:
        self.hasty = hasty
        self.identity = identity
        self.body = body
        self.given = given
        self.lines: deque[str] = deque(maxlen=REMEMBERED)
        self.warming: asyncio.Task[None] | None = None
        """Makes it, and waits until it is ready."""
        self.watching: asyncio.Task[None] | None = None
        """Looks after it from then on."""
        self.ready = False
        self.served = False
        """It became an engine that was ready."""
        self.memory = 0
        """Bytes, each page that several processes share in equal parts (PSS)."""
        self.seconds = 0.0
        """CPU time of the imports."""
        self.children: list[Any] = []
        """What it said of its own spares, see `parent`."""
        self._ours, self.theirs = socket.socketpair()
        self._ours.setblocking(False)

    def command(self) -> tuple[str, ...]:
        """Return the command that makes it."""
        identity = self.identity
        return (*identity.interpreter, parent.__file__, str(self.theirs.fileno()), identity.script, "-" * ROOM)

    async def warm(self, plan: Node) -> dict[str, Any]:
        """Tell it what to prepare; return what it says when all is imported. Raises Broken, OSError."""
        order = plan.order(self.given)
        await self._send({"depth": 0, "hasty": self.hasty, "children": order["children"]})
        said = await self._answer()
        try:
            touched = _touched(said)
        except (KeyError, TypeError, AttributeError) as error:
            raise Broken(f"it does not speak as it should: {error!r}") from None
        if touched:
            raise Broken("its imports initialise a GPU")
        self.children = said["children"]
        self.measure()
        self.ready = True
        return said

    def measure(self) -> None:
        """Take its memory and CPU time now."""
        session = self.body.process.pid if self.body.process is not None else 0
        family = [process.pid for process in procfs.processes() if process.session == session]
        self.memory = sum(procfs.memory(pid) for pid in family)
        self.seconds = sum(procfs.cpu_seconds(pid) for pid in family)

    async def become(self, argv: Sequence[str], secrets: Mapping[str, str], limit: float) -> None:
        """Let it be the engine that is started by `argv`, the console script first.

        Raises Broken, OSError, TimeoutError: then it must be killed.
        """
        words = [*self.identity.interpreter, self.identity.script, *argv[1:]]
        async with asyncio.timeout(limit):
            await self._send({"argv": words, "variables": dict(secrets)})
            if not (await self._answer()).get("taken"):
                raise Broken("it did not take the order")
        self.let_go()

    def let_go(self) -> None:
        """Close the socket: one that was not told to start ends."""
        self._ours.close()
        self.theirs.close()

    async def _send(self, message: object) -> None:
        await asyncio.get_running_loop().sock_sendall(self._ours, json.dumps(message).encode() + b"\n")

    async def _answer(self) -> dict[str, Any]:
        data = b""
        while not data.endswith(b"\n"):
            part = await asyncio.get_running_loop().sock_recv(self._ours, 1 << 16)
            data += part
            if not part:
                raise Broken(f"it ended: {self.lines[-1]}" if self.lines else "it ended")
            if len(data) > LONGEST:
                raise Broken("it says too much")
        try:
            said = json.loads(data)
        except ValueError as error:
            raise Broken(f"it does not speak as it should: {error}") from None
        if not isinstance(said, dict):
            raise Broken("it does not speak as it should")
        return {"children": [], **said}


def _touched(said: dict[str, Any]) -> bool:
    """Whether a GPU was initialised by a parent or one of its spares. Raises KeyError, TypeError, AttributeError."""
    if not isinstance(said["pid"], int):
        raise TypeError("pid")
    return any([bool(said["gpu"]), *(_touched(child) for child in said["children"])])
