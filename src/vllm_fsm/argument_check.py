"""Judge serve arguments and variables before an engine is started with them: what vLLM would refuse, and what we do.

`check` is pure. It never refuses what vLLM's own parser takes, apart from what is reserved for the service, and finds
nearly all that the parser refuses (compared with it in `tests/engine`). What neither it nor the table can know, it lets
pass with a note.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from vllm_fsm.arguments import MOST, effective, reserved, reserved_name, unpassable_value, usable_name
from vllm_fsm.command_line import Given, Line, Piece, read
from vllm_fsm.complaints import Complaint, Part, Severity, error, note, shown
from vllm_fsm.core.snapshot import Message
from vllm_fsm.flag_values import unknown
from vllm_fsm.flags import NONE, Table, public

PLUGINS: Final = "VLLM_PLUGINS"
"""The variable that says which plugins are loaded: they can add names to every registry."""

UNKNOWN: Final = ("NameUnknown", "NameUnknownMeant")
UNUSUAL: Final = ("NameUnusual", "NameUnusualMeant")

JINJA: Final = "{}\n"
"""A chat template without any of these is taken for a path (`vllm/renderers/chat_utils.py`)."""

LOAD_FORMAT: Final = "--load-format"
"""Its value may be in capitals, unlike the others' (`vllm/config/load.py`)."""

PATHLIKE: Final = 3
"""A parser plugin whose path is no longer is not loaded (`vllm/entrypoints/launchers/launcher.py`)."""


def check(
    arguments: Sequence[str],
    environment: Sequence[tuple[str, str]],
    table: Table,
    engine_version: str | None,
    *,
    exists: Callable[[str], bool],
) -> tuple[Complaint, ...]:
    """Return what is to be said about the arguments that follow `vllm serve` and about the engine's variables.

    `engine_version` is the engine's own (`vllm_fsm.engine_version`). With another one than the table's, or with None
    for unknown, what the table finds are notes. `exists` says whether there is a file of this name for the engine. What
    is reserved for the service is an error here; arguments that went through `vllm_fsm.arguments.effective` have none.
    """
    if len(arguments) > MOST:
        return _unusable(arguments, environment)
    ours = [*_reserved(arguments), *_variables(environment)]
    reserved_places = {place for found in reserved(arguments) for place in found.places}
    line = read(arguments, table)
    found = [*line.complaints, *_rules(line), *_names(line, table, environment), *_template(line, table, exists)]
    # Nothing is to be said about the value of a flag that has to go.
    found = [complaint for complaint in found if complaint.index not in reserved_places]
    if public(engine_version) != table.version:
        found = [*_other_version(table, engine_version), *(replace(one, severity=Severity.NOTE) for one in found)]
    complaints = [*ours, *sorted(found, key=lambda one: (one.severity is Severity.NOTE, one.index or 0))]
    if not any(complaint.severity is Severity.ERROR for complaint in complaints):
        complaints += _unusable(arguments, environment)
    return tuple(dict.fromkeys(complaints))


def _unusable(arguments: Sequence[str], environment: Sequence[tuple[str, str]]) -> tuple[Complaint, ...]:
    problem = effective(arguments, environment).problem
    if problem is None:
        return ()
    return (Complaint(Severity.ERROR, Message("ArgumentsUnusable", problem.message.params)),)


def _reserved(arguments: Sequence[str]) -> Iterable[Complaint]:
    for found in reserved(arguments):
        yield error("ArgumentReserved", found.places[0], argument=found.name)


def _variables(environment: Sequence[tuple[str, str]]) -> Iterable[Complaint]:
    seen: set[str] = set()
    for index, (name, value) in enumerate(environment):
        if not usable_name(name):
            # A token in the place of a name must not be repeated.
            message = Message.of("VariableNameUnusable", number=index + 1)
        elif reserved_name(name):
            message = Message.of("VariableReserved", name=name)
        elif name in seen:
            message = Message.of("VariableTwice", name=name)
        elif detail := unpassable_value(name, value):
            message = Message.of("VariableValueUnusable", detail=detail)
        else:
            seen.add(name)
            continue
        yield Complaint(Severity.ERROR, message, Part.ENVIRONMENT, index)


def _other_version(table: Table, engine_version: str | None) -> Iterable[Complaint]:
    if engine_version is None:
        yield note("VersionUnknown", None, known=table.version)
    else:
        yield note("VersionOther", None, engine=engine_version, known=table.version)


