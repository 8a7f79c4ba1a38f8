"""Downloads by the real huggingface_hub from a fake hub: what is fetched, resumed, checked, refused."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import hashlib
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import scan_cache_dir, snapshot_download

from support.download_rig import KEY, PATIENT, Rig
from support.fake_hub import FakeHub
from support.pressure import unhurried
from support.volume import mount, on_volume
from support.wait import await_for, wait_for
from vllm_fsm.adapters.aside import aside
from vllm_fsm.adapters.download import downloader
from vllm_fsm.core import events
from vllm_fsm.core.snapshot import Finding, Target
from vllm_fsm.messages import text
from vllm_fsm.weights.hub_cache import PIECE, RepoFolder
from vllm_fsm.weights.needs import Needs, needs

MIB = 1 << 20
TOKEN = "hf_" + "t" * 34
SILENCE, PAUSE = 100.0, 80.0
"""Seconds of the downloader's clock: what is allowed, and what passes between two reports."""
WEIGHTS = r"GET .*\.safetensors$"
Scenario = Callable[[Rig], Awaitable[None]]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub(tmp_path / "hub", tokens={TOKEN: ["org/granted"]}) as hub:
        yield hub


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def play(scenario: Scenario, hub: FakeHub, models: Path, **options: object) -> None:
    """Play `scenario` with a downloader; nothing is left of it afterwards."""

    async def whole() -> None:
        async with Rig(hub.url, models, **options) as rig:
            await scenario(rig)

    asyncio.run(whole())


def blobs(models: Path) -> dict[str, int]:
    """The sizes of all blobs, partial ones included."""
    sizes = {}
    for blob in models.glob("models--*/blobs/*"):
        with suppress(FileNotFoundError):  # it became complete this moment
            sizes[blob.name] = blob.stat().st_size
    return sizes


def partials(models: Path) -> list[str]:
    return [name for name in blobs(models) if name.endswith(".incomplete")]


def stop_after(size: int, match: str = WEIGHTS) -> dict[str, object]:
    """A rule by which the hub sends so many bytes of an answer and then, for as long as any test lasts, no more."""
    return {"match": match, "action": "stall", "after_bytes": size, "seconds": 3600}


def found(models: Path, pattern: str) -> list[Path]:
    return sorted(models.glob(pattern))


def environ(pid: int | str) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def asked_for(hub: FakeHub) -> set[str]:
    """The files that were fetched."""
    paths = (request["path"] for request in hub.requests() if request["method"] == "GET")
    return {path.split("/", 5)[5] for path in paths if "/resolve/" in path}


# --- what is fetched -----------------------------------------------------------------------------------------------


