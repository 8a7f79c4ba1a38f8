"""Looks into the cache, and has a child process fetch what is missing; everything it learns is posted as an event."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vllm_fsm.adapters.aside import aside
from vllm_fsm.adapters.download.speed import Speed, time_left
from vllm_fsm.arguments import reserved_name
from vllm_fsm.core import effects, events
from vllm_fsm.core.snapshot import Finding, Message, Progress, Target
from vllm_fsm.weights.completeness import look
from vllm_fsm.weights.names import folder_of
from vllm_fsm.weights.needs import Needs, named, needs

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_fsm.adapters.ports import Clock, Log, Post

PROGRAM = os.path.join(os.path.dirname(__file__), "fetcher.py")
SPARE = 1 << 30
"""Bytes that a download leaves free: a full volume breaks more than a download."""
GONE = 5.0
"""Seconds in which a killed child is seen gone: one that hangs in the kernel over a dead disk does no more harm."""
LONGEST_LINE = 1 << 16
"""Bytes of one line from the child."""
COMPLAINT = 2000
"""Characters of a line that are logged of what the child says besides, such as a warning of huggingface_hub."""

_PASSED_ON = re.compile(
    r"HF_.*|HUGGING_FACE_HUB_TOKEN|.*_proxy|SSL_CERT_(?:FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE", re.IGNORECASE
)
"""The target's variables that concern the hub and the way to it; its other secrets are not the child's business."""
_NOT_FOR_US = frozenset({"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_ENABLE_HF_TRANSFER"})

Work = Callable[[int, Target], Coroutine[Any, Any, None]]
"""What is done for the check or download of this number and target."""


class Downloader:
    """Does the effects of the download's life.

    Args:
        models: the hub's cache.
        silence: seconds without a byte after which an attempt is given up.
        xet: leave transfers to huggingface_hub, which speaks Xet.
        redact: takes secrets out of a text.
        spare: bytes to leave free on the volume.
        serving: returns what an engine runs or starts with, whose files are in use.
    """

    def __init__(
        self,
        *,
        post: Post,
        clock: Clock,
        log: Log,
        models: Path,
        silence: float,
        xet: bool = False,
        redact: Callable[[str], str] = str,
        spare: int = SPARE,
        serving: Callable[[], Target | None] = lambda: None,
    ) -> None:
        self._post = post
        self._clock = clock
        self._log = log
        self._models = models
        self._silence = silence
        self._xet = xet
        self._redact = redact
        self._spare = spare
        self._serving = serving
        self._work: asyncio.Task[None] | None = None
        self._ended: set[asyncio.Task[None]] = set()

    # --- effects -----------------------------------------------------------------------------------------------------

    def check(self, effect: effects.CheckWeights) -> None:
        """Look into the cache and at paths here → WeightsComplete, WeightsMissing, DownloadFailed.

        A disk that does not answer is waited for, in a thread of its own: until then another effect ends the wait.
        """
        self._begin(self._check, effect)

    def start(self, effect: effects.StartDownload) -> None:
        """Fetch → DownloadProgressed …, then WeightsComplete or DownloadFailed."""
        self._begin(self._fetch, effect)

    def cancel(self, _effect: effects.CancelDownload) -> None:
        """Kill what is under way; what was fetched stays."""
        self._drop()

    async def close(self) -> None:
        """End everything, within seconds; nothing is posted any more."""
        self._drop()
        await asyncio.gather(*self._ended, return_exceptions=True)

    def _drop(self) -> None:
        """Cancel the work at hand, once: it ends when nothing of its child is left."""
        if self._work is not None:
            self._work.cancel()
            self._work = None

    def _begin(self, work: Work, effect: effects.CheckWeights | effects.StartDownload) -> None:
        """Do `work` when what was begun before has ended: two children would be in each other's way."""
        before = tuple(self._ended)

        async def do() -> None:
            if before:
                await asyncio.wait(before)
            try:
                await work(effect.fetch, effect.target)
            except Exception as error:
                finding = Finding.of("DownloadFailed", error=self._redact(f"{type(error).__name__}: {error}"))
                self._fail(effect.fetch, finding)

        self._drop()
        self._work = asyncio.get_running_loop().create_task(do())
        self._ended.add(self._work)
        self._work.add_done_callback(self._ended.discard)

    # --- looking -----------------------------------------------------------------------------------------------------

    async def _check(self, fetch: int, target: Target) -> None:
        found = await aside(lambda: look(self._models, _needs(target)))
        now = self._clock()
        if found.problem is not None:
            self._post(events.DownloadFailed(now, fetch, found.problem))
        elif found.complete:
            self._post(events.WeightsComplete(now, fetch, found.offline, found.note))
        else:
            self._post(events.WeightsMissing(now, fetch))

    # --- fetching ----------------------------------------------------------------------------------------------------

    async def _fetch(self, fetch: int, target: Target) -> None:
        wanted = await aside(_needs, target)
        attempt = _Attempt(fetch, self._clock)
        given = environment(os.environ, target, wanted, models=self._models, xet=self._xet)
        if not _is_address(given.get("HF_ENDPOINT", "https://huggingface.co")):
            error = "HF_ENDPOINT is no address that begins with https:// or http://"
            self._fail(fetch, Finding.of("HubSettingsWrong", permanent=True, error=error))
            return
        order = self._order(target, wanted)
        async with _Child(order, given) as child:
            ending = await self._listen(child.lines, attempt, order["mark"].encode())
            if ending is None:
                finding = Finding.of("DownloadStalled", repo=attempt.repo, seconds=round(self._silence))
                self._fail(fetch, finding, moved=attempt.moved)
            else:
                await self._conclude(attempt, wanted, ending, await child.status())

    def _order(self, target: Target, wanted: Needs) -> dict[str, Any]:
        repos = [asdict(repo) | {"role": repo.role.value} for repo in wanted.repos]
        in_use = [named(each) for each in (target, self._serving()) if each is not None]
        return {
            "parent": os.getpid(),
            "mark": secrets.token_hex(16),
            "models": os.fspath(self._models),
            "repos": repos,
            "kept": sorted(folder_of(repo) for repo in frozenset[str]().union(*in_use)),
            "silence": self._silence,
            "spare": self._spare,
            "xet": self._xet,
        }

    async def _listen(self, lines: asyncio.StreamReader, attempt: _Attempt, mark: bytes) -> dict[str, Any] | None:
        """Read what the child says until it has no more to say; None when nothing moved for too long.

        Only lines that begin with `mark` are its words: huggingface_hub prints what a hub tells it to.
        Returns its last word, or an empty dictionary.
        """
        while True:
            patience = attempt.moved_at + self._silence - self._clock()
            try:
                async with asyncio.timeout(max(0.0, patience)):
                    line = await lines.readline()
            except TimeoutError:
                if patience > 0:  # look once more without waiting: it may be we who stood still
                    continue
                return None
            except ValueError:  # too long for one of ours
                self._log("fetcher-said", text="…")
                continue
            if not line:
                return {}
            said = _word(line, mark)
            if said is None:
                self._log("fetcher-said", text=self._redact(line.decode("utf-8", "replace").strip())[:COMPLAINT])
                continue
            if "progress" not in said:
                return said
            progress = attempt.take(said["progress"])
            if progress is not None:
                self._post(events.DownloadProgressed(self._clock(), attempt.fetch, progress))

    async def _conclude(self, attempt: _Attempt, wanted: Needs, ending: Mapping[str, Any], status: int) -> None:
        if "complete" in ending:
            if unknown := ending["complete"]["unknown"]:
                note = Message.of("FetchedByEngine", model=ending["complete"]["repo"], what=unknown)
                self._post(events.WeightsComplete(self._clock(), attempt.fetch, note=note))
                return
            found = await aside(look, self._models, wanted)
            if found.complete:
                self._post(events.WeightsComplete(self._clock(), attempt.fetch, found.offline, found.note))
            else:
                self._fail(attempt.fetch, Finding.of("DownloadFailed", error="a file is missing all the same"))
        elif "failed" in ending:
            blame = ending["failed"]
            params = {
                name: self._redact(value) if isinstance(value, str) else value
                for name, value in blame["params"].items()
            }
            message = Message.of(blame["reason"], **params)
            finding = Finding(message, blame["permanent"], self._redact(blame["evidence"]))
            self._fail(attempt.fetch, finding, blame["retry_after"], attempt.moved)
        else:
            finding = Finding.of("FetcherEnded", status=_named(status))
            self._fail(attempt.fetch, finding, moved=attempt.moved)

    def _fail(self, fetch: int, finding: Finding, retry_after: float = 0.0, moved: bool = False) -> None:
        self._post(events.DownloadFailed(self._clock(), fetch, finding, retry_after, moved))


