"""The fake hub of a chaos: it has small models under names that are new each time, and knows what a cache may hold."""

from __future__ import annotations

import hashlib
import json
import shutil
import urllib.request
from collections.abc import Container, Mapping
from pathlib import Path
from random import Random
from typing import Any

from huggingface_hub.utils.sha import git_hash

from support.fake_hub import FakeHub

WEIGHTS = 300_000
"""Bytes of the weights of a model that no real engine reads."""
TAKES = 2.5
"""Seconds that the weights take over a slow line."""
WEIGHTS_FILE = "model.safetensors"
TOKEN, WRONG_TOKEN = "hf_" + "t" * 34, "hf_" + "w" * 34
"""One that the hub knows, and that opens nothing; one that it does not know."""
KEPT = 3
"""Models that the hub has at a time, besides those that are in use."""


class ChaosHub(FakeHub):
    """`whole`: the models are such that the real vLLM can serve them."""

    def __init__(self, root: Path, random: Random, *, whole: bool) -> None:
        super().__init__(root, tokens={TOKEN: ()})
        self._random = random
        self._whole = whole
        self._number = 0
        self._up = False
        self._published: dict[tuple[str, str], dict[str, str]] = {}
        """By repository and commit: the hash of each file, as the hub lists it."""

    def start(self) -> None:
        super().start()
        self._up = True

    def stop(self) -> None:
        super().stop()
        self._up = False

    def relent(self) -> None:
        """Behave: up, fast, without faults."""
        if not self._up:
            self.start()
        self.faults()
        self.bandwidth(0)

    def slow(self) -> None:
        """Let the next weights take a while."""
        size = max(path.stat().st_size for path in self.root.rglob(WEIGHTS_FILE))
        self.bandwidth(int(size / TAKES))

    # --- models --------------------------------------------------------------------------------------------------

    def publish(self, in_use: Container[str] = ()) -> str:
        """Make a model of a new name; forget the oldest ones that are not `in_use`."""
        self._number += 1
        repo_id = f"org/m{self._number}"
        self.change(repo_id)
        for old in range(max(1, self._number - 2 * KEPT), self._number - KEPT):
            if f"org/m{old}" not in in_use:
                shutil.rmtree(self.root / f"org/m{old}", ignore_errors=True)
        return repo_id

    def change(self, repo_id: str) -> None:
        """Make a new commit of the model, or its first one. Whoever asks may have it."""
        seed = self._random.randbytes(8)
        files = {"note.txt": seed.hex().encode()}
        if not self._whole:
            files[WEIGHTS_FILE] = Random(seed).randbytes(WEIGHTS)
        (self.root / repo_id / ".hub.json").unlink(missing_ok=True)
        self.repo(repo_id, files=files)
        commit = self._asked(repo_id)["sha"]
        tree = self._asked(f"{repo_id}/tree/{commit}")
        self._published[repo_id, commit] = {
            file["path"]: file["lfs"]["oid"] if "lfs" in file else file["oid"] for file in tree
        }

    def close(self, repo_id: str, **meta: Any) -> None:
        """Set the options of the model, such as `gated`."""
        (self.root / repo_id / ".hub.json").write_text(json.dumps(meta))

    def _asked(self, what: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/models/{what}", timeout=10) as answer:
            return json.load(answer)

    # --- what came of it -----------------------------------------------------------------------------------------

    def asked_for(self, repo_id: str) -> list[dict[str, Any]]:
        """Return what a controller has asked of this model."""
        return [
            request
            for request in self.requests()
            if repo_id in request["path"] and request["agent"].startswith("vllm-fsm")
        ]

    def sends_weights(self, repo_id: str) -> bool:
        """Whether weights of this model are on their way."""
        running = (request for request in self.asked_for(repo_id) if "running" in request)
        return any(request["path"].endswith(WEIGHTS_FILE) and request["sent"] for request in running)

    def harmed(self, repo_id: str) -> bool:
        """Whether a fault has met somebody who asked for this model."""
        return any("fault" in request for request in self.asked_for(repo_id))

    def wrong_in(self, models: Path, wanted: str | None) -> str | None:
        """What the cache has and should not have, or lacks of the model that is `wanted`; None if all is well."""
        for folder in models.glob("models--org--*"):
            repo_id = folder.name.removeprefix("models--").replace("--", "/")
            for blob in folder.glob("blobs/*"):
                if not blob.name.endswith(".incomplete") and blob.name != _hash(blob, len(blob.name)):
                    return f"{blob} is taken for whole, and is not"
            for snapshot in folder.glob("snapshots/*"):
                listed = self._published.get((repo_id, snapshot.name))
                if listed is None:
                    return f"{snapshot} is no commit of the hub"
                if wrong := _wrong_files(snapshot, listed):
                    return wrong
        return self._lacks(models, wanted) if wanted is not None else None

    def _lacks(self, models: Path, repo_id: str) -> str | None:
        folder = models / f"models--{repo_id.replace('/', '--')}"
        try:
            commit = (folder / "refs" / "main").read_text()
            missing = {
                path
                for path in self._published[repo_id, commit]
                if not (folder / "snapshots" / commit / path).is_file()
            }
        except (OSError, KeyError) as error:
            return f"{repo_id} is served and not in the cache: {error!r}"
        return f"{repo_id} is served without {missing}" if missing else None


def _wrong_files(snapshot: Path, listed: Mapping[str, str]) -> str | None:
    for path in snapshot.rglob("*"):
        name = str(path.relative_to(snapshot))
        if path.is_file() and listed.get(name) != path.resolve().name:
            return f"{path} is another file than the hub has"
    return None


def _hash(blob: Path, length: int) -> str:
    content = blob.read_bytes()
    if length == 64:
        return hashlib.sha256(content).hexdigest()
    return git_hash(content)
