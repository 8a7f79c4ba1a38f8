"""Names of repositories, and of their folders in the hub's cache: pure functions of strings."""

from __future__ import annotations

import re

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_BETWEEN = "--"
_MODELS = "models"


def is_repo_id(name: str) -> bool:
    """Whether the hub could have a repository of that name: `org/name`, or a name alone.

    No part begins with a dot, none holds `..` or `--` (huggingface_hub, `validate_repo_id`).
    """
    return _REPO_ID.fullmatch(name) is not None and _BETWEEN not in name and ".." not in name


def folder_of(repo_id: str) -> str:
    """Return the name of the model's folder: `models--org--name`."""
    return _BETWEEN.join((_MODELS, *repo_id.split("/")))


def repo_of(folder: str) -> str | None:
    """Return the model whose folder has the name `folder`, None if it is no model's."""
    prefix, between, rest = folder.partition(_BETWEEN)
    repo_id = rest.replace(_BETWEEN, "/")
    return repo_id if prefix == _MODELS and between and is_repo_id(repo_id) else None
