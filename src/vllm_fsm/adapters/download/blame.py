"""What an error of an attempt means: the stable word, the numbers, whether trying again can help.

`huggingface_hub.errors` documents which answer of the hub raises what.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import ceil
from typing import Any

from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from vllm_fsm.adapters.download.hub import Hub, Locked
from vllm_fsm.adapters.download.room import NoRoom
from vllm_fsm.adapters.download.transfer import WrongContent
from vllm_fsm.weights.hub_cache import Unsafe
from vllm_fsm.weights.needs import Repo
from vllm_fsm.weights.selection import NoWeights

GB = 1_000_000_000
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# fmt: off
_NOT_WRITABLE = frozenset({
    errno.EROFS, errno.EACCES, errno.EPERM,
    errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG,
})
# fmt: on
"""What does not pass by itself: no permission, or something else in a file's place."""
_QUERY = re.compile(r"(?<=\?)[^\s'\"]+")
"""In an address: a content network's holds a signature, which opens the file for whoever has it."""
LONGEST = 500
"""Characters of an error's own words."""
LONGEST_WAIT = 24 * 3600
"""Seconds that a hub may ask us to wait."""


@dataclass(frozen=True, slots=True)
class Blame:
    """A finding in the making, as it travels to the controller."""

    reason: str
    permanent: bool = False
    params: dict[str, str | int] = field(default_factory=dict)
    retry_after: float = 0.0
    evidence: str = ""


def blame(error: BaseException, repo: Repo, hub: Hub, silence: float) -> Blame:
    """Say what ended the attempt at `repo`."""
    reason, permanent, params = _cause(error, repo, hub, silence)
    return Blame(reason, permanent, params, _retry_after(error), _evidence(error))


def no_way(error: BaseException) -> Blame:
    """Say that the environment names no hub, or no way to it."""
    return Blame("HubSettingsWrong", True, {"error": _words(error)}, evidence=_evidence(error))


def _cause(error: BaseException, repo: Repo, hub: Hub, silence: float) -> tuple[str, bool, dict[str, str | int]]:
    named: dict[str, str | int] = {"repo": repo.id}
    match error:
        case HfHubHTTPError():
            return _refusal(error, repo, hub)
        case HFValidationError():
            return "ModelNotFound", True, named
        case NoRoom():
            named |= {"needed": _gb(error.needed, up=True), "free": _gb(error.free), "spare": _gb(error.spare)}
            if error.other == 0:
                return "VolumeTooSmall", True, named
            return "DiskFull", True, {**named, "other": _gb(error.other)}
        case NoWeights():
            return "NoWeights", True, named
        case Unsafe():
            return "UnsafeRepository", True, {**named, "what": _words(error)}
        case WrongContent():
            return "ChecksumWrong", False, {**named, "file": " ".join(error.path.split())[:200]}
        case Locked():
            return "CacheLocked", False, named
        case OSError() if error.errno in _FULL:
            return "VolumeFull", True, named
        case UnicodeEncodeError():
            # Of all that a request holds, only the token is sent as it is.
            return "TokenRefused", True, {"host": hub.host}
        case OSError() if error.errno is not None:
            # The network's errors come as the HTTP library's own.
            where = {"error": error.strerror or "", "path": str(error.filename or f"a file of {repo.id}")}
            return "CacheNotWritable", error.errno in _NOT_WRITABLE, {**where}
    if isinstance(error, hub.refused):
        causes = list(_causes(error))
        if any(isinstance(cause, socket.gaierror) for cause in causes) or _says(error, "name resolution", "not known"):
            return "HubNameUnknown", False, {"host": hub.host}
        if any(isinstance(cause, ssl.SSLError) for cause in causes) or _says(error, "certificate"):
            return "HubNotTrusted", False, {"host": hub.host}
        return "HubUnreachable", False, {"host": hub.host}
    if isinstance(error, hub.silent):
        return "DownloadStalled", False, {**named, "seconds": round(silence)}
    if isinstance(error, hub.broken):
        return "DownloadCut", False, named
    return "DownloadFailed", False, {"error": _words(error)}


def _refusal(error: HfHubHTTPError, repo: Repo, hub: Hub) -> tuple[str, bool, dict[str, str | int]]:
    status = error.response.status_code
    named: dict[str, str | int] = {"repo": repo.id}
    match error:
        case GatedRepoError():
            return ("GatedRepo" if status == 401 else "GatedRepoDenied"), True, named
        case RepositoryNotFoundError():
            return ("ModelNotFound" if hub.token else "ModelNotFoundOrPrivate"), True, named
        case RevisionNotFoundError():
            return "RevisionNotFound", True, {**named, "revision": repo.revision}
        case DisabledRepoError():
            return "RepoDisabled", True, named
    if status == 401:
        return "TokenRefused", True, {"host": hub.host}
    if status == 403:
        return "HubForbids", True, {**named, "host": hub.host}
    if status == 429:
        return "HubRateLimited", False, {"host": hub.host}
    if status == 404 and not error.response.headers.get("X-Error-Code"):
        return "NotAHub", True, {"host": hub.host}
    return "HubError", False, {"host": hub.host, "status": status}


def _retry_after(error: BaseException) -> float:
    """Return the seconds that the hub asks us to wait (RFC 9110, 10.2.3), 0 where it does not."""
    if not isinstance(error, HfHubHTTPError):
        return 0.0
    headers = error.response.headers
    asked = headers.get("Retry-After", "").strip()
    try:
        seconds = int(asked) if asked.isascii() and asked.isdigit() else _seconds_until(asked, headers.get("Date"))
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return float(min(max(0, seconds), LONGEST_WAIT))


def _seconds_until(moment: str, now: str | None) -> float:
    """By the hub's clock where it tells the time: ours may be wrong by years."""
    begins = parsedate_to_datetime(now) if now else datetime.now(UTC)
    return (parsedate_to_datetime(moment) - begins).total_seconds()


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: Any = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _words(error: BaseException) -> str:
    """Return what it says in one line."""
    return " ".join(_QUERY.sub("…", str(error)).split())[:LONGEST] or type(error).__name__


def _evidence(error: BaseException) -> str:
    return f"{type(error).__name__}: {_words(error)}"


def _says(error: BaseException, *fragments: str) -> bool:
    text = str(error).lower()
    return any(fragment in text for fragment in fragments)


def _gb(size: int, *, up: bool = False) -> str:
    return f"{(ceil(size / GB * 10) / 10 if up else size / GB):.1f}"
