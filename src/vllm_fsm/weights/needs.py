"""Which repositories an engine start will read, from its arguments and variables: a pure function.

Sources, vLLM 0.32: `engine/arg_utils.py` (model, tokenizer, revisions, configuration), `config/speculative.py` (the
draft model), `lora/utils.py` (`get_adapter_absolute_path`), `config/load.py` (load formats).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from vllm_fsm.arguments import flag_values
from vllm_fsm.core.snapshot import Finding, Message, Target
from vllm_fsm.weights.names import is_repo_id, repo_of

DEFAULT_REVISION: Final = "main"
"""The branch that huggingface_hub takes when none is named."""

FORMATS: Final = ("auto", "hf", "safetensors", "fastsafetensors", "instanttensor", "mistral", "pt", "npcache")
"""Load formats whose files are known here (vLLM 0.32, `model_loader/default_loader.py`)."""
NO_WEIGHTS: Final = "dummy"
"""The load format that reads no weights."""

_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,199}", re.ASCII)
_TRUE = frozenset({"1", "true", "yes", "on"})

_MODEL, _TOKENIZER, _CONFIG = "--model", "--tokenizer", "--hf-config-path"
_REVISION_FLAG, _TOKENIZER_REVISION = "--revision", "--tokenizer-revision"
_LOAD_FORMAT, _IGNORE, _REMOTE_CODE, _TOKEN = "--load-format", "--ignore-patterns", "--trust-remote-code", "--hf-token"
_SPECULATIVE, _LORA = ("--speculative-config", "-sc"), "--lora-modules"
_ELSEWHERE: Final = ("--model-weights", "--code-revision", _IGNORE)
"""Flags that change what is read in ways that are not followed here."""


class Role(Enum):
    """What a repository is for, which says what of it is read."""

    MODEL = "model"
    """Everything that is no weights, and the weights in one format."""
    PLAIN = "plain"
    """Everything that is no weights: a tokenizer, a configuration, a model with made-up weights."""
    ADAPTER = "adapter"
    """Everything: vLLM fetches whole LoRA repositories."""


@dataclass(frozen=True, slots=True)
class Repo:
    """One repository to be read."""

    id: str
    """As on the hub: `org/name`, or a name alone."""
    revision: str = DEFAULT_REVISION
    role: Role = Role.MODEL
    load_format: str = "auto"


@dataclass(frozen=True, slots=True)
class Needs:
    """What one engine start will read from the hub."""

    repos: tuple[Repo, ...] = ()
    """Each with its role; empty when everything lies in local directories."""
    unresolved: Message | None = None
    """Set when the engine must fetch by itself, as what it will read cannot be known here."""
    problem: Finding | None = None
    """Set when no engine can read this."""
    offline: bool | None = None
    """What the user's own variables say about the hub being switched off; None: nothing."""
    remote_code: bool = False
    """Code of the repositories is executed: it may lie in yet another one (`auto_map` in config.json)."""
    token: str | None = None
    """A token that stands in the arguments."""

    def __repr__(self) -> str:
        return f"Needs({self.repos!r}, {self.unresolved!r}, {self.problem!r}, {self.offline!r}, {self.remote_code!r})"


def needs(target: Target, *, exists: Callable[[str], bool] = os.path.exists) -> Needs:
    """Return what starting `target` will read. `exists` tells whether a path is there, relative to our directory."""
    arguments, environment = target.arguments, dict(target.environment)
    offline = _offline(environment)
    tokens = flag_values(arguments, _TOKEN)
    remote_code = flag_values(arguments, _REMOTE_CODE) is not None
    found = Needs(offline=offline, remote_code=remote_code, token=tokens[-1] if tokens else None)
    if environment.get("VLLM_USE_MODELSCOPE", "").strip().lower() in _TRUE:
        return replace(found, unresolved=_by_itself(target.model, "ModelScope"))
    load_format = _last(arguments, _LOAD_FORMAT, "auto")
    if load_format not in (*FORMATS, NO_WEIGHTS):
        return replace(found, unresolved=_by_itself(target.model, f"--load-format {load_format}"))
    for flag in _ELSEWHERE:
        if flag_values(arguments, flag):
            return replace(found, unresolved=_by_itself(target.model, flag))
    if _last(arguments, _TOKENIZER) and _last(arguments, _REVISION_FLAG) and not _last(arguments, _TOKENIZER_REVISION):
        # vLLM 0.32 takes the model's revision for such a tokenizer, but `main` when the hub is switched off.
        return replace(found, unresolved=_by_itself(target.model, f"{_TOKENIZER} without {_TOKENIZER_REVISION}"))
    repos: dict[Repo, None] = {}
    for name, revision, role, format_ in _named(target, arguments, load_format):
        place = _place(name, exists)
        if place is _Place.HERE:
            continue
        if place is _Place.ELSEWHERE:
            return replace(found, unresolved=_by_itself(name, name))
        if place is _Place.NOWHERE:
            return replace(found, problem=Finding.of("ModelPathMissing", permanent=True, path=name))
        if not _REVISION.fullmatch(revision) or ".." in revision:
            missing = Finding.of("RevisionNotFound", permanent=True, repo=name, revision=revision[:100])
            return replace(found, problem=missing)
        repos[Repo(name, revision, role, format_)] = None
    return replace(found, repos=tuple(repos))


