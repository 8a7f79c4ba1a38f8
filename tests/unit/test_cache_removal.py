"""Deleting one model: what goes, what stays, and what is refused."""

import fcntl
import os
import shutil
import stat

import pytest

from support.hub_cache import COMMIT, SMALL, keep
from vllm_fsm import cache
from vllm_fsm.cache import removal
from vllm_fsm.cache.contents import ASIDE
from vllm_fsm.weights.hub_cache import RepoFolder

BYTES = sum(map(len, SMALL.values())) + len(COMMIT)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def delete(models, name="org/name", in_use=(), force=False):
    return cache.delete(models, name, in_use=in_use, force=force)


def refusal(models, name="org/name", in_use=(), force=False):
    with pytest.raises(cache.Refused) as refused:
        delete(models, name, in_use, force)
    return refused.value.message


def test_the_model_goes_with_its_locks_and_nothing_else(tmp_path):
    keep(tmp_path, "org/name")
    keep(tmp_path, "org/other")
    for folder in ("models--org--name", "models--org--other"):
        (tmp_path / ".locks" / folder).mkdir(parents=True)
        (tmp_path / ".locks" / folder / f"{'a' * 64}.lock").write_text("")
    (tmp_path / "note").write_text("")
    deleted = delete(tmp_path)
    assert deleted.freed == BYTES
    assert deleted.free_before > 0
    assert deleted.free_after > 0
    assert names(tmp_path) == [".locks", "models--org--other", "note"]
    assert names(tmp_path / ".locks") == ["models--org--other"]
    assert [model.complete for model in cache.listing(tmp_path).models] == [True]


