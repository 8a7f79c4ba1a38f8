"""Which cached models are needed: pure functions of what the controller says and what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vllm_fsm.arguments import effective
from vllm_fsm.core.snapshot import Message, Secret, Target
from vllm_fsm.files.reading import Broken, Empty, Good, Reading
from vllm_fsm.weights.needs import named

if TYPE_CHECKING:
    from vllm_fsm.files.store import Store

ROOM: Final = ("DiskFull", "VolumeTooSmall", "VolumeFull")
"""Reasons of a failure that more room takes away."""


@dataclass(frozen=True, slots=True)
class Use:
    """The repositories that are needed: models, and their tokenizers, draft models and adapters."""

    served: frozenset[str] = frozenset()
    """By the engine that runs or is starting."""
    selected: frozenset[str] = frozenset()
    """By what is to be served; being downloaded, perhaps."""
    unknown: Message | None = None
    """Why it is not known what is selected."""

    def __contains__(self, name: object) -> bool:
        return name in self.served or name in self.selected


def use(document: Mapping[str, Any], store: Reading[Store], path: str) -> Use:
    """Return what is needed by `document`, the content of `health.json`, and by `store`, which was read from `path`.

    A document without `target` and `active` says that no controller can be asked: then the store alone counts.
    """
    served = _described(document.get("active"))
    selected = _described(document.get("target"))
    download = document.get("download")
    if isinstance(download, Mapping) and isinstance(repo := download.get("repo"), str):
        selected |= {repo}
    unknown = None
    match store:
        case Good(content):
            wanted = effective(content.serve_args or (), content.environment())
            # Without a model something is wrong with them; what stands first is meant as one all the same.
            selected |= _of(wanted.arguments, wanted.model or next(iter(wanted.arguments), ""))
        case Broken() | Empty() if "target" not in document:
            # A running controller keeps to the last good content, which is its target.
            unknown = Message.of("SelectionUnknown", file=path)
    return Use(served, selected, unknown)


def lacks_room(document: Mapping[str, Any]) -> bool:
    """Whether the controller has failed for a reason that a deletion may take away."""
    return document.get("reason") in ROOM


def _described(target: object) -> frozenset[str]:
    match target:
        case {"model": str(model), "arguments": [*arguments]}:
            return _of(tuple(map(str, arguments)), model)
    return frozenset()


def _of(arguments: tuple[str, ...], model: str) -> frozenset[str]:
    return named(Target(arguments, (), Secret(""), model))