def named(target: Target) -> frozenset[str]:
    """Return every repository that starting `target` may read, also where `needs` cannot say what of it is read.

    It errs on the side of too many, since what it names is kept: a local directory may look like a repository. A path
    into the cache names the model that lies there.
    """
    names = (name for name, *_ in _named(target, target.arguments, ""))
    return frozenset(repo for name in names if (repo := _repository(name)) is not None)


def _repository(name: str) -> str | None:
    inside = next((repo for part in name.split("/") if (repo := repo_of(part)) is not None), None)
    # `repo:quant`, and `repo/file.gguf`, as GGUF models are named.
    outside = "/".join(name.partition(":")[0].split("/")[:2])
    return inside or (outside if is_repo_id(outside) else None)


class _Place(Enum):
    HERE = "a local path"
    HUB = "a repository of the hub"
    ELSEWHERE = "something that only vLLM knows how to fetch"
    NOWHERE = "a path that does not exist"


def _place(name: str, exists: Callable[[str], bool]) -> _Place:
    if exists(os.path.expanduser(name)):
        return _Place.HERE
    if name.startswith(("/", "./", "../", "~")):
        return _Place.NOWHERE
    # `s3://…`, and `repo:quant` or a single file, as GGUF models are named.
    if ":" in name or name.endswith(".gguf"):
        return _Place.ELSEWHERE
    if is_repo_id(name):
        return _Place.HUB
    return _Place.NOWHERE


def _named(target: Target, arguments: Sequence[str], load_format: str) -> list[tuple[str, str, Role, str]]:
    """List what the arguments name: name, revision, role, load format."""
    revision = _last(arguments, _REVISION_FLAG, DEFAULT_REVISION)
    weights = Role.PLAIN if load_format == NO_WEIGHTS else Role.MODEL
    named = [(target.model, revision, weights, load_format)]
    if tokenizer := _last(arguments, _TOKENIZER):
        named.append((tokenizer, _last(arguments, _TOKENIZER_REVISION, DEFAULT_REVISION), Role.PLAIN, "auto"))
    if config := _last(arguments, _CONFIG):
        named.append((config, revision, Role.PLAIN, "auto"))
    draft = _json(arguments, *_SPECULATIVE)
    if isinstance(name := draft.get("model"), str) and "/" in name:
        # Without a slash it is a method's name, as in {"model": "ngram"}.
        draft_revision = draft.get("revision")
        own = draft_revision if isinstance(draft_revision, str) else DEFAULT_REVISION
        named.append((name, own, weights, load_format))
    adapters = map(_lora_path, flag_values(arguments, _LORA) or ())
    named += [(path, DEFAULT_REVISION, Role.ADAPTER, "auto") for path in adapters if path]
    return named


def _lora_path(module: str) -> str | None:
    """Read `name=path` or `{"name": …, "path": …}`."""
    if module.lstrip().startswith("{"):
        path = _object(module).get("path")
        return path if isinstance(path, str) else None
    return module.partition("=")[2] or None


def _offline(environment: Mapping[str, str]) -> bool | None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if name in environment:
            return environment[name].strip().lower() in _TRUE
    return None


def _by_itself(model: str, what: str) -> Message:
    return Message.of("FetchedByEngine", model=model, what=what)


def _last(arguments: Sequence[str], flag: str, default: str = "") -> str:
    values = flag_values(arguments, flag)
    return values[-1] if values else default


def _json(arguments: Sequence[str], *flags: str) -> dict[str, Any]:
    """Return the object that a flag is given as one JSON text, or key by key as `--flag.key value`."""
    found: dict[str, Any] = {}
    for flag in flags:
        for text in flag_values(arguments, flag) or ():
            found |= _object(text)
        for key in ("model", "revision"):
            values = flag_values(arguments, f"{flag}.{key}")
            if values:
                found[key] = values[-1]
    return found


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
