"""Whoever writes is killed at each system call and at each byte: the next reader finds the old or the new, whole.

These are the real calls of a real process. What a power cut does to pages that were not synced is another matter:
`tests/unit/test_files_writing.py` checks the order of syncs, `tests/process/test_download.py` partial blobs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from support import cuts
from vllm_fsm import history, record, request
from vllm_fsm.adapters import health_file
from vllm_fsm.adapters.process import marks
from vllm_fsm.adapters.process.marks import Mark
from vllm_fsm.files import credentials, store, writing
from vllm_fsm.files.reading import Good, Missing
from vllm_fsm.weights.hub_cache import Entry, Listing, RepoFolder

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
OLD, NEW = "a" * 40, "b" * 40
MODELS = ["org/old", "org/new"]
MARK = Mark(boot="boot", namespace=1, session=2, start=3, pipe=4, tmpdir="/a directory/t")


@dataclass(frozen=True)
class Writer:
    """One file of the service: how it is written, and what a reader makes of what it finds."""

    write: Callable[[Path, int], object]
    """Number 0 is what stands there before, number 1 is what is cut."""
    read: Callable[[Path], object]
    found: tuple[object, ...]
    """What a reader may find after the cut: the old or the new."""
    first: bool = True
    """Number 0 is written before."""


def _serves(path: Path) -> object:
    reading = store.read_store(path / "store.json")
    return reading.value.serve_args if isinstance(reading, Good) else reading


def _key(path: Path) -> object:
    reading = credentials.read_credentials(path / "credentials.json")
    if isinstance(reading, Good):
        return len((reading.value[0].key() or credentials.Secret("")).reveal()), reading.value[1].get("other")
    return reading


def _listing(number: int) -> Listing:
    return Listing.of((OLD, NEW)[number], "main", [Entry("config.json", number, "c" * 40)])


def _folder(path: Path) -> RepoFolder:
    return RepoFolder(path, "org/model")


def _prepare(path: Path, number: int) -> None:
    _folder(path).prepare(_listing(number))


def _listed(path: Path) -> object:
    folder = _folder(path)
    return tuple(
        None if (listing := folder.listing(commit)) is None else sorted(listing.entries) for commit in (OLD, NEW)
    )


def _history(path: Path) -> object:
    return [entry["number"] for entry in history.read(path)]


def _printed(path: Path, attempt: int) -> object:
    return list(record.read(path, record.latest(path, attempt)))


def _health(path: Path) -> object:
    file = path / health_file.NAME
    return json.loads(file.read_text()) if file.exists() else None


def _write_health(path: Path, number: int) -> None:
    health_file.HealthFile(path, lambda: {"state": number}, lambda *_, **__: None).write()


def _asked(path: Path) -> object:
    taken = request.Requests(path, clock=lambda: 0.0, log=lambda *_, **__: None).take()
    return None if taken is None else taken.kind


def _take(path: Path, number: int) -> None:
    if number:
        assert _asked(path) is request.Kind.RETRY
    else:
        request.write_request(path, request.Kind.RETRY, NOON)


def _set_model(path: Path, number: int) -> object:
    return writing.update(path / "store.json", {"serveArgs": [MODELS[number]]}, store.MODE)


def _rotate(path: Path, number: int) -> object:
    place = path / "credentials.json"
    if number == 0:
        return writing.create(place, {"apiKey": "old", "other": 1}, credentials.MODE)
    reading = credentials.read_credentials(place)
    assert isinstance(reading, Good)
    return credentials.store_new_key(place, Good(reading.value[1]))


def _begin_anew(path: Path, number: int) -> object:
    place = path / "credentials.json"
    return credentials.begin_anew(place, NOON) if number else place.write_text("{")


WRITERS = {
    "store.json, a choice": Writer(_set_model, _serves, ([MODELS[0]], [MODELS[1]])),
    "store.json, the first choice": Writer(_set_model, _serves, (None, [MODELS[1]]), first=False),
    "credentials.json, a rotation": Writer(_rotate, _key, ((3, 1), (22, 1))),
    "credentials.json, the first key": Writer(
        lambda path, _: credentials.store_new_key(path / "credentials.json", Missing()),
        _key,
        (Missing(), (22, None)),
        first=False,
    ),
    "request.json, asked": Writer(
        lambda path, _: request.write_request(path, request.Kind.RETRY, NOON),
        _asked,
        (None, request.Kind.RETRY),
        first=False,
    ),
    "request.json, taken": Writer(_take, _asked, (None, request.Kind.RETRY)),
    "health.json": Writer(_write_health, _health, ({"state": 0}, {"state": 1})),
    "history.jsonl": Writer(
        lambda path, number: history.History(path).append({"number": number}), _history, ([0], [0, 1])
    ),
    "a mark": Writer(
        lambda path, _: marks.write(MARK, str(path)),
        lambda path: [mark.line() for mark in marks.read_all(str(path))],
        ([], [MARK.line()]),
        first=False,
    ),
    "a listing of the cache": Writer(
        _prepare, _listed, ((["config.json"], None), (None, None), (None, ["config.json"]))
    ),
    "a reference of the cache": Writer(
        lambda path, number: (_prepare(path, number), _folder(path).refer(_listing(number))),
        lambda path: [Path(_folder(path).ref("main")).read_text()],
        ([OLD], [NEW]),
    ),
    "a link of the cache": Writer(
        lambda path, number: _folder(path).link(OLD, Entry("config.json", 1, (OLD, NEW)[number])),
        lambda path: Path(_folder(path).snapshot(OLD, "config.json")).readlink().name,
        (OLD, NEW),
    ),
    "a mark of the boot in the cache": Writer(
        lambda path, _: _prepare(path, 0),
        lambda path: _listed(path) in (((["config.json"]), None), (None, None)),
        (True,),
        first=False,
    ),
    "what the engine printed": Writer(
        lambda path, number: record.Record(path).write(number + 1, "a line"),
        lambda path: _printed(path, 1),
        (["a line"],),
    ),
}
KILLS: dict[str, Callable[[Callable[[], object], int], bool]] = {
    "call": cuts.killed_at_call,
    "byte": cuts.killed_at_byte,
}


WITHOUT_BYTES = {"request.json, taken", "a link of the cache", "what the engine printed"}
"""What is done by names alone, and lines that are no more than that: half of one is a line."""


@pytest.mark.parametrize(
    ("name", "kill"),
    [(name, kill) for name in WRITERS for kill in KILLS if kill == "call" or name not in WITHOUT_BYTES],
)
def test_a_reader_finds_the_old_or_the_new(tmp_path: Path, name: str, kill: str) -> None:
    if kill == "call" and not cuts.traceable():
        pytest.skip("no child may be traced here")
    writer = WRITERS[name]
    seen = []
    number = 0 if kill == "byte" else 1
    killed = True
    while killed:
        place = tmp_path / str(number)
        place.mkdir()
        if writer.first:
            writer.write(place, 0)
        killed = KILLS[kill](lambda place=place: writer.write(place, 1), number)  # type: ignore[misc]
        found = writer.read(place)
        assert found in writer.found, f"cut at {kill} {number}"
        seen.append(found)
        assert all(path.stat().st_mode & 0o077 == 0 for path in place.glob(".store.json.*.tmp")), "it may hold tokens"
        number += 1
    assert seen[-1] == writer.found[-1] or name.endswith("taken"), "what was not cut is there"
    assert number > 2, "it was cut at all"


@pytest.mark.parametrize("size", range(1, 30))
def test_what_was_cut_off_the_history_takes_nothing_with_it(tmp_path: Path, size: int) -> None:
    history.History(tmp_path).append({"number": 0})
    before = (tmp_path / history.NAME).stat().st_size
    cuts.killed_at_byte(lambda: history.History(tmp_path).append({"number": 1, "more": "x" * 9}), before + size)
    history.History(tmp_path).append({"number": 2})
    assert [entry["number"] for entry in history.read(tmp_path)] in ([0, 2], [0, 1, 2])
