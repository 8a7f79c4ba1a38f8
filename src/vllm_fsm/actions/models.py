"""The cached models: which there are and what needs them, and Delete Model Cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vllm_fsm import cache, request
from vllm_fsm.actions.problems import Problem, Rejected
from vllm_fsm.files.store import read_store
from vllm_fsm.files.writing import Refused

if TYPE_CHECKING:
    from vllm_fsm.actions.site import Site
    from vllm_fsm.core.snapshot import Message

MODEL: Final = "model"
"""The field of the form that says which."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What a deletion did."""

    deleted: cache.Deleted
    retried: bool
    """The controller had lacked room and was asked to try again."""
    problem: Message | None = None
    """Why it could not be asked."""


def listed(site: Site) -> cache.Listing:
    """Return what the cache holds. Raises Rejected when it cannot be read."""
    used = _needed(site, site.health())
    try:
        return cache.listing(site.config.models, served=used.served, selected=used.selected)
    except cache.Refused as refused:
        raise Rejected([Problem(refused.message)]) from None


def delete(site: Site, model: str, *, force: bool = False) -> Removed:
    """Delete a model for good; the selection stays. A controller that lacked room is asked to try again.

    `force` deletes a model that is in use, or of which that cannot be known.

    Raises:
        Rejected: it was not deleted, or not all of it.
    """
    said = site.health()
    used = _needed(site, said)
    if used.unknown is not None and not force:
        raise Rejected([Problem(used.unknown, MODEL)])
    try:
        deleted = cache.delete(site.config.models, model, in_use=used, force=force)
    except cache.Refused as refused:
        raise Rejected([Problem(refused.message, MODEL)]) from None
    if not cache.lacks_room(said):
        return Removed(deleted, retried=False)
    try:
        request.write_request(site.config.run_dir, request.Kind.RETRY)
    except Refused as refused:
        return Removed(deleted, retried=False, problem=refused.message)
    return Removed(deleted, retried=True)


def _needed(site: Site, said: Mapping[str, Any]) -> cache.Use:
    return cache.use(said, read_store(site.config.store), str(site.config.store))
