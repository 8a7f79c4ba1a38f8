"""Why an action was refused: sentences with the field and the place that they are about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vllm_fsm.core.snapshot import Message
from vllm_fsm.messages import text as sentence


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, or that should be known."""

    message: Message
    field: str | None = None
    """Of the form, as in `customEnv[1].name`; None when no field is at fault."""
    position: int | None = None
    """The character in the field's text, counted from 0."""

    @property
    def code(self) -> str:
        """The stable word: the message's id."""
        return self.message.id

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "field": self.field,
            "code": self.code,
            "message": sentence(self.message),
            "params": dict(self.message.params),
            "position": self.position,
        }


class Rejected(Exception):
    """The action did nothing. The text says the first reason, and holds no value that was given."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(sentence(self.problems[0].message))


def rejected(field: str | None, id_: str, position: int | None = None, /, **params: str | int) -> Rejected:
    """Make a rejection for one reason."""
    return Rejected([Problem(Message.of(id_, **params), field, position)])