def test_a_model_is_fetched_once_and_complete_from_then_on(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model", shards=2)

    async def scenario(rig: Rig) -> None:
        assert isinstance(await rig.checks("org/model"), events.WeightsMissing)
        ended = await rig.fetches("org/model")
        assert isinstance(ended, events.WeightsComplete), ended
        assert (ended.offline, ended.note) == (True, None)
        last = next(event for event in reversed(rig.events) if isinstance(event, events.DownloadProgressed)).progress
        assert (last.repo, last.done, last.files_done) == ("org/model", last.total, last.files)
        assert last.total == sum(blobs(models).values())
        hub.stop()
        found = await rig.checks("org/model")
        assert isinstance(found, events.WeightsComplete), found
        assert found.offline

    play(scenario, hub, models)
    # The library finds it as well, and nothing wrong with it.
    found = snapshot_download("org/model", cache_dir=models, local_files_only=True)
    assert (Path(found) / "model-00002-of-00002.safetensors").stat().st_size > 0
    report = scan_cache_dir(models)
    assert not report.warnings
    assert report.size_on_disk == sum(blobs(models).values())


def test_only_what_vllm_reads_is_fetched(hub: FakeHub, models: Path) -> None:
    others = ("pytorch_model.bin", "original/params.json", "original/consolidated.00.pth", "model.gguf", "a.png")
    hub.repo("org/model", shards=2, files={**dict.fromkeys(others, b"x"), "README.md": b"read me"})

    async def scenario(rig: Rig) -> None:
        assert isinstance(await rig.fetches("org/model"), events.WeightsComplete)

    play(scenario, hub, models)
    fetched = asked_for(hub)
    assert fetched.isdisjoint(others)
    assert {"README.md", "config.json", "tokenizer.json", "model-00001-of-00002.safetensors"} <= fetched


def test_every_repository_that_the_engine_needs_is_fetched(hub: FakeHub, models: Path) -> None:
    for number, name in enumerate(("model", "tokens", "draft", "adapter")):
        hub.repo(f"org/{name}", seed=number)

    async def scenario(rig: Rig) -> None:
        draft = '{"model": "org/draft", "num_speculative_tokens": 2}'
        arguments = ("org/model", "--tokenizer", "org/tokens", "-sc", draft, "--lora-modules", "a=org/adapter")
        ended = await rig.fetches(*arguments)
        assert isinstance(ended, events.WeightsComplete), ended
        assert isinstance(await rig.checks(*arguments), events.WeightsComplete)

    play(scenario, hub, models)
    assert {path.parents[2].name for path in models.glob("models--*/snapshots/*/model.safetensors")} == {
        "models--org--model",
        "models--org--draft",
        "models--org--adapter",
    }
    assert list(models.glob("models--org--tokens/snapshots/*/tokenizer.json"))


def test_a_local_model_needs_nothing(hub: FakeHub, models: Path, tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        ended = await rig.checks(str(tmp_path))
        assert isinstance(ended, events.WeightsComplete), ended
        assert not ended.offline

    play(scenario, hub, models)
    assert hub.requests() == []


def test_a_look_that_does_not_return_holds_nothing_up(
    hub: FakeHub, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    answers = threading.Event()

    def hang(target: Target, **options: Any) -> Needs:
        if target.model == "/away":
            looks.append(target.model)
            assert answers.wait(5.0)
        return needs(target, **options)

    monkeypatch.setattr(downloader, "needs", hang)

    async def scenario(rig: Rig) -> None:
        rig.begin("/away")
        await await_for(lambda: len(looks) == 1, what="the first look")
        rig.start("/away")
        await await_for(lambda: len(looks) == 2, what="the second look")
        assert isinstance(await rig.checks(str(tmp_path)), events.WeightsComplete)
        rig.begin("/away")
        await await_for(lambda: len(looks) == 3, what="the third look")

    play(scenario, hub, models)
    answers.set()


def test_a_killed_child_that_a_dead_disk_holds_is_not_waited_for(
    hub: FakeHub, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repo("org/model", size_mb=20)
    hub.bandwidth(MIB)
    answers = threading.Event()

    def end(process: subprocess.Popen[bytes]) -> int:
        assert answers.wait(30.0)
        return process.wait()

    monkeypatch.setattr(downloader._Child, "status", lambda child: aside(end, child._process))
    monkeypatch.setattr(downloader, "GONE", 0.1)

    async def scenario(rig: Rig) -> None:
        rig.start("org/model")
        await rig.moves()
        assert isinstance(await rig.checks(str(tmp_path)), events.WeightsComplete)
        rig.start("org/model")
        await rig.moves()

    play(scenario, hub, models)
    answers.set()
    for thread in threading.enumerate():
        if thread.name == "aside":
            thread.join(10.0)


def test_what_only_vllm_can_fetch_is_left_to_it_with_a_note(hub: FakeHub, models: Path) -> None:
    async def scenario(rig: Rig) -> None:
        ended = await rig.checks("s3://bucket/model")
        assert isinstance(ended, events.WeightsComplete), ended
        assert not ended.offline
        assert ended.note is not None
        assert "s3://bucket/model" in text(ended.note)

    play(scenario, hub, models)


def test_code_of_another_repository_needs_the_hub(hub: FakeHub, models: Path) -> None:
    config = b'{"model_type": "x", "auto_map": {"AutoConfig": "other/code--configuration.Config"}}'
    hub.repo("org/model", files={"config.json": config})

    async def scenario(rig: Rig) -> None:
        for ended in (
            await rig.fetches("org/model", "--trust-remote-code"),
            await rig.checks("org/model", "--trust-remote-code"),
        ):
            assert isinstance(ended, events.WeightsComplete), ended
            assert not ended.offline
            assert ended.note is not None
        without = await rig.checks("org/model")
        assert without.offline

    play(scenario, hub, models)


def test_two_thousand_files(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model", files={f"part/{number:04}.txt": b"%d" % number for number in range(2000)})

    async def scenario(rig: Rig) -> None:
        ended = await rig.fetches("org/model", timeout=120.0)
        assert isinstance(ended, events.WeightsComplete), ended
        began = time.process_time()
        assert isinstance(await rig.checks("org/model"), events.WeightsComplete)
        assert time.process_time() - began < 1.0

    play(scenario, hub, models)
    assert len(list(models.glob("models--org--model/snapshots/*/part/*.txt"))) == 2000


def test_files_behind_a_content_network(tmp_path: Path, models: Path) -> None:
    with FakeHub(tmp_path / "hub", cdn=True, tokens={TOKEN: ["org/granted"]}) as hub:
        hub.repo("org/granted", gated=True)

        async def scenario(rig: Rig) -> None:
            assert isinstance(await rig.fetches("org/granted", HF_TOKEN=TOKEN), events.WeightsComplete)

        play(scenario, hub, models)
        elsewhere = [request for request in hub.requests() if request["path"].startswith("/_cdn/")]
        assert elsewhere
        assert not any(request["auth"] for request in elsewhere), "the token goes to the hub only"


def test_two_commits_side_by_side(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model", shards=2)
    again = {}

    async def scenario(rig: Rig) -> None:
        assert isinstance(await rig.fetches("org/model"), events.WeightsComplete)
        again["sent"] = hub.sent()
        hub.repo("org/model", shards=2, files={"config.json": b'{"model_type": "llama", "changed": true}'})
        commit = RepoFolder(models, "org/model").commit("main")
        assert isinstance(await rig.checks("org/model"), events.WeightsComplete), "a moved branch breaks no start"
        moved = await asyncio.to_thread(_commit, hub, "org/model")
        assert moved != commit
        assert isinstance(await rig.fetches("org/model", "--revision", moved), events.WeightsComplete)
        last = next(event for event in reversed(rig.events) if isinstance(event, events.DownloadProgressed)).progress
        assert (last.done, last.files_done) == (last.total, last.files), "what was there already counts as well"
        assert isinstance(await rig.checks("org/model", "--revision", moved), events.WeightsComplete)
        assert isinstance(await rig.checks("org/model", "--revision", commit or ""), events.WeightsComplete)
        assert hub.sent() - again["sent"] < 1000, "only what differs is fetched"

    play(scenario, hub, models)


def _commit(hub: FakeHub, repo_id: str) -> str:
    from huggingface_hub import HfApi

    commit = HfApi(endpoint=hub.url).model_info(repo_id).sha
    assert commit is not None
    return commit


def test_the_library_fetches_by_itself_where_xet_is_asked_for(hub: FakeHub, models: Path) -> None:
    """The fake hub speaks no Xet: the library falls back to plain HTTP, on the same way through our code."""
    hub.repo("org/model", shards=2)

    async def scenario(rig: Rig) -> None:
        ended = await rig.fetches("org/model")
        assert isinstance(ended, events.WeightsComplete), ended
        assert isinstance(await rig.checks("org/model"), events.WeightsComplete)

    play(scenario, hub, models, xet=True)


def test_the_library_at_work_is_no_silence(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model", size_mb=50)
    hub.bandwidth(10 * MIB)  # the library writes 10 MB at a time

    async def scenario(rig: Rig) -> None:
        assert (await rig.fetches("org/model")).offline
        assert rig.passed > 2 * SILENCE
        shown = [event.progress for event in rig.events if isinstance(event, events.DownloadProgressed)]
        assert len({progress.done for progress in shown}) > 3
        assert (shown[-1].done, shown[-1].files_done) == (shown[-1].total, shown[-1].files)
        # A partial file of ours is of no use to it, and belongs to nothing when it is done.
        (whole,) = found(models, f"models--org--model/blobs/{'?' * 64}")
        whole.with_suffix(".incomplete").write_bytes(bytes(MIB))
        whole.unlink()
        hub.bandwidth(0)
        assert isinstance(await rig.fetches("org/model"), events.WeightsComplete)

    play(scenario, hub, models, xet=True, silence=SILENCE, pause=PAUSE)
    assert partials(models) == []


# --- resumed ---------------------------------------------------------------------------------------------------------


def test_killed_at_twenty_moments_it_loses_no_more_than_was_under_way(hub: FakeHub, models: Path) -> None:
    folder = hub.repo("org/model", size_mb=300, shards=3)
    size = sum(file.stat().st_size for file in folder.iterdir())
    shards = {shard: hashlib.sha256(shard.read_bytes()).hexdigest() for shard in folder.glob("*.safetensors")}
    dice = random.Random(20)
    hub.bandwidth(40 * MIB)

    def hold() -> None:
        """Keep the last byte of the shard of which most is missing: however late we come, there is a child to kill."""
        there = blobs(models)
        left = {shard: shard.stat().st_size - there.get(f"{name}.incomplete", 0) for shard, name in shards.items()}
        left |= {shard: 0 for shard, name in shards.items() if name in there}
        most = max(left, key=lambda shard: left[shard])
        hub.faults(stop_after(left[most] - 1, f"GET .*{most.name}$"))

    async def scenario(rig: Rig) -> None:
        for number in range(20):
            hold()
            rig.start("org/model")
            # The later ones come to the last bytes.
            await rig.moves(min(size - 1, int(size * (number + dice.random()) / 20)))
            (child,) = rig.children()
            os.kill(child.pid, signal.SIGKILL)
            ended = await rig.ending()
            assert isinstance(ended, events.DownloadFailed), ended
            assert ended.finding.reason == "FetcherEnded"
        hub.faults()
        hub.bandwidth(0)
        assert isinstance(await rig.fetches("org/model"), events.WeightsComplete)

    play(scenario, hub, models)
    # Three files at a time, each with what lies in the sockets between the hub and the child.
    assert hub.sent() <= size + 20 * PIECE, f"{(hub.sent() - size) / MIB:.1f} MiB in 20 kills"
    assert partials(models) == []


def test_a_connection_that_is_cut_goes_on_where_it_ended(hub: FakeHub, models: Path) -> None:
    folder = hub.repo("org/model", size_mb=40)
    size = (folder / "model.safetensors").stat().st_size
    hub.faults({"match": r"GET .*model\.safetensors$", "action": "drop", "after_bytes": 15 * MIB, "times": 2})

    async def scenario(rig: Rig) -> None:
        assert isinstance(await rig.fetches("org/model"), events.WeightsComplete)

    play(scenario, hub, models)
    ranges = [request["range"] for request in hub.requests() if request["path"].endswith("/model.safetensors")]
    assert ranges == [None, f"bytes={15 * MIB}-", f"bytes={30 * MIB}-"]
    assert hub.sent("model.safetensors") < size + MIB


def test_a_server_that_knows_no_ranges_begins_anew(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model", size_mb=20)
    hub.faults(
        {"match": r"GET .*model\.safetensors$", "action": "drop", "after_bytes": 5 * MIB, "times": 1},
        {"match": r"GET .*model\.safetensors$", "action": "ignore-range"},
    )

    async def scenario(rig: Rig) -> None:
        assert isinstance(await rig.fetches("org/model"), events.WeightsComplete)
        done = [event.progress for event in rig.events if isinstance(event, events.DownloadProgressed)]
        assert all(progress.total is None or progress.done <= progress.total for progress in done)

    play(scenario, hub, models)


def test_a_branch_that_moves_meanwhile(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model", size_mb=60, shards=3)
    hub.faults(stop_after(12 * MIB))

    async def scenario(rig: Rig) -> None:
        rig.start("org/model")
        await rig.moves(30 * MIB)
        rig.downloader.cancel(None)  # type: ignore[arg-type]
        await await_for(lambda: not rig.children(), what="the child is gone")
        before = blobs(models)
        assert len(partials(models)) == 3
        hub.faults()
        first = next((hub.root / "org/model").glob("model-00001*"))
        first.write_bytes(first.read_bytes()[:-4] + b"new!")
        assert isinstance(await rig.fetches("org/model"), events.WeightsComplete)
        lost = [
            name
            for name in before
            if name.endswith(".incomplete") and name.removesuffix(".incomplete") not in blobs(models)
        ]
        assert len(lost) == 1, "one file changed, the others went on"

    play(scenario, hub, models)
    assert partials(models) == []


def test_after_a_power_cut_what_was_not_synced_does_not_count(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model", size_mb=40)
    hub.faults(stop_after(PIECE + 6 * MIB))

    async def scenario(rig: Rig) -> None:
        rig.start("org/model")
        await rig.moves(PIECE + 4 * MIB)
        rig.downloader.cancel(None)  # type: ignore[arg-type]
        await await_for(lambda: not rig.children(), what="the child is gone")
        (partial,) = found(models, "models--*/blobs/*.incomplete")
        # What the disk had not written yet is zeros after the power came back.
        with partial.open("r+b") as file:
            file.seek(PIECE)
            file.write(bytes(partial.stat().st_size - PIECE))
        (models / "models--org--model" / "vllm-fsm" / "boot").write_text("another boot")
        hub.faults()
        assert isinstance(await rig.fetches("org/model"), events.WeightsComplete)

    play(scenario, hub, models)
    ranges = [request["range"] for request in hub.requests() if request["path"].endswith("/model.safetensors")]
    assert ranges == [None, f"bytes={PIECE}-"]


def test_what_belongs_to_nothing_is_removed(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model")

    async def scenario(rig: Rig) -> None:
        assert isinstance(await rig.fetches("org/model"), events.WeightsComplete)
        stale = models / "models--org--model" / "blobs" / f"{'0' * 64}.1234abcd.incomplete"
        stale.write_bytes(bytes(1000))
        assert isinstance(await rig.checks("org/model"), events.WeightsComplete)
        assert not stale.exists()

    play(scenario, hub, models)


# --- bounded ---------------------------------------------------------------------------------------------------------


def test_silence_ends_the_attempt_and_the_next_one_goes_on(hub: FakeHub, models: Path) -> None:
    folder = hub.repo("org/model", size_mb=30)
    size = (folder / "model.safetensors").stat().st_size
    hub.faults(stop_after(10 * MIB))

    async def scenario(rig: Rig) -> None:
        rig.allow(1.0, after=10 * MIB)
        ended = await rig.fetches("org/model")
        assert ended.finding == Finding.of("DownloadStalled", repo="org/model", seconds=1)
        assert ended.moved
        hub.faults()
        rig.allow(PATIENT)
        assert isinstance(await rig.fetches("org/model"), events.WeightsComplete)

    play(scenario, hub, models)
    assert hub.sent("model.safetensors") < size + MIB


def test_a_hub_that_accepts_and_never_answers_is_silence_too(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model")
    hub.faults({"match": "GET /api/", "action": "delay", "seconds": 3600})

    async def scenario(rig: Rig) -> None:
        ended = await rig.fetches("org/model")
        assert (ended.finding.reason, ended.moved) == ("DownloadStalled", False)

    play(scenario, hub, models, silence=1.0)


def test_a_child_that_hangs_is_silence_too(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model", size_mb=40)
    hub.faults(stop_after(10 * MIB))

    async def scenario(rig: Rig) -> None:
        rig.start("org/model")
        rig.allow(1.0, after=MIB)
        await rig.moves(MIB)
        for child in rig.children():  # none where it was given up already
            os.kill(child.pid, signal.SIGSTOP)
        assert (await rig.ending()).finding.reason == "DownloadStalled"

    play(scenario, hub, models)


def test_slow_but_moving_never_fails(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model", size_mb=20)
    hub.bandwidth(20 * MIB)

    async def scenario(rig: Rig) -> None:
        assert isinstance(await rig.fetches("org/model"), events.WeightsComplete)
        assert rig.passed > 2 * SILENCE

    play(scenario, hub, models, silence=SILENCE, pause=PAUSE)


def test_what_came_while_we_stood_still_is_no_silence(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model", size_mb=80)
    hub.bandwidth(20 * MIB)

    async def scenario(rig: Rig) -> None:
        rig.start("org/model")
        rig.allow(0.5, after=MIB)
        await rig.moves(MIB)
        rig.allow(PATIENT, after=0)
        late, there = time.monotonic() + 0.6, sum(blobs(models).values())

        def reported() -> bool:
            return not partials(models) or sum(blobs(models).values()) > there + 9 * MIB

        wait_for(lambda: time.monotonic() > late and reported(), what="reports, while the event loop stands still")
        assert isinstance(await rig.ending(), events.WeightsComplete)

    play(scenario, hub, models)


def test_a_cancelled_download_ends_at_once_and_says_nothing_more(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model", size_mb=40)
    hub.faults(stop_after(10 * MIB))

    async def scenario(rig: Rig) -> None:
        rig.start("org/model")
        await rig.moves(MIB)
        began = unhurried()
        rig.downloader.cancel(None)  # type: ignore[arg-type]
        said = len(rig.events)
        await await_for(lambda: not rig.children(), what="the child is gone")
        assert unhurried() - began < 1.0
        assert len(rig.events) == said

    play(scenario, hub, models)


def test_a_change_of_mind_at_any_moment_leaves_nothing(hub: FakeHub, models: Path) -> None:
    """Cancelled before its first step, between the child's birth and its first word, and later."""
    hub.repo("org/model", size_mb=10)
    hub.bandwidth(MIB)

    async def scenario(rig: Rig) -> None:
        for turns in range(12):
            rig.start("org/model")
            for _ in range(turns):
                await asyncio.sleep(0)
            rig.downloader.cancel(None)  # type: ignore[arg-type]
            await rig.downloader.close()
            assert rig.children() == [], f"cancelled after {turns} turns"

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        play(scenario, hub, models)
        gc.collect()


def test_the_child_ends_with_the_controller(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model", size_mb=40)
    hub.faults(stop_after(10 * MIB))

    async def scenario(rig: Rig) -> None:
        rig.start("org/model")
        await rig.moves(MIB)

    parent = os.fork()
    if parent == 0:

        async def whole() -> None:
            async with Rig(hub.url, models) as rig:
                await scenario(rig)
                os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(whole())
    os.waitpid(parent, 0)
    left = subprocess.run(["pgrep", "-f", "fetcher.py"], capture_output=True, text=True, check=False).stdout.split()
    began = unhurried()
    wait_for(lambda: not any(_of(models, pid) for pid in left), what="the child's end")
    assert unhurried() - began < 2.0


def _of(models: Path, pid: str) -> bool:
    try:
        return f"HF_HUB_CACHE={models}".encode() in environ(pid)
    except OSError:
        return False


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("meta", "environment", "reason"),
    [
        ({"gated": True}, {}, "GatedRepo"),
        ({"gated": True}, {"HF_TOKEN": TOKEN}, "GatedRepoDenied"),
        ({"private": True}, {}, "ModelNotFoundOrPrivate"),
        ({"private": True}, {"HF_TOKEN": TOKEN}, "ModelNotFound"),
        ({}, {"HF_TOKEN": "hf_" + "w" * 34}, "TokenRefused"),
        ({"disabled": True}, {}, "RepoDisabled"),
    ],
)
def test_no_access(hub: FakeHub, models: Path, meta: dict, environment: dict, reason: str) -> None:  # type: ignore[type-arg]
    hub.repo("org/model", **meta)

    async def scenario(rig: Rig) -> None:
        finding = await rig.fails("org/model", **environment)
        assert (finding.reason, finding.permanent) == (reason, True)
        assert "{" not in text(finding.message)

    play(scenario, hub, models)
    assert not any(name for name in blobs(models) if len(name) == 64), "no weights came"


def test_a_token_opens_a_gated_repository(hub: FakeHub, models: Path) -> None:
    hub.repo("org/granted", gated=True)

    async def scenario(rig: Rig) -> None:
        assert isinstance(await rig.fetches("org/granted", HF_TOKEN=TOKEN), events.WeightsComplete)
        assert TOKEN not in repr(rig.events)
        assert TOKEN not in repr(rig.logs)

    play(scenario, hub, models)


def test_a_token_under_its_older_name_counts(hub: FakeHub, models: Path) -> None:
    hub.repo("org/granted", gated=True)

    async def scenario(rig: Rig) -> None:
        ended = await rig.fetches("org/granted", HUGGING_FACE_HUB_TOKEN=TOKEN)
        assert isinstance(ended, events.WeightsComplete), ended

    play(scenario, hub, models)


def test_a_token_in_the_arguments_counts(hub: FakeHub, models: Path) -> None:
    hub.repo("org/granted", gated=True)

    async def scenario(rig: Rig) -> None:
        assert isinstance(await rig.fetches("org/granted", "--hf-token", TOKEN), events.WeightsComplete)

    play(scenario, hub, models)


def test_what_is_not_there(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model")
    hub.repo("org/empty")
    (hub.root / "org/empty/model.safetensors").unlink()

    async def scenario(rig: Rig) -> None:
        assert (await rig.fails("org/none")).reason == "ModelNotFoundOrPrivate"
        assert (await rig.fails("org/none", HF_TOKEN=TOKEN)).reason == "ModelNotFound"
        revision = await rig.fails("org/model", "--revision", "v9")
        assert text(revision.message).startswith("org/model has no revision v9.")
        assert (await rig.fails("org/empty")).reason == "NoWeights"

    play(scenario, hub, models)


@pytest.mark.parametrize(
    ("rule", "reason", "permanent", "retry_after"),
    [
        ({"action": "status", "status": 429, "headers": {"Retry-After": "7"}}, "HubRateLimited", False, 7.0),
        ({"action": "status", "status": 503}, "HubError", False, 0.0),
        ({"action": "status", "status": 500}, "HubError", False, 0.0),
        ({"action": "status", "status": 404, "body": "<html>"}, "NotAHub", True, 0.0),
        ({"action": "status", "status": 403, "body": "{}"}, "HubForbids", True, 0.0),
        ({"action": "drop", "after_bytes": 0}, "DownloadCut", False, 0.0),
    ],
)
def test_a_hub_that_does_not_answer_as_it_should(
    hub: FakeHub, models: Path, rule: dict[str, object], reason: str, permanent: bool, retry_after: float
) -> None:
    hub.repo("org/model")
    where = r"GET .*/resolve/" if rule["action"] == "drop" else "GET /api/models"
    hub.faults({"match": where, **rule})

    async def scenario(rig: Rig) -> None:
        ended = await rig.fetches("org/model")
        assert isinstance(ended, events.DownloadFailed), ended
        assert (ended.finding.reason, ended.finding.permanent) == (reason, permanent)
        assert ended.retry_after == retry_after
        assert not ended.moved

    play(scenario, hub, models)


def test_a_read_that_hangs_does_not_hide_why_another_file_failed(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model", shards=2)
    hub.faults(
        {"match": "GET .*00001-of-00002", "action": "delay", "seconds": 3600},
        {"match": "GET .*00002-of-00002", "action": "status", "status": 403, "body": "{}"},
    )

    async def scenario(rig: Rig) -> None:
        began = unhurried()
        assert (await rig.fails("org/model")).reason == "HubForbids"
        assert unhurried() - began < 8.0

    play(scenario, hub, models)


def test_a_hub_that_is_down_or_unknown(hub: FakeHub, models: Path) -> None:
    hub.stop()

    async def scenario(rig: Rig) -> None:
        down = await rig.fails("org/model")
        assert (down.reason, down.permanent) == ("HubUnreachable", False)
        assert hub.url.removeprefix("http://") in text(down.message)
        unknown = await rig.fails("org/model", HF_ENDPOINT="http://no-such-hub.invalid")
        assert unknown.reason == "HubNameUnknown"
        assert "no-such-hub.invalid" in text(unknown.message)

    play(scenario, hub, models)


def test_wrong_bytes_are_thrown_away(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model", size_mb=5)
    hub.faults({"match": r"GET .*model\.safetensors$", "action": "corrupt", "after_bytes": MIB, "times": 2})

    async def scenario(rig: Rig) -> None:
        ended = await rig.fetches("org/model")
        assert ended.finding == Finding(
            ended.finding.message, permanent=False, evidence="WrongContent: model.safetensors"
        )
        assert text(ended.finding.message).startswith("model.safetensors of org/model arrived with a wrong checksum.")
        assert ended.moved, "the other files came"
        again = await rig.fetches("org/model")
        assert again.finding == ended.finding
        assert not again.moved, "bytes that are worth nothing renew no patience"
        assert isinstance(await rig.checks("org/model"), events.WeightsMissing)
        assert isinstance(await rig.fetches("org/model"), events.WeightsComplete)

    play(scenario, hub, models)


def test_names_that_lead_out_of_the_cache_are_refused(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model")
    entry = '[{"type": "file", "path": "../../../../escaped", "size": 1, "oid": "' + "a" * 40 + '"}]'
    hub.faults({"match": "GET .*/tree/", "action": "status", "status": 200, "body": entry})

    async def scenario(rig: Rig) -> None:
        finding = await rig.fails("org/model")
        assert (finding.reason, finding.permanent) == ("UnsafeRepository", True)

    play(scenario, hub, models)
    assert not list(models.parent.glob("**/escaped"))


def test_a_blob_that_somebody_else_writes_is_waited_for(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model")

    async def scenario(rig: Rig) -> None:
        await rig.fetches("org/model")
        (blob,) = found(models, f"models--org--model/blobs/{'?' * 64}")
        blob.unlink()
        lock = models / ".locks" / "models--org--model" / f"{blob.name}.lock"
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            finding = await rig.fails("org/model")
            assert (finding.reason, finding.permanent) == ("CacheLocked", False)
        assert isinstance(await rig.fetches("org/model"), events.WeightsComplete)

    play(scenario, hub, models)


# --- room ------------------------------------------------------------------------------------------------------------


def test_a_model_that_does_not_fit_is_not_begun(hub: FakeHub, tmp_path: Path) -> None:
    hub.repo("org/small", size_mb=8)
    hub.repo("org/large", size_mb=60)

    async def scenario(rig: Rig) -> None:
        assert isinstance(await rig.fetches("org/small"), events.WeightsComplete)
        finding = await rig.fails("org/large")
        assert (finding.reason, finding.permanent) == ("DiskFull", True)
        params = dict(finding.message.params)
        assert (params["needed"], params["other"]) == ("0.1", "0.0")
        assert "Delete Model Cache" in text(finding.message)

    volume = tmp_path / "volume"
    on_volume(volume, 50, lambda: play(scenario, hub, volume / "models", spare=2 * MIB))
    assert hub.sent("large") < MIB


def test_what_is_in_use_is_not_offered_for_deletion(hub: FakeHub, tmp_path: Path) -> None:
    hub.repo("org/small", size_mb=8)
    hub.repo("org/tokens")
    hub.repo("org/large", size_mb=60)
    serving: list[Target] = []

    async def scenario(rig: Rig) -> None:
        assert isinstance(await rig.fetches("org/small"), events.WeightsComplete)
        serving.append(rig.target("org/small"))
        finding = await rig.fails("org/large", "--tokenizer", "org/tokens")
        assert (finding.reason, finding.permanent) == ("VolumeTooSmall", True)
        assert text(finding.message).startswith(
            "org/large needs 0.1 GB more. 0.0 GB are free on its volume, of which 0.0 GB are kept free."
        )

    volume, first = tmp_path / "volume", lambda: serving[0] if serving else None
    on_volume(volume, 50, lambda: play(scenario, hub, volume / "models", spare=2 * MIB, serving=first))


def test_a_volume_that_fills_up_meanwhile_keeps_its_spare_room(hub: FakeHub, tmp_path: Path) -> None:
    hub.repo("org/model", size_mb=40)
    hub.bandwidth(MIB)  # until the volume is nearly full

    async def scenario(rig: Rig) -> None:
        rig.start("org/model")
        await rig.moves(MIB)
        ballast = rig.models.parent / "ballast"
        ballast.write_bytes(bytes(44 * MIB))
        hub.bandwidth(10 * MIB)
        ended = await rig.ending()
        assert ended.finding.reason == "VolumeTooSmall"
        assert ended.moved
        assert float(dict(ended.finding.message.params)["needed"]) > 0, "what is left to fetch"
        free = os.statvfs(rig.models)
        assert free.f_bavail * free.f_frsize > 2 * MIB, "stopped before the volume was full"
        ballast.unlink()
        hub.bandwidth(0)
        assert isinstance(await rig.fetches("org/model"), events.WeightsComplete)

    volume = tmp_path / "volume"
    on_volume(volume, 64, lambda: play(scenario, hub, volume / "models", spare=8 * MIB))


def test_a_cache_that_cannot_be_made(hub: FakeHub, tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        finding = await rig.fails("org/model")
        assert (finding.reason, finding.permanent) == ("CacheNotWritable", True)

    volume = tmp_path / "volume"

    def read_only() -> None:
        mount("-o", "remount,ro", str(volume))
        play(scenario, hub, volume / "models")

    on_volume(volume, 16, read_only)


def test_a_cache_on_a_read_only_volume(hub: FakeHub, tmp_path: Path) -> None:
    hub.repo("org/model")

    async def scenario(rig: Rig) -> None:
        finding = await rig.fails("org/model")
        assert (finding.reason, finding.permanent) == ("CacheNotWritable", True)

    volume = tmp_path / "volume"

    def read_only() -> None:
        (volume / "models").mkdir()
        mount("-o", "remount,ro", str(volume))
        play(scenario, hub, volume / "models")

    on_volume(volume, 16, read_only)


# --- what it is told -------------------------------------------------------------------------------------------------


def test_the_child_knows_the_way_to_the_hub_and_no_other_secret(
    hub: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repo("org/model", size_mb=20)
    hub.bandwidth(2 * MIB)
    monkeypatch.setenv("VLLM_FSM_PORT", "1")
    monkeypatch.setenv("VLLM_API_KEY", "another")

    async def scenario(rig: Rig) -> None:
        rig.start("org/model", OPENAI_API_KEY="sk-1", https_proxy="", HF_HUB_OFFLINE="0")
        await rig.moves(MIB)
        (child,) = rig.children()
        given = environ(child.pid)
        assert f"HF_ENDPOINT={hub.url}".encode() in given
        names = {line.partition(b"=")[0] for line in given}
        assert b"https_proxy" in names
        assert names.isdisjoint({b"VLLM_FSM_PORT", b"VLLM_API_KEY", b"OPENAI_API_KEY", b"HF_HUB_OFFLINE"})
        assert KEY.encode() not in b"".join(given)

    play(scenario, hub, models)


def test_no_temporary_directory_is_needed(hub: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repo("org/model")
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/directory")

    async def scenario(rig: Rig) -> None:
        assert isinstance(await rig.fetches("org/model"), events.WeightsComplete)

    play(scenario, hub, models)


def test_an_offline_wish_forbids_to_fetch(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model")

    async def scenario(rig: Rig) -> None:
        ended = await rig.checks("org/model", HF_HUB_OFFLINE="1")
        assert (ended.finding.reason, ended.finding.permanent) == ("NotInCache", True)

    play(scenario, hub, models)
    assert hub.requests() == []


def test_progress_is_what_lies_on_the_disk(hub: FakeHub, models: Path) -> None:
    hub.repo("org/model", size_mb=60, shards=3)
    hub.bandwidth(6 * MIB)
    apart: list[int] = []

    async def scenario(rig: Rig) -> None:
        def ahead() -> int:
            """By how much more is reported than was there when it is seen."""
            shown = next(event for event in reversed(rig.events) if isinstance(event, events.DownloadProgressed))
            return shown.progress.done - sum(blobs(models).values())

        rig.start("org/model")
        for share in (1, 20, 40):
            await rig.moves(share * MIB)
            hub.bandwidth(1)
            await await_for(lambda: abs(ahead()) <= MIB, what="the report on what there is")
            hub.bandwidth(6 * MIB)
        while not any(isinstance(event, events.WeightsComplete) for event in rig.events):
            apart.append(ahead())
            await asyncio.sleep(0.02)

    play(scenario, hub, models)
    assert max(apart, default=0) <= MIB
