"""The hub, through huggingface_hub's public functions: what a revision holds, and the bytes of one file."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import HfApi, get_token, hf_hub_url
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import WeakFileLock, build_hf_headers, get_session, hf_raise_for_status

from vllm_fsm.weights.hub_cache import Entry, Listing, Unsafe
from vllm_fsm.weights.needs import Repo

FILES_AT_MOST = 200_000
"""Files that a repository may have; HuggingFace advises against more than half as many."""
LOCK_PATIENCE = 0.2
"""Seconds; a blob that somebody else writes takes longer than anybody would wait for it."""


class Cut(ConnectionError):
    """The connection ended before the file did."""


class Locked(Exception):
    """Another process writes the same blob."""


class Hub:
    """A hub as the environment names it (`HF_ENDPOINT`, `HF_TOKEN`, proxies).

    `silence`: seconds without a byte after which a connection is given up.

    Raises:
        Exception: of any kind, where the environment names a way to it that cannot be gone.
    """

    def __init__(self, silence: float) -> None:
        self._api = HfApi(library_name="vllm-fsm")
        self.host = urlsplit(self._api.endpoint).netloc.rpartition("@")[2]
        """Where the hub is, for people."""
        self._session = get_session()
        # huggingface_hub sets no limit of its own: a hub that accepts and never answers would be waited for for ever.
        self._session.timeout = silence
        self._headers = build_hf_headers(library_name="vllm-fsm")
        http: Any = importlib.import_module(type(self._session).__module__.partition(".")[0])
        self.broken: tuple[type[Exception], ...] = (http.TransportError, Cut)
        """What a connection that breaks raises: httpx's errors, or those of its successor (huggingface_hub 2)."""
        self.refused: type[Exception] = http.ConnectError
        self.silent: type[Exception] = http.TimeoutException

    @property
    def token(self) -> bool:
        """Whether requests carry a token."""
        return get_token() is not None

    def resolve(self, repo: Repo, heard: Callable[[], None]) -> Listing:
        """Ask what `repo` holds; call `heard` for each file that is named.

        Raises:
            HfHubHTTPError, and what `broken` names: the hub does not tell.
            Unsafe: its answer must not be used.
        """
        commit = self._api.model_info(repo.id, revision=repo.revision).sha or ""

        def entries() -> Iterator[Entry]:
            tree = self._api.list_repo_tree(repo.id, recursive=True, revision=commit)
            for number, file in enumerate(tree, 1):
                if number > FILES_AT_MOST:
                    raise Unsafe(f"more than {FILES_AT_MOST} files")
                heard()
                if isinstance(file, RepoFile):
                    yield Entry(file.path, file.size, file.lfs.sha256 if file.lfs else file.blob_id)

        return Listing.of(commit, repo.revision, entries())

    @contextmanager
    def read(self, repo_id: str, commit: str, path: str, offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Ask for the file from `offset` on; give the offset at which the answer begins, and its pieces.

        Raises as `resolve` does, the last two while the pieces are read too.
        """
        headers = {**self._headers, "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        url = hf_hub_url(repo_id, path, revision=commit)
        with self._session.stream("GET", url, headers=headers, follow_redirects=True) as answer:
            hf_raise_for_status(answer)
            ranged = answer.status_code == 206
            if ranged and not answer.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
                raise Cut(f"the answer is another range of {path} than was asked for")
            yield (offset if ranged else 0), answer.iter_raw()

    @contextmanager
    def locked(self, path: str) -> Iterator[None]:
        """Keep others from writing a blob, as huggingface_hub does.

        Raises:
            Locked: somebody else does.
        """
        from filelock import Timeout

        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            lock = WeakFileLock(path, timeout=LOCK_PATIENCE)
            lock.__enter__()
        except Timeout:
            raise Locked(path) from None
        try:
            yield
        finally:
            lock.__exit__(None, None, None)
