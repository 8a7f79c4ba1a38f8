"""Fetches what one engine start needs: a process of its own, executed by path, told what to do in one JSON line.

It answers with JSON lines: `{"progress": …}` while it works, then `{"complete": …}` or `{"failed": …}`. It ends with
the controller, and may be killed at any time: what it fetched stays.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from typing import Any

if __name__ == "__main__":  # -P leaves our folder out of sys.path, whose names would hide others'
    sys.path.append(os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", "..")))

from vllm_fsm.adapters.download.blame import blame
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
STEP, LONGEST = 4 << 20, 0.5
"""A report is due after so many bytes, or so many seconds."""
NICENESS = 5
"""A model may be serving meanwhile."""
PR_SET_PDEATHSIG = 1


class Fetcher:
    """One attempt at all repositories of `order`."""

    def __init__(self, order: dict[str, Any], hub: Hub) -> None:
        self._models: str = order["models"]
        self._repos = [Repo(**{**repo, "role": Role(repo["role"])}) for repo in order["repos"]]
        self._spare: int = order["spare"]
        self._xet: bool = order["xet"]
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
        with ThreadPoolExecutor(WORKERS) as pool:
            try:
                return self._run(pool)
            finally:
                self._stop.set()

    def _run(self, pool: ThreadPoolExecutor) -> dict[str, Any]:
        plans = [self._plan(pool, repo) for repo in self._repos]
        self._measure(plans)
        for repo, folder, listing, entries in plans:
            self.repo = repo
            self._report()
            self._fetch(pool, repo, folder, listing, entries)
        for _, folder, listing, _ in plans:
            folder.refer(listing)
        self._report()
        return {"unknown": self._unknown, "repo": self._repos[0].id}

    def _plan(self, pool: ThreadPoolExecutor, repo: Repo) -> tuple[Repo, RepoFolder, Listing, list[Entry]]:
        """Ask what there is, fetch the small files, and read from them which weights are wanted."""
        self.repo = repo
        self._report()
        folder = RepoFolder(self._models, repo.id)
        os.makedirs(self._models, exist_ok=True)
        listing = self._hub.resolve(repo)
        folder.prepare(listing)
        folder.sweep()
        known = listing.entries
        plain = [known[path] for path in plain_files(known, repo.role)]
        self._check_room(plain, folder)
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
        done = total = files = files_done = 0
        for _, folder, listing, entries in plans:
            for entry in {entry.etag: entry for entry in entries}.values():
                total += entry.size
                done += folder.present(entry)
            files += len(entries)
            files_done += sum(folder.holds(listing.commit, entry) for entry in entries)
        self._meter.plan(done, total, files, files_done)
        self._require(total - done)

    def _check_room(self, entries: list[Entry], folder: RepoFolder) -> None:
        self._require(sum(entry.size - folder.present(entry) for entry in entries))

    def _require(self, needed: int) -> None:
        free = free_bytes(self._models)
        if needed and needed + self._spare > free:
            wanted = {RepoFolder(self._models, repo.id).name for repo in self._repos}
            raise NoRoom(needed, free, other_models(self._models, wanted))

    def _fetch(
        self, pool: ThreadPoolExecutor, repo: Repo, folder: RepoFolder, listing: Listing, entries: list[Entry]
    ) -> None:
        transfer = Transfer(self._hub, folder, repo.id, listing.commit, self._meter, self._stop)
        same: dict[str, list[Entry]] = {}
        for entry in entries:
            if not folder.holds(listing.commit, entry):
                same.setdefault(entry.etag, []).append(entry)
        if self._xet and same:
            self._by_library(pool, repo, listing, [entry for group in same.values() for entry in group])
            return
        self._await({pool.submit(transfer.fetch, group) for group in same.values()})

    def _await(self, work: set[Future[None]]) -> None:
        """Wait for `work` and report; the first failure ends all of it."""
        pending = work
        while pending:
            done, pending = wait(pending, INTERVAL, FIRST_EXCEPTION)
            self._report_now_and_then()
            failures = [error for future in done if (error := future.exception()) is not None]
            if not failures and pending:
                failures = self._short_of_room()
            if failures:
                self._stop.set()
                for future in pending:
                    future.cancel()
                wait(pending)
                raise next((error for error in failures if not isinstance(error, Stopped)), failures[0])

    def _short_of_room(self) -> list[BaseException]:
        try:
            count = self._meter.read()
            self._require(min(1, (count.total or 1) - count.done))
        except (NoRoom, OSError) as error:
            return [error]
        return []

    def _by_library(self, pool: ThreadPoolExecutor, repo: Repo, listing: Listing, entries: list[Entry]) -> None:
        """Leave the transfer to huggingface_hub, which alone speaks Xet. It begins each interrupted file anew."""
        from huggingface_hub import snapshot_download

        paths = [entry.path for entry in entries]
        fetch = pool.submit(
            snapshot_download, repo.id, revision=listing.commit, cache_dir=self._models, allow_patterns=paths
        )
        self._await({fetch})  # type: ignore[arg-type]
        self._meter.add(received=sum({entry.etag: entry.size for entry in entries}.values()), files=len(entries))

    def _report_now_and_then(self) -> None:
        count = self._meter.read()
        moved = count.received + count.hashed
        if moved - self._reported[0] >= STEP or time.monotonic() - self._reported[1] >= LONGEST:
            self._report()

    def _report(self) -> None:
        count = self._meter.read()
        self._reported = (count.received + count.hashed, time.monotonic())
        say("progress", {"repo": self.repo.id, **asdict(count)})


def say(kind: str, fields: dict[str, Any]) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps({kind: fields}) + "\n")
    sys.stdout.flush()


def obey(order: dict[str, Any]) -> int:
    """Do what `order` says; return the exit code."""
    hub = Hub(order["silence"])
    fetcher = Fetcher(order, hub)
    try:
        say("complete", fetcher.run())
    except Exception as error:
        say("failed", asdict(blame(error, fetcher.repo, hub, order["silence"])))
        return 1
    return 0


def main() -> int:
    """End with the controller, read the order, do it."""
    order = json.loads(sys.stdin.readline())
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != order["parent"]:
        return 1
    os.nice(NICENESS)
    return obey(order)


if __name__ == "__main__":
    code = main()
    # The pool's threads may hang in a read: nothing is left to be done that they could spoil.
    sys.stdout.flush()
    os._exit(code)
