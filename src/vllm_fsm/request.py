"""Requests to the running controller: one small file in the run directory, written by a command, taken away by us.

Files cross the borders of containers, signals don't. `{"schema": 1, "request": "retry", "at": "<RFC 3339>"}`.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Final

from vllm_fsm.files.reading import Broken, Empty, Good, Missing, Object, Reading, read_object
from vllm_fsm.files.writing import replace

if TYPE_CHECKING:
    from vllm_fsm.adapters.ports import Clock, Log

NAME: Final = "request.json"
TAKEN: Final = ".request.json.taken"
SCHEMA: Final = 1
MODE: Final = 0o644
LIMIT: Final = 64 * 1024
"""Bytes."""
SETTLE: Final = 0.25
"""Seconds for which a request may be half-written before it counts as broken."""


class Kind(Enum):
    """What can be asked for."""

    RETRY = "retry"
    """Try again what has failed."""


@dataclass(frozen=True, slots=True)
class Request:
    """Something that was asked for."""

    kind: Kind
    at: str
    """When, as it was written (RFC 3339)."""


def write_request(run_dir: str | os.PathLike[str], kind: Kind, now: datetime | None = None) -> None:
    """Ask the controller of `run_dir`. Raises `vllm_fsm.files.writing.Refused`."""
    at = (now or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    replace(os.path.join(run_dir, NAME), {"schema": SCHEMA, "request": kind.value, "at": at}, MODE)


class Requests:
    """Takes requests out of a run directory. `again`: monotonic time at which to look again, None for no such time."""

    def __init__(self, run_dir: str | os.PathLike[str], *, clock: Clock, log: Log) -> None:
        self.path = os.path.join(run_dir, NAME)
        self.again: float | None = None
        self._taken = os.path.join(run_dir, TAKEN)
        self._clock = clock
        self._log = log
        self._stuck = False
        """What stands there can't be removed; said once."""

    def take(self) -> Request | None:
        """Return the request that stands there, which is removed; one that is not understood is removed and logged.

        Never raises for anything that the file can be.
        """
        reading = read_object(self.path, LIMIT)
        if isinstance(reading, Missing):
            self.again, self._stuck = None, False
            return None
        now = self._clock()
        if not isinstance(reading, Good):
            # Written by hand, perhaps, and not all of it yet.
            if self.again is None:
                self.again = now + SETTLE
            if now < self.again:
                return None
        self.again = None
        try:
            # Moved first, so that one that comes meanwhile is not removed unread; a directory stays where it is.
            if os.path.isdir(self.path) and not os.path.islink(self.path):
                raise IsADirectoryError(errno.EISDIR, "")
            os.rename(self.path, self._taken)
            request = self._understand(read_object(self._taken, LIMIT))
            os.unlink(self._taken)
        except OSError as error:
            if not self._stuck:
                self._stuck = True
                self._log("request-stuck", file=self.path, detail=os.strerror(error.errno or 0))
            return None
        self._stuck = False
        return request

    def _understand(self, reading: Reading[Object]) -> Request | None:
        match reading:
            case Good({"schema": 1, "request": str(kind), "at": str(at)}):
                if kind in (known.value for known in Kind):
                    return Request(Kind(kind), at[:64])
                self._log("request-unknown", file=self.path, request=kind[:64])
            case Good():
                self._log("request-unknown", file=self.path, detail=f"not a request of schema {SCHEMA}")
            case Broken(message) | Empty(message):
                self._log("request-broken", file=self.path, problem=message.id, params=dict(message.params))
            case Missing():
                pass
        return None
