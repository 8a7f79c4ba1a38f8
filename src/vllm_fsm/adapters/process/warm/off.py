"""Whether there are warm parents at all, and what stands in their keeper's place where there are none.

Nothing else of this package is loaded then: every start of the controller would wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from vllm_fsm.adapters.process.warm.keeper import Given
    from vllm_fsm.adapters.process.warm.spare import Spare

OFF, AUTO, ON = "off", "auto", "on"


class Times(NamedTuple):
    """Seconds."""

    settle: float = 30.0
    """Of calm, before a parent is made."""
    rest: float = 600.0
    """Without haste after one failed, and with `auto` without any parent; doubled with every failure in a row."""
    patience: float = 1.0
    """In which a parent must take its order, and vLLM's files be looked at; after that the start is a plain one."""


DEFAULT: Final = Times()


class NoKeeper:
    """Has the methods of `keeper.Keeper`, and never a warm parent."""

    changed: Callable[[], None]

    def look(self, given: Given | None, *, calm: bool, soon: bool) -> None:
        """Know what the next start would be given; nothing follows."""

    def hasten(self, given: Given) -> None:
        """Know that a start follows; nothing is made for it."""

    async def hastened(self) -> None:
        """There is nothing to wait for."""

    def started(self, session: int, given: Mapping[str, str], spare: Spare | None) -> None:
        """Know that an engine was executed; nothing is learnt."""

    def ended(self, *, asked: bool) -> None:
        """Know that the engine ended."""

    def claim(self, given: Given) -> Spare | None:
        """Return None: every start is a plain one."""

    async def become(self, spare: Spare, argv: Sequence[str], secret: str) -> str:
        """Return why it does not."""
        return "there are no warm parents"

    def failed(self, error: str) -> None:
        """Know of it."""

    def release(self, spare: Spare) -> None:
        """Throw away what cannot be there."""

    def report(self) -> None:
        """Return None: it is switched off."""

    async def close(self) -> None:
        """There is nothing to end."""
