"""What is handed to `action run`: one JSON object, judged in words before anything is done with it."""

from __future__ import annotations

from typing import Final, TypeVar

from vllm_fsm.actions.problems import Problem, Rejected, rejected
from vllm_fsm.complaints import SHOWN, shown
from vllm_fsm.core.snapshot import Message
from vllm_fsm.files.reading import LIMIT, WHOLE, Broken, Good, Missing, Object, parse_object
from vllm_fsm.files.store import EnvironmentVariable, FileModel, shaped

INPUT: Final = "input"
"""The field of what concerns the input as a whole."""

_WORDS: Final = {
    "FileNotUtf8": "InputNotUtf8",
    "FileHasNul": "InputHasNul",
    "FileEmpty": "InputEmpty",
    "FileNotJson": "InputNotJson",
    "FileDuplicateKey": "InputDuplicateKey",
    "FileTooDeep": "InputTooDeep",
    "FileNumberTooLarge": "InputNumberTooLarge",
    "FileNotANumber": "InputNotANumber",
    "FileWrongShape": "InputWrongShape",
    "FileFieldMissing": "InputFieldMissing",
}
"""What is said of a file, and of the input."""

M = TypeVar("M", bound=FileModel)


class Nothing(FileModel):
    """The input of an action that needs none."""


class SetModel(FileModel):
    """The input of `set-model`: a `modelSelection`, and a token for the hub."""

    selection: str
    custom_args: str | None = None
    custom_env: list[EnvironmentVariable] | None = None
    hf_token: str | None = None


class DeleteModelCache(FileModel):
    """The input of `delete-model-cache`."""

    model: str
    force: bool | None = None


def parse(text: bytes, model: type[M]) -> M:
    """Return the input as a `model`.

    Raises:
        Rejected: it is no JSON object of that shape.
    """
    if len(text) > LIMIT:
        raise rejected(INPUT, "InputTooLarge", LIMIT, limit=LIMIT)
    content = parse_object(INPUT, text)
    assert not isinstance(content, Missing)
    if not isinstance(content, Good):
        raise _said(content.message, text)
    _know(content.value, model)
    shape = shaped(INPUT, content.value, model)
    if isinstance(shape, Broken):
        raise _said(shape.message, text)
    return shape.value


def _know(content: Object, model: type[FileModel], at: str = "") -> None:
    """See that every field is one of the model: a slip in a name must not be taken for nothing."""
    known = [field.alias or name for name, field in model.model_fields.items()]
    for name in content:
        if name not in known:
            where = at or (name if name.isidentifier() and len(name) <= SHOWN else INPUT)
            if not known:
                raise rejected(where, "NoFields", name=shown(name))
            raise rejected(where, "FieldUnknown", name=shown(name), known=", ".join(known))
    variables = content.get("customEnv")
    if model is SetModel and isinstance(variables, list):
        for number, variable in enumerate(variables):
            if isinstance(variable, dict):
                _know(variable, EnvironmentVariable, f"customEnv[{number}]")


def _said(message: Message, text: bytes) -> Rejected:
    """Say of the input what was said of a file."""
    params = {name: value for name, value in message.params if name != "file"}
    field, position = str(params.get("field", INPUT)), None
    if field == WHOLE:
        field, params = INPUT, params | {"field": "The input"}
    if message.id == "FileNotJson":
        before = text.decode("utf-8-sig").split("\n")[: int(params["line"]) - 1]
        position = sum(len(line) + 1 for line in before) + int(params["column"]) - 1
    return Rejected([Problem(Message.of(_WORDS[message.id], **params), field, position)])
