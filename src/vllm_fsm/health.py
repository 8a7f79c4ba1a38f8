"""What a person sees of a snapshot: a pure function from the state to a result and a message.

The schema of `health.json` is `document`; `docs/health.md` explains each field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from vllm_fsm import messages
from vllm_fsm.core.events import DownloadRetryDue, LookOverdue, NextDue, RestartDue, UnresponsiveDue
from vllm_fsm.core.policy import PORT_TAKEN
from vllm_fsm.core.snapshot import Finding, Message, Progress, Snapshot, Target
from vllm_fsm.core.states import Download, Engine, Service

if TYPE_CHECKING:
    from vllm_fsm.fix import Fix

SCHEMA: Final = 1
EVIDENCE: Final = 500
"""Characters of the evidence."""
Wall = Callable[[float], datetime]
"""From monotonic seconds to the time of day, UTC."""

RESULTS: Final[dict[Service, str]] = {
    Service.NO_MODEL: "failure",
    Service.DOWNLOADING: "loading",
    Service.LOADING: "loading",
    Service.READY: "success",
    Service.FAILED: "failure",
}


@dataclass(frozen=True, slots=True)
class Report:
    """The health of the service: StartOS's word for it, and the sentences."""

    result: str
    parts: tuple[Message, ...]

    @property
    def message(self) -> str:
        """The English sentences."""
        return messages.sentences(self.parts)


def report(snapshot: Snapshot, wall: Wall) -> Report:
    """Say what `snapshot` means to somebody who is no engineer."""
    return Report(RESULTS[snapshot.state], tuple(_PARTS[snapshot.state](snapshot, wall)))


def document(snapshot: Snapshot, wall: Wall, boot_id: str) -> dict[str, Any]:
    """Return the content of `health.json`."""
    health = report(snapshot, wall)
    first = health.parts[0]
    due = next_try(snapshot)
    return {
        "schema": SCHEMA,
        "state": snapshot.state.value,
        "result": health.result,
        "message": health.message,
        "messageId": first.id,
        "params": dict(first.params),
        "parts": listed(health.parts),
        "reason": reason(snapshot),
        "evidence": evidence(snapshot),
        "fix": _offered(fix(snapshot)),
        "since": timestamp(wall(snapshot.since)),
        "attempt": snapshot.epoch,
        "engine": snapshot.engine.value,
        "pid": snapshot.pid,
        "target": _target(snapshot.target),
        "active": _target(snapshot.active),
        "fallback": snapshot.fallen_back,
        "phase": _phase(snapshot, wall),
        "phases": phases(snapshot),
        "download": download(snapshot.progress) if snapshot.progress and downloading(snapshot) else None,
        "nextTry": None if due is None else timestamp(wall(due)),
        "warnings": [messages.document(warning) for warning in snapshot.warnings],
        "bootId": boot_id,
    }


def cause(snapshot: Snapshot) -> Finding | None:
    """What stands in the way of what is wanted, None if nothing does."""
    if snapshot.fallen_back:
        return snapshot.next_problem
    return snapshot.finding or snapshot.fetch_finding or snapshot.next_problem


def reason(snapshot: Snapshot) -> str | None:
    """The stable word of the cause."""
    found = cause(snapshot)
    return found.reason if found else None


def evidence(snapshot: Snapshot) -> str | None:
    """The verbatim words that the cause was read from: one line of at most `EVIDENCE` characters, for any terminal."""
    from vllm_fsm.redaction import plain  # which knows our own words from here

    found = cause(snapshot)
    return None if found is None else plain(" ".join(found.evidence.split()))[:EVIDENCE] or None


def fix(snapshot: Snapshot) -> Fix | None:
    """What would mend the failure of the engine that is wanted, where it named a number; it is never taken here."""
    finding, target = snapshot.finding, snapshot.target
    if snapshot.fallen_back:
        finding = snapshot.next_problem
    elif snapshot.active != target:
        return None
    if finding is None or target is None:
        return None
    return _mended(finding.message, target.arguments, target.environment)


@lru_cache(maxsize=1)
def _mended(failure: Message, arguments: tuple[str, ...], environment: tuple[tuple[str, str], ...]) -> Fix | None:
    """Work a fix out once for a failure. The rules take 15 ms to load, which only a failure has to wait for."""
    from vllm_fsm.fix import REASONS, mend
    from vllm_fsm.flags import load

    return mend(failure, arguments, environment, load()) if failure.id in REASONS else None


def downloading(snapshot: Snapshot) -> bool:
    """Whether a download runs or waits for its next try."""
    return snapshot.download in (Download.RUNNING, Download.WAITING)


