"""The log: structured lines on standard output, JSON or, on a terminal, for people.

One line for each transition, with the fields that the contract of the log names; the engine's own output line by line,
marked as the engine's. Every line passes the redaction, whoever wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from vllm_fsm import health, messages
from vllm_fsm.core.events import DownloadFailed, DownloadProgressed, EngineExited
from vllm_fsm.core.states import Engine
from vllm_fsm.stand_in import stand_in

if TYPE_CHECKING:
    from vllm_fsm.adapters.ports import Log
    from vllm_fsm.core.events import Event
    from vllm_fsm.core.snapshot import Snapshot

Fields = MutableMapping[str, Any]


class Lines(Protocol):
    """Takes finished lines."""

    def msg(self, line: str) -> None:
        """Take one line, without its end."""


TRANSITION: Final = "transition"
ENGINE_LINE: Final = "engine-output"
ENGINE: Final = "engine"
STARTED: Final = "engine-started"
EXITED: Final = "engine-exited"
PHASE: Final = "phase"
FALLBACK: Final = "fallback"
DOWNLOAD: Final = "download"
DOWNLOAD_FAILED: Final = "download-failed"
INDENTED: Final = "\n" + " " * 9
"""How a line goes on, on a terminal."""
BREAKING: Final = frozenset(' "=\t')
"""What a value is quoted for, on a terminal. Line ends stay: a traceback is for people."""
PROGRESS_EVERY: Final = 10.0
"""Seconds between two lines about a download, at least."""


def logger(lines: Lines, scrub: Callable[[Any], Any], stamp: Callable[[], str], *, console: bool) -> Log:
    """Return the function that hands one line to `lines`, in any thread.

    `scrub` takes secrets out of any value; `stamp` returns the time of day, RFC 3339.
    """
    structlog = _structlog()

    def clean(_logger: object, _method: str, fields: Fields) -> Fields:
        return {name: scrub(value) for name, value in fields.items()}

    def stamped(_logger: object, _method: str, fields: Fields) -> Fields:
        return {"time": stamp(), "event": fields.pop("event"), **fields}

    bound = structlog.wrap_logger(
        lines,
        processors=[clean, stamped, _for_people if console else _json],
        wrapper_class=structlog.BoundLoggerBase,
    )

    def log(event: str, /, **fields: object) -> None:
        bound._proxy_to_logger("msg", event, **fields)

    return log


def transition(log: Log, wall: health.Wall) -> Callable[[Snapshot, Event, Snapshot], dict[str, Any] | None]:
    """Return the observer that writes the line of a transition and returns its fields, None where there was none."""
    shown_at = float("-inf")

    def observe(before: Snapshot, event: Event, after: Snapshot) -> dict[str, Any] | None:
        nonlocal shown_at
        if isinstance(event, DownloadProgressed):
            if after.progress is event.progress and event.at - shown_at >= PROGRESS_EVERY:
                shown_at = event.at
                log(DOWNLOAD, **health.download(event.progress))
            return None
        if after.pid is not None and after.pid != before.pid:
            log(STARTED, attempt=after.epoch, pid=after.pid)
        if after.phases and after.phases[-1].phase is not (before.phases[-1].phase if before.phases else None):
            log(PHASE, **_phase(after))
        if isinstance(event, EngineExited) and after.dropped == before.dropped:
            asked = before.engine is Engine.TERMINATING
            log(EXITED, attempt=event.epoch, status=event.status, asked=asked, evidence=event.finding.evidence)
        if after.fallen_back and not before.fallen_back:
            log(FALLBACK, **_fallback(after))
        if isinstance(event, DownloadFailed) and after.dropped == before.dropped:
            finding = event.finding
            log(
                DOWNLOAD_FAILED,
                reason=finding.reason,
                message=messages.text(finding.message),
                permanent=finding.permanent,
                evidence=finding.evidence,
            )
        if after.state is before.state:
            if after.engine is not before.engine:
                log(ENGINE, **{"from": before.engine.value, "to": after.engine.value}, attempt=after.epoch)
            return None
        report = health.report(after, wall)
        found = health.cause(after)
        fields = {
            "trigger": type(event).__name__,
            "from": before.state.value,
            "to": after.state.value,
            "reason": found.reason if found else None,
            "message": report.message,
            "lasted": round(event.at - before.since, 3),
            "attempt": after.epoch,
            "engine": after.engine.value,
            "pid": after.pid,
            "parts": health.listed(report.parts),
            "evidence": found.evidence if found else "",
        }
        log(TRANSITION, **fields)
        return fields

    return observe


def _phase(snapshot: Snapshot) -> dict[str, Any]:
    """The fields of a phase that a start has come to, and the last phase with its seconds."""
    over = health.phases(snapshot)
    fields: dict[str, Any] = {"attempt": snapshot.epoch, "phase": snapshot.phases[-1].phase.value}
    return {**fields, "after": over[-1]["name"], "lasted": over[-1]["seconds"]} if over else fields


def _fallback(snapshot: Snapshot) -> dict[str, Any]:
    """The fields of a fallback: to which model, and why."""
    active, problem = snapshot.active, snapshot.next_problem
    assert active is not None
    assert problem is not None
    return {
        "model": active.model,
        "reason": problem.reason,
        "message": messages.text(problem.message),
        "evidence": problem.evidence,
    }


def _json(_logger: object, _method: str, fields: Fields) -> str:
    return json.dumps(fields, ensure_ascii=False, default=str)


def _for_people(_logger: object, _method: str, fields: Fields) -> str:
    # Whatever a value holds, no line but ours begins with the time.
    return _told(fields).replace("\n", INDENTED)


def _told(fields: Fields) -> str:
    clock = str(fields.pop("time"))[11:19]
    event = fields.pop("event")
    if event == ENGINE_LINE:
        return f"{clock}   │ {fields['line']}"
    if event == TRANSITION:
        lasted = f"{fields['lasted']:.1f} s" if fields["lasted"] < 120 else f"{fields['lasted'] / 60:.0f} min"
        return f"{clock} ● {fields['from']} → {fields['to']} after {lasted} ({fields['trigger']}): {fields['message']}"
    if event == ENGINE:
        return f"{clock} · engine {fields['from']} → {fields['to']} (start {fields['attempt']})"
    if event == PHASE:
        over = f" ({fields['after']} took {fields['lasted']:.1f} s)" if "after" in fields else ""
        return f"{clock} · start {fields['attempt']}: {fields['phase']}{over}"
    if event == DOWNLOAD:
        return f"{clock} ⇣ {health.told(fields)}"
    if "traceback" in fields:
        return f"{clock} · {event}\n{fields['traceback']}".rstrip()
    shown = " ".join(f"{name}={_quoted(value)}" for name, value in fields.items() if value is not None)
    return f"{clock} · {event} {shown}".rstrip()


def _quoted(value: object) -> str:
    """Return a value that cannot be taken for more fields: in quotes, as JSON, where it has a blank or is no text."""
    if isinstance(value, str) and value and not set(value) & BREAKING:
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _structlog() -> Any:
    """Import structlog without `rich`, which its development renderer would load: 100 ms and 10 MB for nothing."""
    with stand_in("rich"):
        import structlog
    return structlog
