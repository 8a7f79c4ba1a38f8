"""What the cache's listing says: sizes, completeness, use, what is left over, whatever stands in the folder."""

import hashlib
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from support.hub_cache import COMMIT, SMALL, keep
from vllm_fsm import cache
from vllm_fsm.cache import contents
from vllm_fsm.weights.hub_cache import Entry, Listing, RepoFolder

BYTES = sum(map(len, SMALL.values()))
REF = len(COMMIT)


def only(models, **needed):
    (model,) = cache.listing(models, **needed).models
    return model


def test_a_model_is_listed_with_everything(tmp_path):
    folder = keep(tmp_path, "org/name")
    for blob in (folder / "blobs").iterdir():
        os.utime(blob, (1_700_000_000, 1_600_000_000))
    model = only(tmp_path, served={"org/name"}, selected={"org/name"})
    assert model == cache.CachedModel(
        "org/name",
        "models--org--name",
        BYTES + REF,
        2,
        0,
        True,
        datetime.fromtimestamp(1_700_000_000, UTC),
        cache.State.SERVED,
    )


def test_the_largest_stand_first_and_their_sum_and_the_room_are_told(tmp_path):
    keep(tmp_path, "org/small")
    keep(tmp_path, "org/large", {**SMALL, "model.safetensors": b"w" * 5000})
    keep(tmp_path, "gpt2")
    found = cache.listing(tmp_path, selected={"gpt2"})
    assert [model.name for model in found.models] == ["org/large", "gpt2", "org/small"]
    assert [model.state for model in found.models] == [None, cache.State.SELECTED, None]
    assert found.total == sum(model.size for model in found.models)
    status = os.statvfs(tmp_path)
    assert abs(found.free - status.f_bavail * status.f_frsize) < 1 << 30


def test_no_folder_is_an_empty_cache_on_the_volume_above(tmp_path):
    found = cache.listing(tmp_path / "not" / "there")
    assert found.models == ()
    assert found.total == 0
    assert found.free > 0


def test_a_file_in_the_folders_place_is_told(tmp_path):
    (tmp_path / "models").write_text("")
    with pytest.raises(cache.Refused, match="Not a directory") as refused:
        cache.listing(tmp_path / "models")
    assert refused.value.message.id == "CacheUnreadable"


def test_two_revisions_that_share_a_blob_count_it_once(tmp_path):
    keep(tmp_path, "org/name")
    keep(tmp_path, "org/name", {**SMALL, "config.json": b"{}"}, commit="d" * 40, ref="v2")
    model = only(tmp_path)
    assert (model.size, model.files) == (BYTES + 2 + 2 * REF, 3)


def test_hard_links_count_once_in_a_model_and_once_in_the_sum(tmp_path):
    one, two = keep(tmp_path, "org/one"), keep(tmp_path, "org/two")
    weights = hashlib.sha256(SMALL["model.safetensors"]).hexdigest()
    (two / "blobs" / weights).unlink()
    os.link(one / "blobs" / weights, two / "blobs" / weights)
    os.link(one / "blobs" / weights, one / "blobs" / "again")
    found = cache.listing(tmp_path)
    assert [model.size for model in found.models] == [BYTES + REF] * 2
    assert found.total == 2 * (BYTES + REF) - len(SMALL["model.safetensors"])


def test_files_instead_of_links_count_too(tmp_path):
    folder = keep(tmp_path, "org/name")
    place = folder / "snapshots" / COMMIT / "config.json"
    blob = place.resolve()
    place.unlink()
    blob.rename(place)
    model = only(tmp_path)
    assert (model.size, model.files, model.complete) == (BYTES + REF, 2, True)


def shared_blob(models: Path, number: int = 7, content: bytes = b"shared" * 100) -> Path:
    """Put a content into the store that huggingface_hub shares between models."""
    path = models / "blobs" / f"{number:02x}" / (f"{number:02x}" + 62 * "0")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_what_huggingface_hub_shares_between_models_counts_in_each_and_once_in_the_sum(tmp_path):
    store = shared_blob(tmp_path)
    for name in ("one", "two"):
        folder = keep(tmp_path, f"org/{name}")
        (folder / "blobs" / ("f" * 64)).symlink_to(f"../../blobs/07/{store.name}")
    found = cache.listing(tmp_path)
    assert [(model.name, model.size) for model in found.models] == [
        ("org/one", BYTES + REF + 600),
        ("org/two", BYTES + REF + 600),
    ]
    assert found.total == 2 * (BYTES + REF) + 600


def test_a_blob_that_lies_elsewhere_is_not_measured(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"x" * 9999)
    folder = keep(tmp_path / "models", "org/name")
    (folder / "blobs" / ("f" * 64)).symlink_to(tmp_path / "elsewhere")
    (folder / "around").symlink_to(folder)
    assert only(tmp_path / "models").size == BYTES + REF