def next_try(snapshot: Snapshot) -> float | None:
    """When something is tried again by itself, None if nothing has its time set."""
    timers = (RestartDue, DownloadRetryDue, UnresponsiveDue, NextDue)
    return min((at for at in map(snapshot.due, timers) if at is not None), default=None)


def phases(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The phases of the latest start that are over, with the seconds that each took."""
    ends = zip(snapshot.phases, snapshot.phases[1:], strict=False)
    return [{"name": one.phase.value, "seconds": round(next_.since - one.since, 3)} for one, next_ in ends]


def listed(parts: Iterable[Message]) -> list[dict[str, Any]]:
    """Messages by id and parameters, for other languages."""
    return [_message(part) for part in parts]


def timestamp(moment: datetime) -> str:
    """RFC 3339, UTC, milliseconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


# --- the sentences of each state ---------------------------------------------------------------------------------


def _no_model(snapshot: Snapshot, _wall: Wall) -> list[Message]:
    return [Message.of("NoModel"), *snapshot.warnings]


def _downloading(snapshot: Snapshot, wall: Wall) -> list[Message]:
    parts = []
    due = snapshot.due(DownloadRetryDue)
    if due is not None and snapshot.fetch_finding is not None:
        parts += [snapshot.fetch_finding.message, Message.of("NextTry", time=_clock(wall, due))]
    target = snapshot.target
    parts.append(_progress("Downloading", snapshot.progress, target.model if target else ""))
    parts.append(Message.of("Loading"))
    return [*parts, *snapshot.warnings]


def _loading(snapshot: Snapshot, wall: Wall) -> list[Message]:
    due = snapshot.due(RestartDue)
    problem, active = snapshot.next_problem, snapshot.active
    if due is not None and snapshot.finding is not None:
        settings = snapshot.settings
        again = Message.of(
            "NextTryOf",
            time=_clock(wall, due),
            number=len(snapshot.crashes),
            most=settings.restart_intensity,
        )
        return [*_failures(snapshot, snapshot.finding), again, *snapshot.warnings]
    if snapshot.fallen_back and problem is not None and active is not None:
        parts = [Message.of("LoadingFallback", model=active.model), problem.message, *_mending(snapshot)]
    else:
        parts = [Message.of("Loading")]
    if snapshot.phase is not None:
        parts.append(snapshot.phase.message)
    if snapshot.note is not None and active is not None:
        parts.append(snapshot.note)
    if snapshot.engine is Engine.TERMINATING:
        parts.append(Message.of("StoppingLast"))
    return [*parts, *_overdue(snapshot), *snapshot.warnings]


def _ready(snapshot: Snapshot, _wall: Wall) -> list[Message]:
    problem = snapshot.next_problem
    active = snapshot.active
    if problem is not None and active is not None:
        serves = Message.of("ReadyFallback" if snapshot.fallen_back else "ReadyKept", model=active.model)
        return [serves, problem.message, *_mending(snapshot), *_tries(snapshot), *snapshot.warnings]
    if downloading(snapshot) and snapshot.target is not None:
        return [_progress("ReadyNext", snapshot.progress, snapshot.target.model), *snapshot.warnings]
    return [Message.of("Ready"), *_overdue(snapshot), *snapshot.warnings]


def _failed(snapshot: Snapshot, wall: Wall) -> list[Message]:
    finding = snapshot.finding
    assert finding is not None
    # With an active engine it is the engine that failed, whatever was tried for the next one.
    parts = [*_failures(snapshot, finding), *(_tries(snapshot) if snapshot.active is None else ())]
    due = snapshot.due(RestartDue)
    # A port is looked at every few seconds: its sentence says so, and a time would change as often.
    if due is not None and finding.reason != PORT_TAKEN:
        parts.append(Message.of("NextTry", time=_clock(wall, due)))
    return [*parts, *snapshot.warnings]


def _failures(snapshot: Snapshot, finding: Finding) -> list[Message]:
    """What failed and what would mend it: what is wanted, and the fallback after it."""
    active, problem = snapshot.active, snapshot.next_problem
    if snapshot.fallen_back and problem is not None and active is not None:
        also = Message.of("FailedFallback", model=active.model)
        return [problem.message, *_mending(snapshot), also, finding.message]
    return [finding.message, *_mending(snapshot)]


def _mending(snapshot: Snapshot) -> list[Message]:
    """What to do, where the engine named a number that would do."""
    found = fix(snapshot)
    return [] if found is None else [Message.of("FixOffered", change=str(found.change))]


def _overdue(snapshot: Snapshot) -> list[Message]:
    """What takes long while weights are looked for, which a disk that does not answer may do for ever."""
    if snapshot.download is not Download.CHECKING or snapshot.target is None or snapshot.due(LookOverdue) is not None:
        return []
    return [Message.of("LookOverdue", model=snapshot.target.model)]


def _tries(snapshot: Snapshot) -> list[Message]:
    """How often a download was tried before it was given up, where that says more than its last failure."""
    if downloading(snapshot) or snapshot.fetch_tries < 2:
        return []
    return [Message.of("TriedOften", number=snapshot.fetch_tries)]


_PARTS: Final[dict[Service, Callable[[Snapshot, Wall], list[Message]]]] = {
    Service.NO_MODEL: _no_model,
    Service.DOWNLOADING: _downloading,
    Service.LOADING: _loading,
    Service.READY: _ready,
    Service.FAILED: _failed,
}


def _progress(base: str, progress: Progress | None, model: str) -> Message:
    """Choose the sentence for what is known of a download; sizes in GB of 10⁹ bytes."""
    if progress is None or not progress.total:
        return Message.of(base, repo=progress.repo if progress else model)
    percent = min(100, int(100 * progress.done / progress.total))
    minutes = None if progress.eta is None else max(1, ceil(progress.eta / 60))
    if base == "ReadyNext":
        if minutes is None:
            return Message.of("ReadyNextSize", repo=progress.repo, percent=percent)
        return Message.of("ReadyNextTime", repo=progress.repo, percent=percent, minutes=minutes)
    size: dict[str, str | int] = {
        "repo": progress.repo,
        "done": f"{progress.done / 1e9:.1f}",
        "total": f"{progress.total / 1e9:.1f}",
        "percent": percent,
    }
    if not progress.speed:
        return Message.of("DownloadingSize", **size)
    speed = progress.speed / 1e6
    size["speed"] = round(speed) if speed >= 9.95 else f"{speed:.1f}"
    if minutes is None:
        return Message.of("DownloadingSpeed", **size)
    return Message.of("DownloadingTime", **size, minutes=minutes)


def _clock(wall: Wall, at: float) -> str:
    return wall(at).strftime("%H:%M:%S")


def _message(message: Message) -> dict[str, Any]:
    return {"id": message.id, "params": dict(message.params)}


def _phase(snapshot: Snapshot, wall: Wall) -> dict[str, Any] | None:
    now = snapshot.phase
    if now is None:
        return None
    return {"name": now.phase.value, "since": timestamp(wall(now.since)), "message": messages.text(now.message)}


def _target(target: Target | None) -> dict[str, Any] | None:
    """The parts of a target that are nobody's secret: variables by name only."""
    if target is None:
        return None
    return {
        "model": target.model,
        "arguments": list(target.arguments),
        "environment": [name for name, _ in target.environment],
    }


def _offered(found: Fix | None) -> dict[str, Any] | None:
    """A fix as `health.json` has it: the variables, which may be secret, are left out but for the one that changes."""
    if found is None:
        return None
    return {
        "name": found.change.name,
        "value": found.change.value,
        "change": str(found.change),
        "args": list(found.arguments),
        "message": messages.document(Message.of("FixOffered", change=str(found.change))),
    }


def download(progress: Progress) -> dict[str, Any]:
    """How far a download is, as `health.json` and the log have it; sizes in bytes, times in seconds."""
    return {
        "repo": progress.repo,
        "done": progress.done,
        "total": progress.total,
        "bytesPerSecond": None if progress.speed is None else round(progress.speed),
        "etaSeconds": None if progress.eta is None else round(progress.eta),
        "filesDone": progress.files_done,
        "files": progress.files,
    }


def told(download: Mapping[str, Any]) -> str:
    """Say the content of `download` to a person."""
    if download["total"] is None:
        return f"{download['repo']}: asking the hub what there is"
    share = 100 * download["done"] // max(1, download["total"])
    words = [f"{download['repo']}: {gb(download['done'])} of {gb(download['total'])} GB ({share} %)"]
    words.append(f"{download['filesDone']} of {download['files']} files")
    if download["bytesPerSecond"] is not None:
        words.append(f"{download['bytesPerSecond'] / 1e6:.1f} MB/s")
    if download["etaSeconds"] is not None:
        words.append(f"{ceil(download['etaSeconds'] / 60)} min left")
    return ", ".join(words)


def gb(size: int) -> str:
    """Return bytes as GB of 10⁹, for people."""
    return f"{size / 1e9:.{1 if size >= 1e9 else 3}f}"
