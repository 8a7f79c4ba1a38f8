"""`vllm-fsm cache` and `vllm-fsm delete-model-cache`: what they print, how they exit, and what they ask for."""

import json
import os
from datetime import UTC, datetime

import pytest

from support.hub_cache import SMALL, keep
from support.story import Story, target
from vllm_fsm import cache, health, lock, request
from vllm_fsm.adapters.health_file import NAME
from vllm_fsm.cache import State
from vllm_fsm.cli import cache as command
from vllm_fsm.cli import main
from vllm_fsm.cli.reading import boot_id
from vllm_fsm.core.snapshot import Message

DAY = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
GB = 10**9


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data directory without a controller; three models, of which the store selects one."""
    monkeypatch.setenv("COLUMNS", "500")
    for name in ("org/one", "org/two", "org/three"):
        keep(tmp_path / "data" / "models", name)
    (tmp_path / "data" / "store.json").write_text('{"serveArgs": ["org/one"]}')
    return tmp_path / "data"


@pytest.fixture
def run_dir(tmp_path):
    """A run directory that a controller holds."""
    lock_ = lock.DirectoryLock(tmp_path / "run")
    yield tmp_path / "run"
    lock_.release()


def says(run_dir, story, **fields):
    document = health.document(story.snapshot, lambda _: DAY, boot_id()) | fields
    (run_dir / NAME).write_text(json.dumps(document))


def call(data, *words, run_dir=None):
    return main([words[0], "--data", str(data), "--run-dir", str(run_dir or data / "nobody"), *words[1:]])


def cached(data):
    return {path.name.removeprefix("models--org--") for path in (data / "models").iterdir()}


def test_the_listing_as_json(data, capsys):
    folder = data / "models" / "models--org--one"
    for blob in (folder / "blobs").iterdir():
        os.utime(blob, (DAY.timestamp(), DAY.timestamp()))
    assert call(data, "cache", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    size = sum(map(len, SMALL.values())) + 40
    assert next(model for model in said["models"] if model["name"] == "org/one") == {
        "name": "org/one",
        "folder": "models--org--one",
        "size": size,
        "files": 2,
        "partial": 0,
        "complete": True,
        "lastUsed": "2026-01-02T12:00:00.000Z",
        "state": "selected",
        "linked": False,
        "problem": None,
    }
    assert said["total"] == 3 * size
    assert said["free"] > 0
    assert said["stale"] == []


def model(name, size, **more):
    return cache.CachedModel(name, "folder", size, 3, more.pop("partial", 0), more.pop("complete", True), DAY, **more)


LISTING = cache.Listing(
    (
        model("org/large", 39_600_000_000, state=State.SERVED),
        model("org/next", 1_200_000_000, complete=False, partial=1_100_000_000, state=State.SELECTED),
        model("org/linked", 0, linked=True),
        model("org/torn", 5_000_000, problem=Message.of("ModelUnreadable", path="/data/x", error="Permission denied")),
    ),
    free=12_300_000_000,
    total=40_805_000_000,
    stale=(cache.Leftover("/data/models/.left", 2 * GB),),
)


def test_the_listing_reads_aloud():
    assert command.lines(LISTING, 120) == [
        "MODEL       SIZE      LAST USED   STATE",
        "org/large   39.6 GB   2026-01-02  complete, served",
        "org/next    1.2 GB    2026-01-02  incomplete, 1.1 GB of it in partial files, selected",
        "org/linked  0.000 GB  2026-01-02  complete, a symbolic link: neither measured nor deleted here",
        "org/torn    0.005 GB  2026-01-02  complete. It cannot be read in full (Permission denied: /data/x). Check its",
        "                                  permissions.",
        "",
        "models     4, 40.8 GB",
        "left over  1, 2.0 GB, of interrupted deletions and downloads",
        "free       12.3 GB",
    ]


def test_what_of_a_model_cannot_be_read_is_told_as_json():
    (torn,) = (model["problem"] for model in command.document(LISTING)["models"] if model["problem"] is not None)
    assert torn["id"] == "ModelUnreadable"
    assert torn["params"] == {"path": "/data/x", "error": "Permission denied"}
    assert torn["message"].startswith("It cannot be read in full (Permission denied: /data/x).")


def test_a_token_in_the_place_of_a_name_is_not_repeated(data, capsys):
    token = "hf_" + "aB3" * 11
    assert call(data, "delete-model-cache", token) == 2
    assert call(data, "delete-model-cache", token, "--json") == 2
    said = capsys.readouterr()
    assert token not in said.out + said.err


@pytest.mark.parametrize("columns", [40, 57, 80, 200])
def test_it_fits_the_terminal(columns):
    assert max(len(line) for line in command.lines(LISTING, columns)) <= columns


def test_an_empty_cache_reads_aloud():
    assert command.lines(cache.Listing((), 5 * GB, 0), 80) == ["models  none", "free    5.0 GB"]


def test_a_cache_that_cannot_be_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    (tmp_path / "models").write_text("")
    assert call(tmp_path, "cache") == 1
    assert "cannot be read (Not a directory" in capsys.readouterr().err
    assert call(tmp_path, "cache", "--json") == 1
    assert json.loads(capsys.readouterr().out)["errors"][0]["code"] == "CacheUnreadable"


def test_a_model_is_deleted_and_the_room_told(data, capsys):
    assert call(data, "delete-model-cache", "org/two") == 0
    said = capsys.readouterr().out
    assert said.startswith("org/two was deleted: 0.000 GB.\nFree before: ")
    assert "try again" not in said
    assert cached(data) == {"one", "three"}
    assert call(data, "delete-model-cache", "org/three", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["ok"], set(said["result"])) == (True, {"freed", "freeBefore", "freeAfter", "retried", "notes"})
    assert said["result"]["freed"] > 0
    assert json.loads((data / "store.json").read_text()) == {"serveArgs": ["org/one"]}


def test_a_model_that_is_selected_needs_force(data, capsys):
    assert call(data, "delete-model-cache", "org/one") == 2
    assert "selected or being served" in capsys.readouterr().err
    assert call(data, "delete-model-cache", "org/one", "--json") == 2
    said = json.loads(capsys.readouterr().out)
    (error,) = said["errors"]
    assert (said["ok"], error["field"], error["code"]) == (False, "model", "ModelInUse")
    assert error["params"] == {"model": "org/one"}
    assert error["message"].startswith("org/one was not deleted: ")
    assert cached(data) == {"one", "two", "three"}
    assert call(data, "delete-model-cache", "org/one", "--force") == 0
    assert cached(data) == {"two", "three"}


def test_a_model_that_is_served_or_downloaded_needs_force(data, run_dir, capsys):
    says(run_dir, Story().swapping(target("org/three")))
    (data / "store.json").write_text("{}")
    for name in ("org/one", "org/three"):
        assert call(data, "delete-model-cache", name, run_dir=run_dir) == 2
    assert cached(data) == {"one", "two", "three"}
    assert call(data, "cache", "--json", run_dir=run_dir) == 0
    states = {model["name"]: model["state"] for model in json.loads(capsys.readouterr().out)["models"]}
    assert states == {"org/one": "served", "org/two": None, "org/three": "selected"}


def test_a_store_that_cannot_be_read_selects_nobody_knows_what(data, capsys):
    (data / "store.json").write_text("{")
    assert call(data, "delete-model-cache", "org/two") == 2
    assert "store.json" in capsys.readouterr().err
    assert call(data, "cache") == 0
    assert call(data, "delete-model-cache", "org/two", "--force") == 0
    assert cached(data) == {"one", "three"}


@pytest.mark.parametrize(("reason", "asked"), [("DiskFull", True), ("VolumeFull", True), ("GatedRepo", False)])
def test_a_controller_that_lacked_room_is_asked_to_try_again(data, run_dir, capsys, reason, asked):
    says(run_dir, Story(), reason=reason)
    assert call(data, "delete-model-cache", "org/two", run_dir=run_dir) == 0
    assert ("asked to try again" in capsys.readouterr().out) is asked
    assert (run_dir / request.NAME).exists() is asked


def test_a_refused_deletion_asks_for_nothing(data, run_dir):
    says(run_dir, Story(), reason="DiskFull")
    assert call(data, "delete-model-cache", "org/one", run_dir=run_dir) == 2
    assert call(data, "delete-model-cache", "org/none", run_dir=run_dir) == 2
    assert not (run_dir / request.NAME).exists()


def test_a_request_that_cannot_be_written_is_told_beside_the_deletion(data, run_dir, capsys):
    says(run_dir, Story(), reason="DiskFull")
    (run_dir / request.NAME).mkdir()
    assert call(data, "delete-model-cache", "org/two", "--json", run_dir=run_dir) == 0
    result = json.loads(capsys.readouterr().out)["result"]
    assert (result["retried"], [note["code"] for note in result["notes"]]) == (False, ["WriteIsNoFile"])
    assert call(data, "delete-model-cache", "org/three", run_dir=run_dir) == 0
    assert "could not be asked to try again" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../models/models--org--two", "models--org--two", "ORG/two", "", "org/two\0"])
def test_nothing_but_an_entry_is_taken(data, capsys, name):
    assert call(data, "delete-model-cache", name, "--force") == 2
    assert "There is no model" in capsys.readouterr().err
    assert cached(data) == {"one", "two", "three"}
