"""Whether an engine can start from the cache as it is: reads the cache, asks nobody."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import Final

from vllm_fsm.core.snapshot import Finding, Message
from vllm_fsm.files import own
from vllm_fsm.weights.hub_cache import RepoFolder
from vllm_fsm.weights.needs import Needs, Repo, Role
from vllm_fsm.weights.selection import NoWeights, elsewhere, foreign_code, index_shards, plain_files, weight_files

FOREIGN_CODE: Final = "code of another repository"
"""What cannot be known beforehand of a repository whose code refers to others."""
_CONFIG: Final = "config.json"
_CONFIGURATIONS: Final = {_CONFIG, "params.json", "adapter_config.json", "tokenizer_config.json"}
"""One of these stands in every repository that vLLM reads."""
_ADAPTER: Final = {"adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt"}
"""One of these stands in every adapter (`lora/lora_model.py`)."""
_INDEX: Final = 64 * 1024 * 1024
"""Bytes of an index that are read at most."""
_NAMING_CODE: Final = (_CONFIG, "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
"""Where Transformers looks for `auto_map`."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was found."""

    complete: bool
    """The engine can start now."""
    offline: bool = False
    """It needs nothing of the hub, which may be switched off for it."""
    note: Message | None = None
    """What a person should know of this start."""
    problem: Finding | None = None
    """Why nothing can be done."""


def look(models: str | os.PathLike[str], needs: Needs) -> Look:
    """Say whether all that `needs` names lies in the cache `models`."""
    if needs.problem is not None:
        return Look(False, problem=needs.problem)
    if needs.unresolved is not None:
        return Look(True, note=needs.unresolved)
    note = None
    for repo in needs.repos:
        folder = RepoFolder(models, repo.id)
        commit = complete_commit(folder, repo)
        if commit is None:
            if needs.offline:
                return Look(False, problem=Finding.of("NotInCache", permanent=True, repo=repo.id))
            return Look(False)
        folder.sweep()
        if note is None and (more := _more(folder, commit, remote_code=needs.remote_code)):
            note = Message.of("FetchedByEngine", model=repo.id, what=more)
    return Look(True, offline=bool(needs.repos) and note is None, note=note)


def _more(folder: RepoFolder, commit: str, *, remote_code: bool) -> str | None:
    """Say what else the engine will read of the hub because this snapshot says so."""
    if remote_code and any(foreign_code(folder.read(commit, path) or b"") for path in _NAMING_CODE):
        return FOREIGN_CODE
    return elsewhere(folder.read(commit, _CONFIG) or b"")


def complete_commit(folder: RepoFolder, repo: Repo) -> str | None:
    """Return the commit of `repo` that is complete in the cache, None if there is none."""
    found = _complete(folder, repo)
    return None if found is None else found[0]


def weights(folder: RepoFolder, repo: Repo) -> list[str]:
    """Return the paths of the weights that the cache holds for `repo`, in the order in which they are read.

    Empty while it is not complete.
    """
    found = _complete(folder, repo)
    return [] if found is None else [folder.snapshot(found[0], path) for path in found[1]]


def local_weights(repo: Repo) -> list[str]:
    """Return the same of the file or directory that `repo` names."""
    if not os.path.isdir(repo.id):
        return [repo.id]
    try:
        names = [entry.name for entry in os.scandir(repo.id) if not entry.is_dir()]
        chosen = weight_files(
            names, repo, lambda index: index_shards(own.read(f"{repo.id}/{index}", _INDEX, follow=True))
        )
    except (OSError, NoWeights):
        return []
    return [os.path.join(repo.id, name) for name in chosen]


def _complete(folder: RepoFolder, repo: Repo) -> tuple[str, list[str]] | None:
    """Return the commit of `repo` that is complete in the cache, and its weights; None if there is none."""
    commit = folder.commit(repo.revision)
    if commit is None:
        return None
    listing = folder.listing(commit)
    known = listing.entries if listing is not None else None
    paths = list(known) if known is not None else folder.files(commit)
    shards = partial(_shards, folder, commit)
    try:
        chosen = weight_files(paths, repo, shards)
    except NoWeights:
        return None
    wanted = {*plain_files(paths, repo.role), *chosen}
    if known is not None:
        return (commit, chosen) if all(folder.holds(commit, known[path]) for path in wanted) else None
    # Nobody listed this snapshot: there must be a configuration, and of each index that counts all that it names.
    there = set(paths)
    for index in (path for path in paths if path.endswith(".index.json")):
        named = set(shards(index))
        if named & wanted and not named <= there:
            return None
    if repo.role is Role.ADAPTER and not there & _ADAPTER:
        return None
    return (commit, chosen) if there & _CONFIGURATIONS else None


def _shards(folder: RepoFolder, commit: str, index: str) -> list[str]:
    return index_shards(folder.read(commit, index) or b"")
