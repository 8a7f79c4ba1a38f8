"""Names of repositories, and of their folders in the hub's cache: pure functions of strings."""

from __future__ import annotations

import re

_NAME = r"\w(?:[\w.-]{0,94}\w)?"
_REPO_ID = re.compile(rf"{_NAME}(?:/{_NAME})?", re.ASCII)
_BETWEEN = "--"
_MODELS = "models"


def is_repo_id(name: str) -> bool:
    """Whether the hub could have a repository of that name: `org/name`, or a name alone.

    As huggingface_hub 2.4 checks it (`utils/_validators.py`): no part begins or ends with a dot or a dash, none holds
    `..` or `--`, and there is no `.git` at the end.
    """
    between = _BETWEEN in name or ".." in name
    return _REPO_ID.fullmatch(name) is not None and not between and not name.endswith(".git")


def folder_of(repo_id: str) -> str:
    """Return the name of the model's folder: `models--org--name`."""
    return _BETWEEN.join((_MODELS, *repo_id.split("/")))


def repo_of(folder: str) -> str | None:
    """Return the model whose folder has the name `folder`, None if it is no model's."""
    prefix, between, rest = folder.partition(_BETWEEN)
    repo_id = rest.replace(_BETWEEN, "/")
    return repo_id if prefix == _MODELS and between and is_repo_id(repo_id) else None
