"""Fetches what one engine start needs: a process of its own, executed by path, told what to do in one JSON line.

It answers with JSON lines, each behind the mark that its order names: `{"progress": …}` while it works, then
`{"complete": …}` or `{"failed": …}`. The mark is known to nobody else: huggingface_hub prints what a hub tells it to.
It ends with the controller, and may be killed at any time: what it fetched stays.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from typing import Any

if __name__ == "__main__":  # -P leaves our folder out of sys.path, whose names would hide others'
    sys.path.append(os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", "..")))

from vllm_fsm.adapters.download.blame import blame, no_way
from vllm_fsm.adapters.download.hub import Hub
from vllm_fsm.adapters.download.meter import Meter
from vllm_fsm.adapters.download.room import NoRoom, free_bytes, other_models
from vllm_fsm.adapters.download.transfer import Stopped, Transfer
from vllm_fsm.weights.hub_cache import Entry, Listing, RepoFolder
from vllm_fsm.weights.needs import Repo, Role
from vllm_fsm.weights.selection import NoWeights, elsewhere, index_shards, plain_files, weight_files

WORKERS = 8
"""Files at a time, as huggingface_hub does."""
INTERVAL = 0.1
"""Seconds between two looks at what was done."""
STEP, LONGEST = 4 << 20, 1.0
"""A report is due after so many bytes, or so many seconds; sooner where less silence is allowed."""
LAST_PIECES = 1.0
"""Seconds that the other files have to end when one has failed; a read that hangs must not hide why."""
NICENESS = 5
"""A model may be serving meanwhile."""
MEMORY = 1 << 30
"""Bytes that a hub's answers may make us take; the longest listing takes a quarter."""
PR_SET_PDEATHSIG = 1