def test_deep_and_odd_files_go_too(tmp_path):
    folder = keep(tmp_path, "org/name", {**SMALL, "a/b/c/d.json": b"{}"})
    os.mkfifo(folder / "blobs" / "fifo")
    (folder / "loop").symlink_to(folder)
    (folder / "nowhere").symlink_to("nowhere")
    (folder / ".no_exist" / COMMIT).mkdir(parents=True)
    (folder / ".no_exist" / COMMIT / "x").write_text("")
    (folder / "blobs" / os.fsdecode(b"\xff\n")).write_text("x")
    delete(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "/",
        "*",
        "org",
        "name",
        "org/",
        "/org/name",
        "./org/name",
        "org/name/",
        "org/name/blobs",
        "org//name",
        "org/../org/name",
        "../models/org/name",
        "models--org--name",
        "models--a--b/../../c",
        "org--name",
        "--",
        "org/name\0",
        "\0",
        "org/name\n",
        "org/name ",
        "org∕name",
        "ｏrg/name",
        "org/" + "n" * 5000,
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_only_an_entry_of_the_listing_is_taken(tmp_path, name, force):
    models = tmp_path / "models"
    keep(models, "org/name")
    keep(tmp_path, "x")
    (tmp_path / "c").mkdir()
    message = refusal(models, name, force=force)
    assert message.id == "ModelNotCached"
    assert names(models) == ["models--org--name"]
    assert names(tmp_path) == ["c", "models", "models--x"]
    assert "\n" not in dict(message.params)["model"]
    assert len(dict(message.params)["model"]) <= 120


@pytest.mark.parametrize("name", ["Org/name", "org/NAME", "ORG/NAME"])
def test_another_case_is_another_model(tmp_path, name):
    keep(tmp_path, "org/name")
    assert refusal(tmp_path, name).id == "ModelNotCachedMeant"
    keep(tmp_path, name)
    delete(tmp_path, name)
    assert names(tmp_path) == ["models--org--name"]


def test_what_is_no_model_is_not_deleted_as_one(tmp_path):
    (tmp_path / "models--org--name").write_text("a file")
    assert refusal(tmp_path).id == "ModelNotCached"
    assert refusal(tmp_path / "none").id == "CacheUnreadable"
    assert refusal(tmp_path / "models--org--name").id == "CacheUnreadable"


def test_a_model_in_use_is_refused_unless_forced(tmp_path):
    keep(tmp_path, "org/name")
    assert refusal(tmp_path, in_use={"org/name"}).id == "ModelInUse"
    assert cache.listing(tmp_path).models[0].complete
    assert delete(tmp_path, in_use={"org/name"}, force=True).freed == BYTES


def test_a_model_that_somebody_downloads_is_refused_unless_forced(tmp_path):
    keep(tmp_path, "org/name")
    lock = tmp_path / ".locks" / "models--org--name" / f"{'a' * 64}.lock"
    lock.parent.mkdir(parents=True)
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert refusal(tmp_path).id == "ModelBusy"
        assert delete(tmp_path, force=True).freed == BYTES


def test_a_model_that_is_a_link_is_refused_and_what_it_leads_to_stays(tmp_path):
    keep(tmp_path / "elsewhere", "org/name")
    (tmp_path / "models").mkdir()
    link = tmp_path / "models" / "models--org--name"
    link.symlink_to(tmp_path / "elsewhere" / "models--org--name")
    assert refusal(tmp_path / "models", force=True).id == "ModelIsNoFolder"
    assert link.is_symlink()
    assert cache.listing(tmp_path / "elsewhere").models[0].complete


def test_links_within_a_model_go_and_what_they_lead_to_stays(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("precious")
    folder = keep(tmp_path / "models", "org/name")
    for place in ("link", "blobs/link", f"snapshots/{COMMIT}/link", "snapshots/link"):
        (folder / place).symlink_to(victim)
        (folder / f"{place}-file").symlink_to(victim / "file")
    os.link(victim / "file", folder / "blobs" / "hard")
    locks = tmp_path / "models" / ".locks"
    locks.mkdir()
    (locks / "models--org--name").symlink_to(victim)
    assert delete(tmp_path / "models").freed == BYTES
    assert names(victim) == ["file"]
    assert (victim / "file").read_text() == "precious"


def test_locks_behind_a_link_stay(tmp_path):
    keep(tmp_path / "models", "org/name")
    (tmp_path / "locks" / "models--org--name").mkdir(parents=True)
    (tmp_path / "models" / ".locks").symlink_to(tmp_path / "locks")
    delete(tmp_path / "models")
    assert names(tmp_path / "locks") == ["models--org--name"]


def test_a_cache_behind_a_link_is_the_cache(tmp_path):
    keep(tmp_path / "disk", "org/name")
    (tmp_path / "models").symlink_to("disk")
    delete(tmp_path / "models")
    assert names(tmp_path / "disk") == []


def test_a_folder_that_is_exchanged_at_the_last_moment_stays(tmp_path, monkeypatch):
    victim = keep(tmp_path / "elsewhere", "org/victim")
    folder = keep(tmp_path / "models", "org/name")
    survey = removal._Removal._survey

    def exchange(self, *given):
        survey(self, *given)
        if given[1] == str(folder):
            folder.rename(tmp_path / "moved")
            folder.symlink_to(victim)

    monkeypatch.setattr(removal._Removal, "_survey", exchange)
    assert refusal(tmp_path / "models").id == "ModelChanged"
    assert folder.readlink() == victim
    assert cache.listing(tmp_path / "elsewhere").models[0].complete
    assert names(tmp_path / "moved") == ["blobs", "refs", "snapshots"]


def test_a_folder_that_is_exchanged_for_a_link_while_it_is_emptied_is_not_followed(tmp_path, monkeypatch):
    victim = keep(tmp_path / "elsewhere", "org/victim")
    keep(tmp_path / "models", "org/name")
    descend = removal._Removal._descend

    def exchange(self, name, directory, path, device):
        if name == "blobs":
            os.rename(name, "away", src_dir_fd=directory, dst_dir_fd=directory)
            os.symlink(victim, name, dir_fd=directory)
        return descend(self, name, directory, path, device)

    monkeypatch.setattr(removal._Removal, "_descend", exchange)
    # What was put there meanwhile is found and told: it is not followed, and not lost sight of.
    assert refusal(tmp_path / "models").id == "DeletionIncomplete"
    assert cache.listing(tmp_path / "elsewhere").models[0].complete
    monkeypatch.undo()
    keep(tmp_path / "models", "org/name")
    delete(tmp_path / "models")
    assert names(tmp_path / "models") == []


CALLS = ("open", "fstat", "stat", "scandir", "listdir", "access", "rename", "unlink", "rmdir")


@pytest.mark.parametrize("step", range(1, 41))
def test_a_model_that_vanishes_at_any_moment_is_no_error(tmp_path, monkeypatch, step):
    """Before one of the calls somebody else removes all of it."""
    keep(tmp_path, "org/name")
    made = []

    def patch(call):
        real = getattr(os, call)

        def counted(*given, **more):
            made.append(call)
            if len(made) == step:
                monkeypatch.undo()
                for path in tmp_path.iterdir():
                    shutil.rmtree(path)
            return real(*given, **more)

        monkeypatch.setattr(os, call, counted)

    for call in CALLS:
        patch(call)
    if step <= 2:
        assert refusal(tmp_path).id == "ModelNotCached"
    else:
        assert delete(tmp_path).freed <= BYTES
    assert len(made) == step
    assert names(tmp_path) == []


def test_a_volume_that_is_mounted_inside_is_not_emptied(tmp_path, monkeypatch):
    folder = keep(tmp_path, "org/name")
    mounted = (folder / "blobs").stat().st_ino
    fstat = os.fstat

    def elsewhere(descriptor):
        status = fstat(descriptor)
        if status.st_ino != mounted:
            return status
        return os.stat_result([*status[:2], status.st_dev + 1, *status[3:]])

    monkeypatch.setattr(os, "fstat", elsewhere)
    message = refusal(tmp_path, force=True)
    assert message.id == "DeletionDenied"
    assert dict(message.params)["path"] == str(folder / "blobs")
    monkeypatch.undo()
    assert cache.listing(tmp_path).models[0].complete


def test_folders_without_end_are_refused(tmp_path):
    folder = keep(tmp_path, "org/name")
    (folder / "/".join(["d"] * (removal.DEEPEST + 5))).mkdir(parents=True)
    assert refusal(tmp_path).id == "DeletionDenied"
    assert cache.listing(tmp_path).models[0].complete


def test_an_interrupted_deletion_is_ended_by_the_next(tmp_path):
    keep(tmp_path, "org/one").rename(tmp_path / f"{ASIDE}00000000-models--org--one")
    keep(tmp_path, "org/two")
    assert delete(tmp_path, "org/two").freed == 2 * BYTES
    assert names(tmp_path) == []


def test_what_only_looks_like_an_interrupted_deletion_is_not_followed(tmp_path):
    victim = keep(tmp_path / "elsewhere", "org/victim")
    keep(tmp_path / "models", "org/name")
    (tmp_path / "models" / f"{ASIDE}link").symlink_to(victim)
    delete(tmp_path / "models")
    assert cache.listing(tmp_path / "elsewhere").models[0].complete


def test_content_that_huggingface_hub_shares_goes_with_the_last_model_that_needs_it(tmp_path):
    from huggingface_hub.utils._shared_blobs import publish_blob_to_shared_store, try_link_from_shared_store

    content, hash_ = b"shared" * 100, "7" * 64
    for name in ("one", "two"):
        folder = keep(tmp_path, f"org/{name}")
        blob = folder / "blobs" / ("f" * 64)
        given = {"blob_path": str(blob), "xet_hash": hash_, "cache_dir": tmp_path, "expected_size": len(content)}
        if name == "one":
            blob.write_bytes(content)
            assert publish_blob_to_shared_store(**given)
        else:
            assert try_link_from_shared_store(**given)
        assert blob.is_symlink()
    store = tmp_path / "blobs" / "77" / hash_
    assert delete(tmp_path, "org/one").freed < BYTES + len(content)
    assert stat.S_ISREG(store.stat().st_mode)
    assert delete(tmp_path, "org/two").freed >= BYTES + len(content)
    assert not store.exists()


def test_a_name_that_looks_like_a_store_leads_nowhere_else(tmp_path):
    victim = tmp_path / "blobs" / "77"
    victim.mkdir(parents=True)
    (victim / ("7" * 64)).write_text("precious")
    folder = keep(tmp_path, "org/name")
    (folder / "blobs" / ("f" * 64)).symlink_to(f"../../blobs/77/{'7' * 64}")
    delete(tmp_path)
    assert names(victim) == ["7" * 64]


def test_busy_is_told_by_the_lock_of_a_blob(tmp_path):
    folder = RepoFolder(tmp_path, "org/name")
    assert not folder.busy()
    lock = tmp_path / ".locks" / folder.name / "x.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("")
    assert not folder.busy()