class _Child:
    """The fetcher at work on its order; `async with` leaves nothing of it, unless a dead disk holds it."""

    def __init__(self, order: Mapping[str, Any], given: Mapping[str, str]) -> None:
        self.lines = asyncio.StreamReader(LONGEST_LINE)
        """What it says."""
        # A file and no pipe: a long order must not wait for its reader.
        with open(os.memfd_create("order"), "w+b") as file:
            file.write(json.dumps(order).encode())
            file.seek(0)
            self._process = subprocess.Popen(
                (sys.executable, "-P", PROGRAM),
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(given),
                start_new_session=True,
            )

    async def __aenter__(self) -> _Child:
        loop = asyncio.get_running_loop()
        said = asyncio.StreamReaderProtocol(self.lines)
        try:
            self._pipe, _ = await loop.connect_read_pipe(lambda: said, self._process.stdout)
        except BaseException:  # cancelled: the loop closes the pipe
            await self._end()
            raise
        return self

    async def status(self) -> int:
        """Wait for its end; as in `subprocess`."""
        return await aside(self._process.wait)

    async def __aexit__(self, *_: object) -> None:
        self._pipe.close()
        await self._end()

    async def _end(self) -> None:
        self._process.kill()
        # Its locks and its memory are free when it is reaped.
        done, _ = await asyncio.wait((asyncio.create_task(self.status()),), timeout=GONE)
        for status in done:
            status.result()