@pytest.mark.parametrize(
    "break_",
    [
        lambda folder: (folder / "refs" / "main").unlink() or (folder / "snapshots").rename(folder / "gone"),
        lambda folder: (folder / "refs" / "main").write_text("a" * 40),
        lambda folder: [blob.unlink() for blob in (folder / "blobs").iterdir()],
        lambda folder: (folder / "snapshots" / COMMIT / "model.safetensors").unlink(),
    ],
    ids=["nothing", "another commit", "no blobs", "no weights"],
)
def test_what_an_engine_cannot_start_from_is_not_complete(tmp_path, break_):
    break_(keep(tmp_path, "org/name"))
    assert only(tmp_path).complete is False


def test_any_commit_will_do_where_nothing_says_which(tmp_path):
    keep(tmp_path, "org/name", ref="")
    assert only(tmp_path).complete is True
    keep(tmp_path, "org/other", ref="v2")
    assert {model.complete for model in cache.listing(tmp_path).models} == {True}


def listed(models: Path, name: str, size: int = 10) -> tuple[RepoFolder, Entry]:
    """Begin a download of ours; return the folder and its only file."""
    entry = Entry("model.safetensors", size, "e" * 64)
    folder = RepoFolder(models, name)
    folder.prepare(Listing.of(COMMIT, "main", [entry]))
    return folder, entry


def test_a_partial_file_of_ours_is_no_left_over(tmp_path):
    folder, entry = listed(tmp_path, "org/name")
    Path(folder.partial(entry)).write_bytes(b"1234")
    model = only(tmp_path)
    assert (model.partial, model.files, model.complete) == (4, 0, False)
    assert model.last_used is not None
    assert cache.listing(tmp_path).stale == ()


def test_partial_files_that_nobody_resumes_are_left_over(tmp_path):
    folder = keep(tmp_path, "org/name")
    foreign = folder / "blobs" / f"{'a' * 64}.0123abcd.incomplete"
    foreign.write_bytes(b"123")
    old = folder / "blobs" / f"{'b' * 64}.incomplete"
    old.write_bytes(b"12")
    found = cache.listing(tmp_path)
    assert found.models[0].partial == 5
    assert found.stale == (cache.Leftover(str(foreign), 3), cache.Leftover(str(old), 2))


def test_an_interrupted_deletion_is_left_over_and_no_model(tmp_path):
    keep(tmp_path, "org/name").rename(tmp_path / f"{contents.ASIDE}00000000-models--org--name")
    (tmp_path / f"{contents.ASIDE}file").write_text("not ours")
    found = cache.listing(tmp_path)
    assert found.models == ()
    assert [left.size for left in found.stale] == [BYTES + REF]


def test_what_is_no_model_is_left_out(tmp_path):
    keep(tmp_path, "org/name")
    for folder in ("models--", "models--a--b--c", "models--..", "datasets--a--b", ".locks", "xet", "MODELS--a--b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "models--a--file").write_text("")
    os.mkfifo(tmp_path / "models--a--fifo")
    assert only(tmp_path).name == "org/name"


def test_a_folder_that_is_a_link_is_listed_and_not_looked_behind(tmp_path):
    keep(tmp_path / "elsewhere", "org/name")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "models--org--name").symlink_to(tmp_path / "elsewhere" / "models--org--name")
    model = only(tmp_path / "models", selected={"org/name"})
    assert (model.linked, model.size, model.complete, model.state) == (True, 0, True, cache.State.SELECTED)


def test_fifos_and_sockets_in_a_model_do_no_harm(tmp_path):
    folder = keep(tmp_path, "org/name")
    os.mkfifo(folder / "blobs" / "fifo")
    assert stat.S_ISFIFO((folder / "blobs" / "fifo").lstat().st_mode)
    assert only(tmp_path).files == 2


def test_a_time_that_nothing_can_have_is_not_told(tmp_path, monkeypatch):
    assert contents._moment(1e18) is None
    assert contents._moment(0.0) == datetime(1970, 1, 1, tzinfo=UTC)


def test_listing_does_not_count_as_use(tmp_path):
    folder = keep(tmp_path, "org/name", {**SMALL, "model.safetensors.index.json": b"{}"})
    for blob in (folder / "blobs").iterdir():
        os.utime(blob, (1_000_000_000, 1_000_000_001))
    cache.listing(tmp_path)
    assert only(tmp_path).last_used == datetime.fromtimestamp(1_000_000_001, UTC)


def test_entries_that_vanish_meanwhile_are_no_error(tmp_path, monkeypatch):
    """At each look into a folder, what it was to hold is gone already."""
    for name in ("one", "two", "three"):
        keep(tmp_path, f"org/{name}")
    scandir, left = os.scandir, [0]

    def vanish(path):
        if str(path) != str(tmp_path):
            if left[0] == 0:
                raise FileNotFoundError(2, "gone", str(path))
            left[0] -= 1
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)
    counts = []
    for step in range(20):
        left[0] = step
        counts.append(len(cache.listing(tmp_path).models))
    assert counts[0] == 0
    assert counts[-1] == 3
    assert counts == sorted(counts)
