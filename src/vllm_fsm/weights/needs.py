"""Which repositories an engine start will read, from its arguments and variables: a pure function.

Sources, vLLM 0.32: `engine/arg_utils.py` (model, tokenizer, revisions, configuration), `config/speculative.py` (the
draft model), `lora/utils.py` (`get_adapter_absolute_path`), `config/load.py` (load formats), `envs.py` (ModelScope).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
_PROPOSER = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")
"""A class of Python, by its dotted path."""
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_SHOWN: Final = 300
"""Characters of a name that are repeated in a message."""

_MODEL, _TOKENIZER, _CONFIG = "--model", "--tokenizer", "--hf-config-path"
_REVISION_FLAG, _TOKENIZER_REVISION = "--revision", "--tokenizer-revision"
_LOAD_FORMAT, _IGNORE, _REMOTE_CODE, _TOKEN = "--load-format", "--ignore-patterns", "--trust-remote-code", "--hf-token"
_SPECULATIVE, _METHOD, _DRAFT = ("--speculative-config", "-sc"), "--spec-method", "--spec-model"
_LORA, _MM_LORA, _GENERATION = "--lora-modules", "--default-mm-loras", "--generation-config"
_ELSEWHERE: Final = ("--model-weights", "--code-revision", _IGNORE)
"""Flags that change what is read in ways that are not followed here."""
_MODELSCOPE, _REDIRECT = "VLLM_USE_MODELSCOPE", "VLLM_MODEL_REDIRECT_PATH"
_NGRAM: Final = ("ngram", "[ngram]")
_NO_DRAFT: Final = frozenset({*_NGRAM, "ngram_gpu", "suffix", "custom_class", "extract_hidden_states"})
"""Methods of speculation that read no model, whatever else is named (`config/speculative.py`)."""
_MODALITIES: Final = ("audio", "image", "video")


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


def needs(
    target: Target, *, inherited: Mapping[str, str] = {}, exists: Callable[[str], bool] = os.path.exists
) -> Needs:
    """Return what starting `target` will read.

    `inherited` is our own environment, which the engine is given below the target's variables.
    `exists` tells whether a path is there, relative to our directory.
    """
    arguments, environment = target.arguments, {**inherited, **dict(target.environment)}
    offline = _offline(environment)
    remote_code = flag_values(arguments, _REMOTE_CODE) is not None
    found = Needs(offline=offline, remote_code=remote_code, token=_value(arguments, _TOKEN) or None)
    places = {repo: _place(repo, exists) for repo in _named(target, arguments)}
    remote = {repo: place for repo, place in places.items() if place is not _Place.HERE}
    if (own := _own_way(arguments, environment, exists)) and (remote or own == _GENERATION):
        return replace(found, unresolved=_by_itself(target.model, own))
    for repo, place in remote.items():
        if repo.load_format not in (*FORMATS, NO_WEIGHTS):
            return replace(found, unresolved=_by_itself(repo.id, f"{_LOAD_FORMAT} {repo.load_format}"))
        if place is _Place.ELSEWHERE:
            return replace(found, unresolved=_by_itself(repo.id, repo.id))
        if place is _Place.NOWHERE:
            return replace(found, problem=Finding.of("ModelPathMissing", permanent=True, path=_shown(repo.id)))
        if not _is_revision(repo.revision):
            revision = _shown(repo.revision[:100])
            missing = Finding.of("RevisionNotFound", permanent=True, repo=repo.id, revision=revision)
            return replace(found, problem=missing)
    return replace(found, repos=tuple(remote))


def local_models(
    target: Target, *, inherited: Mapping[str, str] = {}, exists: Callable[[str], bool] = os.path.exists
) -> tuple[Repo, ...]:
    """Return the models that starting `target` reads from paths here, where it is known which files those are.

    `inherited` and `exists` are as for `needs`.
    """
    if _own_way(target.arguments, {**inherited, **dict(target.environment)}, exists):
        return ()
    return tuple(
        repo
        for repo in _named(target, target.arguments)
        if repo.role is Role.MODEL and repo.load_format in FORMATS and _place(repo, exists) is _Place.HERE
    )


def _own_way(arguments: Sequence[str], environment: Mapping[str, str], exists: Callable[[str], bool]) -> str | None:
    """Say what makes the engine read things in a way that is not followed here, None if nothing does."""
    generation = _value(arguments, _GENERATION, "auto")
    if generation not in ("auto", "vllm") and not exists(generation):
        return _GENERATION
    for flag in _ELSEWHERE:
        if flag_values(arguments, flag):
            return flag
    if environment.get(_MODELSCOPE, "").strip().lower() in ("1", "true"):
        return "ModelScope"
    if environment.get(_REDIRECT):
        return _REDIRECT
    tokenizer, of_tokenizer = _value(arguments, _TOKENIZER), _value(arguments, _TOKENIZER_REVISION)
    if tokenizer and not exists(tokenizer) and _value(arguments, _REVISION_FLAG) and not of_tokenizer:
        # vLLM 0.32 takes the model's revision for such a tokenizer, but `main` when the hub is switched off.
        return f"{_TOKENIZER} without {_TOKENIZER_REVISION}"
    return None


def named(target: Target) -> frozenset[str]:
    """Return every repository that starting `target` may read, also where `needs` cannot say what of it is read.

    It errs on the side of too many, since what it names is kept: a local directory may look like a repository. A path
    into the cache names the model that lies there.
    """
    names = (repo.id for repo in _named(target, target.arguments))
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


def _place(repo: Repo, exists: Callable[[str], bool]) -> _Place:
    name = repo.id
    # Of all names, vLLM expands the home directory in those of adapters only (`lora/utils.py`).
    if exists(_expanded(name) if repo.role is Role.ADAPTER else name):
        return _Place.HERE
    if name.startswith(("/", "./", "../", "~")):
        return _Place.NOWHERE
    # `s3://…`, and `repo:quant` or a single file, as GGUF models are named.
    if ":" in name or name.endswith(".gguf"):
        return _Place.ELSEWHERE
    if is_repo_id(name):
        return _Place.HUB
    return _Place.NOWHERE


def _expanded(name: str) -> str:
    try:
        return os.path.expanduser(name)
    except ValueError:  # no user has such a name
        return name


def _is_revision(name: str) -> bool:
    """Whether `name` may be one of a branch, a tag or a commit, and is safe as a path below `refs/`."""
    return _REVISION.fullmatch(name) is not None and not {"", ".", ".."} & set(name.split("/")) and ".." not in name


def _named(target: Target, arguments: Sequence[str]) -> Iterator[Repo]:
    """Yield what the arguments name, paths and impossible names as well."""
    revision = _value(arguments, _REVISION_FLAG, DEFAULT_REVISION)
    load_format = _value(arguments, _LOAD_FORMAT, "auto")
    yield _weights(target.model, revision, load_format)
    if tokenizer := _value(arguments, _TOKENIZER):
        yield Repo(tokenizer, _value(arguments, _TOKENIZER_REVISION, DEFAULT_REVISION), Role.PLAIN)
    if config := _value(arguments, _CONFIG):
        yield Repo(config, revision, Role.PLAIN)
    yield from _draft(arguments, load_format)
    for path in (
        *map(_lora_path, flag_values(arguments, _LORA) or ()),
        *_json(arguments, _MM_LORA, _MODALITIES).values(),
    ):
        if path and isinstance(path, str):
            yield Repo(path, role=Role.ADAPTER)


def _weights(name: str, revision: str, load_format: str) -> Repo:
    """Name a model; vLLM takes load formats in any case (`config/load.py`)."""
    load_format = load_format.lower()
    return Repo(name, revision, Role.PLAIN if load_format == NO_WEIGHTS else Role.MODEL, load_format)


def _draft(arguments: Sequence[str], load_format: str) -> Iterator[Repo]:
    """Yield the model that proposes tokens, if one does that is not the target itself."""
    given: dict[str, Any] = {}
    for flag in _SPECULATIVE:
        given |= _json(arguments, flag, ("model", "revision", "method", "draft_load_config.load_format"))
    model = _value(arguments, _DRAFT) or given.get("model")
    method = _value(arguments, _METHOD) or given.get("method")
    if not isinstance(model, str) or not model or (isinstance(method, str) and method in _NO_DRAFT):
        return
    if method is None and (model in _NGRAM or _PROPOSER.fullmatch(model)):
        return
    revision = given.get("revision")
    loading = given.get("draft_load_config")
    own = loading.get("load_format") if isinstance(loading, dict) else given.get("draft_load_config.load_format")
    yield _weights(
        model,
        revision if isinstance(revision, str) and revision else DEFAULT_REVISION,
        own if isinstance(own, str) else load_format,
    )


def _lora_path(module: str) -> str | None:
    """Read `name=path` or `{"name": …, "path": …}`."""
    if module.lstrip().startswith("{"):
        path = _object(module).get("path")
        return path if isinstance(path, str) else None
    return module.partition("=")[2] or None


def _offline(environment: Mapping[str, str]) -> bool | None:
    """As huggingface_hub 2.4 reads it (`constants.py`): the older variable counts where the other one is empty."""
    given = [environment[name] for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if name in environment]
    return next((value for value in given if value), "").lower() in _TRUE if given else None


def _by_itself(model: str, what: str) -> Message:
    return Message.of("FetchedByEngine", model=_shown(model), what=_shown(what))


def _shown(name: str) -> str:
    """Make a name fit for a message: JSON may hold halves of surrogate pairs."""
    return name[:_SHOWN].encode("utf-8", "replace").decode()


def _value(arguments: Sequence[str], flag: str, default: str = "") -> str:
    values = flag_values(arguments, flag)
    return values[0] if values else default


def _json(arguments: Sequence[str], flag: str, keys: Iterable[str]) -> dict[str, Any]:
    """Return the object that a flag is given as one JSON text, or of `keys` what is given as `--flag.key value`."""
    found = _object(_value(arguments, flag))
    for key in keys:
        if values := flag_values(arguments, f"{flag}.{key}"):
            found[key] = _text(values[0])
    return found


def _text(value: str) -> Any:
    """Read what stands behind a JSON path: JSON, else a text (`FlexibleArgumentParser`)."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _object(text: str) -> dict[str, Any]:
    value = _text(text)
    return value if isinstance(value, dict) else {}
