"""What an error of an attempt means: the stable word, the numbers, whether trying again can help.

`huggingface_hub.errors` documents which answer of the hub raises what.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
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
_NOT_WRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
LONGEST = 500


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
    evidence = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST]
    return Blame(reason, permanent, params, _retry_after(error), evidence)


def _cause(error: BaseException, repo: Repo, hub: Hub, silence: float) -> tuple[str, bool, dict[str, str | int]]:
    named: dict[str, str | int] = {"repo": repo.id}
    match error:
        case HfHubHTTPError():
            return _refusal(error, repo, hub)
        case HFValidationError():
            return "ModelNotFound", True, named
        case NoRoom():
            return (
                "DiskFull",
                True,
                {**named, "needed": _gb(error.needed), "free": _gb(error.free), "other": _gb(error.other)},
            )
        case NoWeights():
            return "NoWeights", True, named
        case Unsafe():
            return "UnsafeRepository", True, {**named, "what": str(error)}
        case WrongContent():
            return "ChecksumWrong", False, {**named, "file": error.path[:200]}
        case Locked():
            return "CacheLocked", False, named
        case OSError() if error.errno in _FULL:
            return "VolumeFull", True, named
        case OSError() if error.errno in _NOT_WRITABLE:
            return "CacheNotWritable", True, {"error": error.strerror or "", "path": str(error.filename or "")}
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
    return "DownloadFailed", False, {"error": " ".join(str(error).split())[:LONGEST] or type(error).__name__}


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
    text = error.response.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(min(int(text), 24 * 3600))
    try:
        wait = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return 0.0
    return min(max(0.0, wait), 24 * 3600.0)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: Any = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _says(error: BaseException, *fragments: str) -> bool:
    text = str(error).lower()
    return any(fragment in text for fragment in fragments)


def _gb(size: int) -> str:
    return f"{size / GB:.1f}"
