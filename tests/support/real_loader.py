"""Run by the Python that has vLLM: say which files its default loader would fetch of repositories that are made up.

Input (JSON): a list of `{"files": {path: text}, "load_format": …}`. Output: `{"not_plain": […], "fetched": [[…], …]}`,
with null in place of a list where the loader finds no weights.
"""

import contextlib
import json
import os
import sys
import tempfile
from typing import Any

REPO = "org/m"


class Hub:
    """Stands in for huggingface_hub: a repository, and the folder that files of it are fetched into."""

    def __init__(self, files: dict[str, str], folder: str) -> None:
        self.files, self.folder = files, folder
        self.fetched: set[str] = set()

    def list_repo_files(self, _repo_id: str, **_: Any) -> list[str]:
        return list(self.files)

    def ls(self, _path: str, **_: Any) -> list[str]:
        return sorted({f"{REPO}/{path.partition('/')[0]}" for path in self.files})

    def hf_hub_download(self, filename: str, **_: Any) -> str:
        from huggingface_hub.utils import LocalEntryNotFoundError

        if filename not in self.files:
            raise LocalEntryNotFoundError(filename)
        path = os.path.join(self.folder, filename)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.files[filename])
        return path

    def snapshot_download(self, _repo_id: str, *, allow_patterns: Any, ignore_patterns: Any = None, **_: Any) -> str:
        from huggingface_hub.utils import filter_repo_objects

        for path in filter_repo_objects(self.files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            self.hf_hub_download(filename=path)
            self.fetched.add(path)
        return self.folder


def main() -> None:
    """Answer one request."""
    cases = json.load(sys.stdin)
    from vllm.config.load import LoadConfig
    from vllm.model_executor.model_loader import weight_utils
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
    from vllm.transformers_utils import repo_utils

    hub = Hub({}, "")
    for name, module in (("hf_api", weight_utils), ("hf_api", repo_utils), ("hf_fs", weight_utils)):
        setattr(module, name, lambda: hub)
    weight_utils.get_lock = lambda *_: contextlib.nullcontext()
    fetched: list[list[str] | None] = []
    for case in cases:
        repo_utils.list_repo_files.cache_clear()
        with tempfile.TemporaryDirectory() as folder:
            hub = Hub(case["files"], folder)
            try:
                DefaultModelLoader(LoadConfig(load_format=case["load_format"]))._prepare_weights(
                    REPO, None, "main", fall_back_to_pt=True, allow_patterns_overrides=None
                )
            except (RuntimeError, FileNotFoundError):
                fetched.append(None)
                continue
        fetched.append(sorted(hub.fetched))
    json.dump({"not_plain": repo_utils._WEIGHT_FILE_PATTERNS, "fetched": fetched}, sys.stdout)


if __name__ == "__main__":
    main()
