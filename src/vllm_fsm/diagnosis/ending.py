"""From what was heard and how the engine ended to the one finding."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from vllm_fsm.core.snapshot import Finding, Param
from vllm_fsm.diagnosis.causes import CAUSES, READ, Cause
from vllm_fsm.diagnosis.tracebacks import VALIDATION, Said
from vllm_fsm.messages import parameters

LONGEST: Final = 500
"""Characters of an evidence."""
SHORTEST: Final = 300
"""Characters of the engine's words in a sentence of ours."""
SILENT: Final = "it printed nothing"
SHELL: Final = 128
"""A shell's status for a child that a signal ended is this and the signal's number."""
REFUSING: Final = frozenset({"ValueError", "KeyError", "TypeError", "NotImplementedError", "AssertionError"})
"""Classes that say of a value that it cannot be used."""
ALWAYS_REFUSING: Final = frozenset({VALIDATION, "VLLMValidationError"})


@dataclass(frozen=True, slots=True)
class Site:
    """What is known of a start besides its output."""

    model: str = ""
    """As a person writes it."""
    hub: str = "huggingface.co"
    port: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """How an engine ended."""

    status: int
    """As in `subprocess`: negative for a signal."""
    asked: bool = False
    """We asked it to end, or ended it."""
    oom_kills: int = 0
    """Processes that the kernel ended for want of memory meanwhile, in our own group."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the output says. Lines are redacted; an empty one was not there."""

    usage: str = ""
    """argparse's complaint."""
    known: Said | None = None
    loose: Said | None = None
    """Looks like a cause that is known, but stands alone."""
    unknown: Said | None = None
    fatal: str = ""
    """The last words of a crash below Python."""
    error: str = ""
    """The first error that a logger wrote and that is no exception."""
    last: str = ""
    vanished: str = ""
    """Says that a process of the engine ended."""
    died: tuple[int, str] | None = None
    """The signal, negative, by which one ended, and the line that says so."""
    warned: Mapping[str, str] = field(default_factory=dict)
    """Numbers of an earlier warning."""


def match(said: Said) -> Cause | None:
    """Return the first row of the table for `said`, whatever facts come later."""
    return next((cause for cause in CAUSES if cause.match(said.kind, said.text)), None)


def explain(heard: Heard, end: End, site: Site) -> Finding:
    """Say why the engine ended.

    A cause that the engine names comes before what can be concluded from its status, and a conclusion before a line
    that is only shown.
    """
    if end.status == 2 and heard.usage:
        return _usage(heard.usage)
    if heard.known is not None:
        return _known(heard.known, heard.warned, end, site)
    if end.asked:
        return Finding.of("EngineStopped", evidence=_cut(heard.last))
    return _killed(heard, end) or _said(heard, end, site)


def _usage(line: str) -> Finding:
    detail = line.partition(": error: ")[2].strip()
    return Finding.of(
        "BadArguments", permanent=True, evidence=line.strip()[:LONGEST], detail=detail[:LONGEST].rstrip(".")
    )


def _known(said: Said, warned: Mapping[str, str], end: End, site: Site) -> Finding:
    """Choose the row whose facts are there, and fill its sentence in."""
    facts: dict[str, Param] = {"repo": site.model, "host": site.hub, "port": site.port, **warned, **said.facts}
    line = _cut(said.line)
    for cause in CAUSES:
        if cause.status is not None and said.facts.get("status") != cause.status:
            continue
        found = cause.match(said.kind, said.text)
        if found is None:
            continue
        groups = {name: value for name, value in found.groupdict().items() if value is not None}
        told = facts | dict(_read(*group) for group in groups.items()) | {"line": line}
        if any(name not in told for name in (*cause.needs, *parameters(cause.reason))):
            continue
        params = {name: told[name] for name in parameters(cause.reason)}
        return Finding.of(cause.reason, permanent=cause.permanent, evidence=line, **params)
    return _exited(end.status, said.line)


def _read(name: str, value: str) -> tuple[str, str]:
    """Return the parameter that a group of the table is, and how it is told."""
    parameter, tell = READ.get(name, (name, str))
    return parameter, tell(value)


def _killed(heard: Heard, end: End) -> Finding | None:
    """What a violent end means, of the leader or of a process below it."""
    number = -end.status if end.status < 0 else max(0, end.status - SHELL)
    line = heard.last
    if heard.died is not None and number == 0:
        number, line = -heard.died[0], heard.died[1]
    silent = number == signal.SIGKILL or (number == 0 and heard.vanished and heard.unknown is None)
    if end.oom_kills > 0 and silent:
        return Finding.of("MachineMemoryFull", evidence=_cut(line or heard.vanished))
    if number:
        evidence = heard.unknown.line if heard.unknown else heard.fatal or line
        return Finding.of("EngineKilled", evidence=_cut(evidence), signal=_signal_name(number))
    return None


def _said(heard: Heard, end: End, site: Site) -> Finding:
    """What is left is shown, and called unknown where it is."""
    unknown = heard.unknown
    if unknown is not None:
        detail = unknown.text or unknown.kind
        if unknown.kind in ALWAYS_REFUSING or (unknown.refused and unknown.kind in REFUSING):
            return Finding.of(
                "ArgumentsRefused",
                permanent=unknown.kind in ALWAYS_REFUSING,
                evidence=_cut(unknown.line),
                detail=_cut(detail, SHORTEST).rstrip("."),
            )
        return _exited(end.status, unknown.line)
    if heard.loose is not None:
        return _known(heard.loose, heard.warned, end, site)
    if heard.vanished:
        return Finding.of("EngineVanished", evidence=_cut(heard.vanished))
    return _exited(end.status, heard.fatal or heard.error or heard.last)


def _exited(status: int, line: str) -> Finding:
    said = _cut(line, SHORTEST).rstrip(".") or SILENT
    return Finding.of("EngineExited", evidence=_cut(line), status=status, line=said)


def _cut(line: str, length: int = LONGEST) -> str:
    return line.strip()[:length]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
