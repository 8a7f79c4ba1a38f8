"""The questions that the probes ask: of the kernel about the port, of the engine about itself. No decisions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from vllm_fsm.adapters.aside import aside
from vllm_fsm.adapters.probes import answers, http
from vllm_fsm.adapters.probes.listeners import UNSEEN, Listener, Ownership, Survey, listening, survey
from vllm_fsm.core.snapshot import Finding

if TYPE_CHECKING:
    from vllm_fsm.adapters.ports import Clock
    from vllm_fsm.core.snapshot import Secret

ANSWER_LIMIT: Final = 1 << 20
"""Bytes of any answer but `/metrics`."""
METRICS_LIMIT: Final = 8 << 20
UNKNOWN_AGAIN: Final = 60.0
"""Seconds for which the same listeners without a visible holder are not looked at again: that reads all of `/proc`."""
SIGHTINGS: Final = 2
"""So many looks in a row must see a foreign listener: between two reads of `/proc` a process may come or go."""
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104


def port_taken(port: int, holder: str | None) -> Finding:
    """Say that somebody else has the port."""
    return Finding.of("PortTaken", port=port, holder=holder or UNSEEN)


class EngineApi:
    """One engine start, seen from outside. `host` is what the engine listens on, `session` its session's number.

    `guard_all`: it asks for the key at `/metrics` too.
    """

    def __init__(
        self,
        host: str,
        port: int,
        session: int,
        key: Secret,
        clock: Clock,
        answer_limit: float,
        *,
        guard_all: bool = False,
    ) -> None:
        self.host = host
        self.port = port
        self._address = _LOOPBACK.get(host, host)
        self._session = session
        self._key = key
        self._clock = clock
        self._limit = answer_limit
        self._guard_all = guard_all
        self._seen: frozenset[int] = frozenset()
        self._surveyed = Survey(Ownership.NONE)
        self._again = 0.0

    def listeners(self) -> tuple[Listener, ...]:
        """Return who listens where the engine should. Raises OSError, see `listeners.listening`."""
        return listening(self.port, self.host)

    async def owner(self) -> Survey:
        """Say whose the port's listeners are.

        The same sockets as last time have the same holder: a socket's number is not given again while it is open.
        """
        try:
            rows = self.listeners()
        except OSError:
            return Survey(Ownership.UNKNOWN)
        seen = frozenset(row.inode for row in rows)
        if seen != self._seen or self._clock() >= self._again:
            # All of /proc is read when the session does not hold the socket: not on the event loop.
            self._surveyed = await aside(survey, rows, self._session)
            self._seen = seen
            lasting = {Ownership.OURS: float("inf"), Ownership.UNKNOWN: UNKNOWN_AGAIN}
            self._again = self._clock() + lasting.get(self._surveyed.ownership, 0.0)
        return self._surveyed

    async def health(self) -> int:
        """Return the status of `/health`. Raises http.NoAnswer, as all questions to the engine do."""
        return (await self._ask("GET", "/health")).status

    async def models(self, *, key: bool) -> http.Response:
        """Return the answer of `/v1/models`, asked with or without our key."""
        return await self._ask("GET", "/v1/models", key=key)

    async def token(self, model: str, within: float) -> http.Response:
        """Ask `model` for one token after the prompt `[1]`; the limit is `within` seconds."""
        body = json.dumps({"model": model, "prompt": [1], "max_tokens": 1}).encode()
        return await self._ask("POST", "/v1/completions", key=True, body=body, within=within)

    async def steps(self) -> answers.Steps | None:
        """Return what moves when the engine steps, None when it cannot be read."""
        try:
            answer = await self._ask("GET", "/metrics", key=self._guard_all, limit_bytes=METRICS_LIMIT)
        except http.NoAnswer:
            return None
        return answers.steps(answer.body) if answer.status == 200 else None

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        key: bool = False,
        body: bytes = b"",
        limit_bytes: int = ANSWER_LIMIT,
        within: float | None = None,
    ) -> http.Response:
        headers = {"content-type": "application/json"} if body else {}
        if key:
            headers["authorization"] = f"Bearer {self._key.reveal()}"
        return await http.request(
            self._address,
            self.port,
            method,
            path,
            headers,
            body,
            limit_bytes=limit_bytes,
            timeout=self._limit if within is None else within,
        )
