"""Models in a hub's cache, made by hand: what huggingface_hub leaves there, with files of a few bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34
SMALL = {"config.json": b'{"architectures": ["LlamaForCausalLM"]}', "model.safetensors": b"weights"}


def keep(
    models: Path, repo_id: str, files: Mapping[str, bytes] | None = None, *, commit: str = COMMIT, ref: str = "main"
) -> Path:
    """Put a snapshot of `repo_id` into the cache and return its folder; `ref` names it unless that is empty."""
    folder = models / "--".join(("models", *repo_id.split("/")))
    snapshot = folder / "snapshots" / commit
    for path, content in (SMALL if files is None else files).items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        place = snapshot / path
        place.parent.mkdir(parents=True, exist_ok=True)
        up = "/".join([".."] * (2 + path.count("/")))
        place.symlink_to(f"{up}/blobs/{blob.name}")
    if ref:
        (folder / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
    return folder
