"""`store.json`: what is wanted."""

from __future__ import annotations

import os
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from vllm_fsm.core.snapshot import Message
from vllm_fsm.files.reading import (
    OBJECT,
    WHOLE,
    Broken,
    Good,
    Missing,
    Object,
    Reading,
    json_type,
    parse_object,
    read_bytes,
)

MODE: Final = 0o600
"""It may hold tokens."""

M = TypeVar("M", bound=BaseModel)

_EXPECTED = {
    "string_type": "a string",
    "string_unicode": "a string",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": OBJECT,
    "dict_type": OBJECT,
}


class FileModel(BaseModel):
    """A JSON object of ours: camelCase in the file, unknown fields kept, nothing converted, nothing shown by `repr`."""

    model_config = ConfigDict(
        extra="allow",
        alias_generator=to_camel,
        strict=True,
        frozen=True,
        # An error that escapes must not show what stands in the file.
        hide_input_in_errors=True,
    )

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return []


class EnvironmentVariable(FileModel, defer_build=True):
    """One variable for the engine."""

    name: str
    value: str


class ModelSelection(FileModel, defer_build=True):
    """What was chosen in Set Model; fills its form again. The controller does not look at it."""

    selection: str | None = None
    """The id of a preset, or `custom`."""
    custom_args: str | None = None
    custom_env: list[EnvironmentVariable] | None = None


class Store(FileModel):
    """The contents of `store.json`."""

    serve_args: list[str] | None = None
    """What follows `vllm serve`. Absent, null or empty: nothing is wanted."""
    serve_env: list[EnvironmentVariable] | None = None
    model_selection: ModelSelection | None = Field(default=None)

    def environment(self) -> tuple[tuple[str, str], ...]:
        """Return names and values as they stand in the file."""
        return tuple((variable.name, variable.value) for variable in self.serve_env or ())


def shaped(path: str | os.PathLike[str], content: Object, model: type[M]) -> Good[M] | Broken:
    """Return `content`, which was read from `path`, as a `model`, or the first field that has the wrong shape."""
    try:
        return Good(model.model_validate(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    name = os.fspath(path)
    where = _field(first["loc"])
    if first["type"] == "missing":
        return Broken(Message.of("FileFieldMissing", file=name, field=where))
    expected = _EXPECTED.get(first["type"], "something else")
    found = json_type(first["input"])
    return Broken(Message.of("FileWrongShape", file=name, field=where, expected=expected, found=found))


def parse_store(path: str | os.PathLike[str], raw: bytes) -> Reading[Store]:
    """Return the store in `raw`, which was read from `path`."""
    content = parse_object(path, raw)
    return shaped(path, content.value, Store) if isinstance(content, Good) else content


def read_store(path: str | os.PathLike[str]) -> Reading[Store]:
    """Return the store at `path`; a missing file is a store in which nothing is wanted."""
    raw = read_bytes(path)
    if isinstance(raw, Missing):
        return Good(Store())
    return parse_store(path, raw.value) if isinstance(raw, Good) else raw


def _field(location: tuple[int | str, ...]) -> str:
    """Write `("serveEnv", 0, "value")` as `serveEnv[0].value`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".") or WHOLE
