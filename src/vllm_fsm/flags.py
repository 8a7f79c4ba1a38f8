"""The flags of `vllm serve`, as one version of vLLM has them: data that `vllm/flag_table.py` reads off its parser.

A table knows what the parser knows of each flag, and the names in registries that vLLM looks into only later. It does
not know which values a JSON object may hold below its first level, nor what plugins add.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

DIRECTORY: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")

NONE: Final = ("", "None")
"""Values by which a flag with an optional value is set to nothing (`vllm/engine/arg_utils.py`, `optional_type`)."""

_NAME = re.compile(r"flags-(\d+(?:\.\d+)*)\.json", re.ASCII)


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of `vllm serve`."""

    names: tuple[str, ...]
    """All long and short names. A switch has `--x` and `--no-x`, or only one of them."""
    values: str = "1"
    """How many values follow: `0`, `1`, `?` (one or none) or `+` (one or more)."""
    kind: str = "text"
    """What a value is: `text`, `integer`, `number`, `size` (an integer that may be written `1k` or `2M`), `size or
    auto`, `json`, `json or text` (JSON if it stands in braces), `object` (a JSON object with `keys`), `lora`
    (`name=path` or a JSON object), `folded` (a name; case and dashes do not count), `list` (of anything, separated by
    commas) or `unknown`."""
    optional: bool = False
    """The values in `NONE` set it to nothing."""
    choices: tuple[str | int, ...] = ()
    """The only values that are taken; empty: no such list."""
    known: tuple[str, ...] = ()
    """The values that vLLM knows by itself, where plugins may add others; empty: no such list."""
    keys: tuple[str, ...] = ()
    """The keys that a JSON object may have."""
    required: tuple[str, ...] = ()
    """The keys that it must have."""

    @property
    def name(self) -> str:
        """The name that messages say."""
        return next((name for name in self.names if name.startswith("--")), self.names[0])


@dataclass(frozen=True, slots=True)
class Table:
    """The flags of one version of vLLM."""

    version: str
    flags: Mapping[str, Flag]
    """By each of their names."""
    tool_call_parsers: tuple[str, ...]
    reasoning_parsers: tuple[str, ...]
    quantization_methods: tuple[str, ...]
    load_formats: tuple[str, ...]
    speculative_methods: tuple[str, ...]
    chat_templates: tuple[str, ...]
    """File names of the chat templates that vLLM finds without a directory."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Table:
        """Make the table from the content of its file."""
        flags = [_flag(row) for row in content["flags"]]
        return cls(
            version=content["version"],
            flags={name: flag for flag in flags for name in flag.names},
            tool_call_parsers=tuple(content["toolCallParsers"]),
            reasoning_parsers=tuple(content["reasoningParsers"]),
            quantization_methods=tuple(content["quantizationMethods"]),
            load_formats=tuple(content["loadFormats"]),
            speculative_methods=tuple(content["speculativeMethods"]),
            chat_templates=tuple(content["chatTemplates"]),
        )


def versions() -> tuple[str, ...]:
    """Return the versions of vLLM that there are tables of, the oldest first."""
    found = (match[1] for name in os.listdir(DIRECTORY) if (match := _NAME.fullmatch(name)))
    return tuple(sorted(found, key=lambda version: tuple(map(int, version.split(".")))))


def load(engine_version: str | None = None) -> Table:
    """Return the table of that version of vLLM, the newest one if there is none of it or it is not known.

    The part behind a `+` says how an engine was built and does not count.
    """
    there = versions()
    wanted = public(engine_version)
    version = wanted if wanted in there else there[-1]
    with open(os.path.join(DIRECTORY, f"flags-{version}.json"), encoding="utf-8") as file:
        return Table.of(json.load(file))


def public(version: str | None) -> str | None:
    """Return a version without how it was built: `0.32.0` of `0.32.0+cpu`."""
    return version and version.partition("+")[0]


def _flag(row: Mapping[str, Any]) -> Flag:
    return Flag(
        names=tuple(row["names"]),
        values=row.get("values", "1"),
        kind=row.get("type", "text"),
        optional=row.get("optional", False),
        choices=tuple(row.get("choices", ())),
        known=tuple(row.get("known", ())),
        keys=tuple(row.get("keys", ())),
        required=tuple(row.get("required", ())),
    )