class Fetcher:
    """One attempt at all repositories of `order`."""

    def __init__(self, order: dict[str, Any], hub: Hub) -> None:
        self._models: str = order["models"]
        self._repos = [Repo(**{**repo, "role": Role(repo["role"])}) for repo in order["repos"]]
        self._kept: list[str] = order["kept"]
        self._spare: int = order["spare"]
        self._longest: float = min(LONGEST, order["silence"] / 4)
        self._xet: bool = order["xet"]
        self._mark: str = order["mark"]
        self._hub = hub
        self._meter = Meter()
        self._stop = threading.Event()
        self._reported = (0, time.monotonic())
        """How many bytes had moved at the last report, and when that was."""
        self._unknown: str | None = None
        """What the engine will read besides, where only it knows how."""
        self.repo = self._repos[0]
        """The one that is worked on, for whoever asks what failed."""

    def run(self) -> dict[str, Any]:
        """Fetch everything; return what cannot be known of it here.

        Raises what `Transfer.fetch` and `Hub.resolve` do, `NoRoom` and `NoWeights`.
        """
        pool = ThreadPoolExecutor(WORKERS)
        try:
            return self._run(pool)
        finally:
            self._stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            self._report()

    def _run(self, pool: ThreadPoolExecutor) -> dict[str, Any]:
        plans = [self._plan(pool, repo) for repo in self._repos]
        self.repo = self._repos[0]
        self._measure(plans)
        for repo, folder, listing, entries in plans:
            self.repo = repo
            self._report()
            self._fetch(pool, repo, folder, listing, entries)
        for _, folder, listing, _ in plans:
            folder.refer(listing)
        return {"unknown": self._unknown, "repo": self._repos[0].id}

    def _plan(self, pool: ThreadPoolExecutor, repo: Repo) -> tuple[Repo, RepoFolder, Listing, list[Entry]]:
        """Ask what there is, fetch the small files, and read from them which weights are wanted."""
        self.repo = repo
        self._report()
        folder = RepoFolder(self._models, repo.id)
        os.makedirs(self._models, exist_ok=True)
        listing = self._hub.resolve(repo, self._heard)
        folder.prepare(listing)
        folder.sweep()
        known = listing.entries
        plain = [known[path] for path in plain_files(known, repo.role)]
        self._require(_missing({folder.blob(entry): (folder, entry) for entry in plain}))
        self._fetch(pool, repo, folder, listing, plain)

        def shards(index: str) -> list[str]:
            return index_shards(folder.read(listing.commit, index) or b"")

        try:
            weights = [known[path] for path in weight_files(known, repo, shards)]
        except NoWeights:
            self._unknown = elsewhere(folder.read(listing.commit, "config.json") or b"")
            if self._unknown is None:
                raise
            weights = []
        return repo, folder, listing, [*plain, *weights]

    def _measure(self, plans: list[tuple[Repo, RepoFolder, Listing, list[Entry]]]) -> None:
        """Count what there is and what is missing; see that there is room."""
        # By where they lie: two of the repositories may be the same, in two roles or revisions.
        blobs = {folder.blob(entry): (folder, entry) for _, folder, _, entries in plans for entry in entries}
        files = {
            folder.snapshot(listing.commit, entry.path): folder.holds(listing.commit, entry)
            for _, folder, listing, entries in plans
            for entry in entries
        }
        total, missing = sum(entry.size for _, entry in blobs.values()), _missing(blobs)
        self._meter.plan(total - missing, total, len(files), sum(files.values()))
        self._require(missing)

    def _require(self, needed: int) -> None:
        if needed and free_bytes(self._models) < needed + self._spare:
            raise self._no_room(needed)

    def _no_room(self, needed: int) -> NoRoom:
        return NoRoom(needed, self._spare, free_bytes(self._models), other_models(self._models, self._kept))

    def _fetch(
        self, pool: ThreadPoolExecutor, repo: Repo, folder: RepoFolder, listing: Listing, entries: list[Entry]
    ) -> None:
        transfer = Transfer(self._hub, folder, repo.id, listing.commit, self._meter, self._stop)
        same: dict[str, list[Entry]] = {}
        for entry in entries:
            if not folder.holds(listing.commit, entry):
                same.setdefault(entry.etag, []).append(entry)
        if self._xet and same:
            self._by_library(pool, repo, folder, listing, [entry for group in same.values() for entry in group])
            return
        self._await({pool.submit(transfer.fetch, group) for group in same.values()})

    def _await(self, work: Iterable[Future[Any]], look: Callable[[], None] = lambda: None) -> None:
        """Wait for `work`, `look` at it now and then, and report; the first failure ends all of it."""
        pending = set(work)
        while pending:
            done, pending = wait(pending, INTERVAL, FIRST_EXCEPTION)
            look()
            self._report_now_and_then()
            failures = [error for future in done if (error := future.exception()) is not None]
            if not failures and pending:
                failures = self._short_of_room()
            if failures:
                self._stop.set()
                for future in pending:
                    future.cancel()
                wait(pending, LAST_PIECES)
                raise next((error for error in failures if not isinstance(error, Stopped)), failures[0])

    def _short_of_room(self) -> list[BaseException]:
        try:
            count = self._meter.read()
            left = 0 if count.total is None else count.total - count.done
            if left > 0 and free_bytes(self._models) < self._spare:
                return [self._no_room(left)]
        except OSError as error:
            return [error]
        return []

    def _by_library(
        self, pool: ThreadPoolExecutor, repo: Repo, folder: RepoFolder, listing: Listing, entries: list[Entry]
    ) -> None:
        """Leave the transfer to huggingface_hub, which alone speaks Xet. It begins each interrupted file anew."""
        from huggingface_hub import snapshot_download

        for entry in entries:
            self._meter.add(lost=folder.discard(entry))
        wanted = {entry.etag: entry.size for entry in entries}
        seen = folder.written(wanted)

        def look() -> None:
            nonlocal seen
            before, seen = seen, folder.written(wanted)
            self._meter.add(received=max(0, seen - before), lost=max(0, before - seen))

        paths = [entry.path for entry in entries]
        fetch = pool.submit(
            snapshot_download, repo.id, revision=listing.commit, cache_dir=self._models, allow_patterns=paths
        )
        self._await({fetch}, look)
        look()
        self._meter.add(files=len(entries))

    def _heard(self) -> None:
        self._meter.add(listed=1)
        self._report_now_and_then()

    def _report_now_and_then(self) -> None:
        count = self._meter.read()
        if count.moved - self._reported[0] >= STEP or time.monotonic() - self._reported[1] >= self._longest:
            self._report()

    def _report(self) -> None:
        count = self._meter.read()
        self._reported = (count.moved, time.monotonic())
        say(self._mark, "progress", {"repo": self.repo.id, **asdict(count)})


def _missing(blobs: Mapping[str, tuple[RepoFolder, Entry]]) -> int:
    """Return how many bytes of these are not on the disk."""
    return sum(entry.size - folder.present(entry) for folder, entry in blobs.values())


def say(mark: str, kind: str, fields: dict[str, Any]) -> None:
    """Write one line."""
    sys.stdout.write(f"{mark}{json.dumps({kind: fields})}\n")
    sys.stdout.flush()


def obey(order: dict[str, Any]) -> int:
    """Do what `order` says; return the exit code."""
    try:
        hub = Hub(order["silence"])
    except Exception as error:
        say(order["mark"], "failed", asdict(no_way(error)))
        return 1
    fetcher = Fetcher(order, hub)
    try:
        say(order["mark"], "complete", fetcher.run())
    except Exception as error:
        say(order["mark"], "failed", asdict(blame(error, fetcher.repo, hub, order["silence"])))
        return 1
    return 0


def main() -> int:
    """End with the controller, read the order, do it."""
    order = json.loads(sys.stdin.readline())
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != order["parent"]:
        return 1
    os.nice(NICENESS)
    if not order["xet"]:  # which takes what it needs to be fast
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    return obey(order)


if __name__ == "__main__":
    code = main()
    # The pool's threads may hang in a read: nothing is left to be done that they could spoil.
    sys.stdout.flush()
    os._exit(code)