class _Attempt:
    """What one child has said so far."""

    def __init__(self, fetch: int, clock: Clock) -> None:
        self.fetch = fetch
        self.moved = False
        """It brought new bytes, more than had to be thrown away."""
        self.moved_at = clock()
        """When something last moved, monotonic."""
        self.repo = ""
        self._clock = clock
        self._speed = Speed()
        self._seen: Mapping[str, Any] = {}

    def take(self, said: Mapping[str, Any]) -> Progress | None:
        """Take one report; return what it means when it says something new."""
        self.repo = said["repo"]
        now = self._clock()
        self._speed.feed(now, said["received"])
        if said == self._seen:
            return None
        self._seen = said
        self.moved_at = now
        self.moved = said["received"] > said["lost"]
        total, speed = said["total"], self._speed.value
        done = said["done"] if total is None else max(0, min(said["done"], total))
        eta = None if total is None else time_left(total - done, speed)
        return Progress(said["repo"], done, total, speed, eta, said["files_done"], said["files"])


def _needs(target: Target) -> Needs:
    return needs(target, inherited=os.environ)


def environment(
    base: Mapping[str, str], target: Target, wanted: Needs, *, models: str | os.PathLike[str], xet: bool
) -> dict[str, str]:
    """Return the child's environment: ours without our own settings, and of the target's what concerns the hub."""
    inherited = {name: value for name, value in base.items() if not reserved_name(name) and name not in _NOT_FOR_US}
    passed = {
        name: value for name, value in target.environment if _PASSED_ON.fullmatch(name) and name not in _NOT_FOR_US
    }
    token = {"HF_TOKEN": wanted.token} if wanted.token else {}
    fixed = {
        "HF_HUB_CACHE": os.fspath(models),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "0" if xet else "1",
        "PYTHONUNBUFFERED": "1",
    }
    return inherited | passed | token | fixed


def _is_address(endpoint: str) -> bool:
    """Whether a hub can be asked there; huggingface_hub does not even load with some that are none."""
    try:
        address = urlsplit(endpoint)
        return address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
    except ValueError:
        return False


def _word(line: bytes, mark: bytes) -> dict[str, Any] | None:
    """Read a line in our own words; None when it is something else, such as a warning of huggingface_hub."""
    if not line.startswith(mark):
        return None
    try:
        said = json.loads(line[len(mark) :])
    except ValueError:  # it was killed in the middle
        return None
    return said if isinstance(said, dict) else None


def _named(status: int) -> str:
    try:
        return signal.Signals(-status).name if status < 0 else str(status)
    except ValueError:
        return str(status)
