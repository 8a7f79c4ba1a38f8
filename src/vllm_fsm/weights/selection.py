"""Which files of a repository vLLM 0.32 reads: pure functions of their names.

Sources: `transformers_utils/repo_utils.py` (everything that is no weights), `model_loader/default_loader.py` and
`weight_utils.py` (one format of weights: what the index names, else the first pattern that fits). `original/` holds the
same weights once more and is never read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase, translate
from typing import Final

from vllm_fsm.weights.needs import Repo, Role

NEVER_READ: Final = "original/"
INDEX: Final = "model.safetensors.index.json"
CONSOLIDATED: Final = "consolidated*.safetensors"
"""Mistral's own form; vLLM's `auto` prefers it where it exists."""

# fmt: off
_NO_PLAIN: Final = re.compile("|".join(map(translate, (
    "*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.onnx_data",
    "*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp", "*.mp3", "*.mp4", "*.wav", "*.flac",
    "*.parquet", "*.arrow", "*.ipynb", "*.zip", "*.tar*",
))))
# fmt: on
"""Weights in any format, and large files that no tokenizer reads (vLLM's `_WEIGHT_FILE_PATTERNS`)."""

_PATTERNS: Final = {
    "hf": ("*.safetensors", "*.bin", "*.pt"),
    "safetensors": ("*.safetensors",),
    "fastsafetensors": ("*.safetensors",),
    "instanttensor": ("*.safetensors",),
    "mistral": (CONSOLIDATED,),
    "pt": ("*.pt",),
    "npcache": ("*.bin", "*.pt"),
}
"""What each load format looks for, in this order; the first pattern that fits a file at the top is taken alone."""

Shards = Callable[[str], Sequence[str]]
"""From the path of an index to the files that it names; empty when there is none to read."""


class NoWeights(Exception):
    """The repository holds no file that the load format could read."""


def plain_files(paths: Iterable[str], role: Role) -> list[str]:
    """Return the files that are read besides the weights; for an adapter, all of them."""
    if role is Role.ADAPTER:
        return sorted(paths)
    return sorted(path for path in paths if not path.startswith(NEVER_READ) and not _NO_PLAIN.match(path))


def weight_files(paths: Iterable[str], repo: Repo, shards: Shards) -> list[str]:
    """Return the weights that are read, in one format.

    `shards` reads an index, which must be there already.

    Raises:
        NoWeights: there are none.
    """
    if repo.role is not Role.MODEL:
        return []
    usable = sorted(path for path in paths if not path.startswith(NEVER_READ))
    load_format = repo.load_format
    if load_format == "auto":
        load_format = "mistral" if any(fnmatchcase(path, CONSOLIDATED) for path in usable) else "hf"
    patterns = _PATTERNS[load_format]
    top = [path for path in usable if "/" not in path]
    if "*.safetensors" in patterns and INDEX in top and (named := shards(INDEX)):
        found = sorted(set(named) & set(usable))
    else:
        pattern = next((pattern for pattern in patterns if _matching(top, pattern)), None)
        found = _matching(usable, pattern) if pattern else []
    if not found:
        raise NoWeights(repo.id)
    return found


def index_shards(text: str | bytes) -> list[str]:
    """Return the files that the index `text` names; none when it is no index."""
    try:
        named = json.loads(text)["weight_map"].values()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    return sorted({name for name in named if isinstance(name, str)})


def foreign_code(config: str | bytes) -> bool:
    """Whether config.json names code of another repository: `"auto_map": {"AutoConfig": "other/repo--module.Class"}`.

    Transformers fetches it by itself then (`dynamic_module_utils.py`, `get_class_from_dynamic_module`).
    """
    try:
        classes = json.loads(config).get("auto_map", {}).values()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return False
    return any("--" in str(name) for name in classes)


def _matching(paths: Iterable[str], pattern: str) -> list[str]:
    return [path for path in paths if fnmatchcase(path, pattern)]