def _rules(line: Line) -> Iterable[Complaint]:
    """What `validate_parsed_serve_args` refuses (`vllm/entrypoints/launchers/cli_args.py`)."""
    if (auto := _on(line, "--enable-auto-tool-choice")) and _text(line, "--tool-call-parser") in (None, *NONE):
        yield error("FlagNeedsFlag", auto.place.index, flag=auto.flag.name, other="--tool-call-parser")
    if (outputs := _on(line, "--enable-log-outputs")) and not _on(line, "--enable-log-requests"):
        yield error("FlagNeedsFlag", outputs.place.index, flag=outputs.flag.name, other="--enable-log-requests")
    if (metrics := _on(line, "--enable-per-request-metrics")) and _on(line, "--disable-log-stats"):
        yield error("FlagsExclude", metrics.place.index, flag=metrics.flag.name, other="--disable-log-stats")
    if (interval := line.last("--sse-keep-alive-interval")) and interval.values:
        value = interval.values[-1]
        if _negative(value.text):
            yield error("ValueNegative", value.index, value.offset, flag=interval.flag.name, value=shown(value.text))


def _names(line: Line, table: Table, environment: Sequence[tuple[str, str]]) -> Iterable[Complaint]:
    """What vLLM looks up in its registries only after the parser, some of it minutes later."""
    plugins = any(name == PLUGINS for name, _ in environment)
    tools = plugins or len(_text(line, "--tool-parser-plugin") or "") > PATHLIKE
    reasoning = plugins or len(_text(line, "--reasoning-parser-plugin") or "") > PATHLIKE
    # Without automatic tool choice, the tool parser's name is not looked up.
    unused = _on(line, "--enable-auto-tool-choice") is None
    yield from _name(line, "--tool-call-parser", table.tool_call_parsers, doubt=tools or unused)
    yield from _name(line, "--reasoning-parser", table.reasoning_parsers, doubt=reasoning)
    yield from _name(line, "--quantization", table.quantization_methods, doubt=plugins)
    yield from _name(line, LOAD_FORMAT, table.load_formats, doubt=plugins)
    yield from _speculation(line, table)
    for given in line.given:
        for value in given.values:
            if given.flag.kind == "unknown":
                yield note("ValueNotChecked", value.index, value.offset, flag=given.flag.name)
            elif given.flag.known and value.text not in given.flag.known:
                message = unknown(given.flag.name, value.text, given.flag.known, UNUSUAL)
                yield _at(value, Severity.NOTE, message)


def _name(line: Line, flag: str, names: tuple[str, ...], *, doubt: bool) -> Iterable[Complaint]:
    given = line.last(flag)
    if given is None or not given.values:
        return
    value = given.values[-1]
    text = value.text.lower() if flag == LOAD_FORMAT else value.text
    if text in ("", *names):
        return
    if given.flag.optional and value.text in NONE:
        return
    message = unknown(given.flag.name, value.text, names, UNUSUAL if doubt else UNKNOWN)
    yield _at(value, Severity.NOTE if doubt else Severity.ERROR, message)


def _speculation(line: Line, table: Table) -> Iterable[Complaint]:
    given = line.last("--speculative-config")
    if given is None or not given.values or given.values[-1].text in NONE:
        return
    value = given.values[-1]
    try:
        content = json.loads(value.text)
    except (ValueError, RecursionError):
        return  # told already
    if content is None:
        return
    if not isinstance(content, dict):
        yield error("ValueNoObject", value.index, value.offset, flag=given.flag.name)
        return
    method = content.get("method")
    if isinstance(method, str) and method not in table.speculative_methods:
        message = unknown(f"{given.flag.name} method", method, table.speculative_methods, UNKNOWN)
        index = value.keys.get("method", value.index)
        at = 0 if value.keys else value.offset + max(value.text.find(json.dumps(method)), 0)
        yield Complaint(Severity.ERROR, message, Part.ARGUMENTS, index, at)


def _template(line: Line, table: Table, exists: Callable[[str], bool]) -> Iterable[Complaint]:
    given = line.last("--chat-template")
    if given is None or not given.values:
        return
    value = given.values[-1]
    if value.text in (*NONE, *table.chat_templates) or any(letter in value.text for letter in JINJA):
        return
    if not exists(value.text):
        yield error("ChatTemplateMissing", value.index, value.offset, path=shown(value.text))


def _at(value: Piece, severity: Severity, message: Message) -> Complaint:
    return Complaint(severity, message, Part.ARGUMENTS, value.index, value.offset)


def _on(line: Line, name: str) -> Given | None:
    """Return the switch if it is on in the end."""
    given = line.last(name)
    return None if given is None or given.name.startswith("--no-") else given


def _text(line: Line, name: str) -> str | None:
    """Return the value that counts of a flag with one value."""
    given = line.last(name)
    return given.values[-1].text if given is not None and given.values else None


def _negative(text: str) -> bool:
    try:
        return int(text) < 0
    except ValueError:
        return False
