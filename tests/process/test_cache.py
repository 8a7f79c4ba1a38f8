"""The model cache with other users, other processes, and a power cut in the middle."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.hub_cache import SMALL, keep
from support.unprivileged import NOBODY, open_directory, unprivileged
from vllm_fsm import cache
from vllm_fsm.cache import removal
from vllm_fsm.cache.contents import ASIDE
from vllm_fsm.weights.hub_cache import RepoFolder

CONTENT = sum(map(len, SMALL.values()))


@pytest.fixture
def models() -> Iterator[Path]:
    """A cache with one model that every user may change."""
    with open_directory() as path:
        folder = keep(path, "org/name")
        for place in (folder, *folder.rglob("*")):
            if not place.is_symlink():
                place.chmod(0o777)
        try:
            yield path
        finally:
            for place in path.rglob("*"):
                if place.is_dir() and not place.is_symlink():
                    place.chmod(0o777)


def tried(models: Path) -> Callable[[], list[str]]:
    """Return a deletion that returns what it says."""

    def delete() -> list[str]:
        try:
            return [str(cache.delete(models, "org/name", in_use=()).freed)]
        except cache.Refused as refused:
            return [refused.message.id, str(refused)]

    return delete


def all_there(models: Path) -> bool:
    return [(model.name, model.complete) for model in cache.listing(models).models] == [("org/name", True)]


def test_a_user_with_the_rights_deletes(models: Path) -> None:
    assert unprivileged(tried(models)) == [str(CONTENT + 40)]
    assert list(models.iterdir()) == []


@pytest.mark.parametrize("place", ["", "models--org--name", "models--org--name/blobs", "models--org--name/refs"])
def test_without_permission_nothing_is_changed_and_the_path_told(models: Path, place: str) -> None:
    (models / place).chmod(0o555)
    said = unprivileged(tried(models))
    assert isinstance(said, list)
    assert said[0] == "DeletionDenied"
    assert f"{models / place} cannot be changed (Permission denied)" in said[1]
    assert all_there(models)


def test_what_cannot_be_read_is_told_and_the_rest_listed(models: Path) -> None:
    blobs = models / "models--org--name" / "blobs"
    blobs.chmod(0)

    def listed() -> list[object]:
        (model,) = cache.listing(models).models
        assert model.problem is not None
        return [model.size, model.complete, dict(model.problem.params)["path"]]

    assert unprivileged(listed) == [40, False, str(blobs)]
    said = unprivileged(tried(models))
    assert isinstance(said, list)
    assert said[0] == "DeletionDenied"
    assert str(blobs) in said[1]


def test_a_cache_that_cannot_be_read_is_told(models: Path) -> None:
    models.chmod(0)

    def listed() -> str:
        with pytest.raises(cache.Refused) as refused:
            cache.listing(models)
        return refused.value.message.id

    assert unprivileged(listed) == "CacheUnreadable"
    said = unprivileged(tried(models))
    assert isinstance(said, list)
    assert said[0] == "CacheUnreadable"


def test_permission_that_ends_in_the_middle_leaves_no_half_of_a_model(models: Path) -> None:
    move = removal._Removal._move

    def lose(self: removal._Removal, repo: RepoFolder, tree: int, aside: str) -> None:
        move(self, repo, tree, aside)
        os.chmod("blobs", 0o555, dir_fd=tree)

    def work() -> list[str]:
        removal._Removal._move = lose  # type: ignore[method-assign]
        # Whoever owns the folder changes its mode; the deletion then runs without the rights.
        return tried(models)()

    if os.geteuid() == 0:
        for place in (models / "models--org--name").rglob("*"):
            os.chown(place, NOBODY, NOBODY, follow_symlinks=False)
    said = unprivileged(work)
    assert isinstance(said, list)
    assert said[0] == "DeletionIncomplete"
    assert "/blobs/" in said[1]
    found = cache.listing(models)
    assert found.models == ()
    assert [left.size for left in found.stale] == [CONTENT]
    keep(models, "org/other")
    (left,) = (path for path in models.iterdir() if path.name.startswith("."))
    (left / "blobs").chmod(0o777)
    assert cache.delete(models, "org/other", in_use=()).freed == 2 * CONTENT + 40
    assert list(models.iterdir()) == []


def test_what_an_earlier_deletion_could_not_remove_is_no_fault_of_the_next(models: Path) -> None:
    left = models / f"{ASIDE}00000000-models--org--other"
    (left / "blobs").mkdir(parents=True)
    (left / "blobs" / "x").write_text("12")
    (left / "blobs").chmod(0o555)
    locks = models / ".locks" / "models--org--name"
    locks.mkdir(parents=True)
    (locks / "x.lock").write_text("")
    locks.chmod(0o555)
    assert unprivileged(tried(models)) == [str(CONTENT + 40)]
    found = cache.listing(models)
    assert found.models == ()
    assert found.stale == (cache.Leftover(str(left), 2),)


@pytest.mark.parametrize("step", range(1, 12))
def test_a_power_cut_leaves_a_whole_model_or_none(tmp_path: Path, step: int) -> None:
    """A process is killed before one of its changes; the next deletion ends what was begun."""
    keep(tmp_path, "org/name")
    child = os.fork()
    if child == 0:
        made = 0
        for call in ("rename", "unlink", "rmdir"):
            real = getattr(os, call)

            def counted(*given: object, _real: Callable[..., object] = real, **more: object) -> object:
                nonlocal made
                made += 1
                if made == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return _real(*given, **more)

            setattr(os, call, counted)
        cache.delete(tmp_path, "org/name", in_use=())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    found = cache.listing(tmp_path)
    if step == 1:
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert all_there(tmp_path)
        assert found.stale == ()
        return
    assert found.models == ()
    assert (len(found.stale) == 1) is os.WIFSIGNALED(status)
    keep(tmp_path, "org/other")
    cache.delete(tmp_path, "org/other", in_use=())
    assert list(tmp_path.iterdir()) == []


RIVAL = """
import json, sys
from vllm_fsm import cache
sys.stdin.readline()
gone = failed = 0
for number in range(int(sys.argv[2])):
    try:
        cache.delete(sys.argv[1], f"org/model-{number}", in_use=())
        gone += 1
    except cache.Refused as refused:
        if refused.message.id != "ModelNotCached":
            print(refused, file=sys.stderr)
            failed += 1
print(json.dumps([gone, failed]))
"""


def test_several_deletions_of_the_same_models_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    count = 100
    for number in range(count):
        keep(tmp_path, f"org/model-{number}")
    command = [sys.executable, "-c", RIVAL, str(tmp_path), str(count)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    rivals = [subprocess.Popen(command, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    for rival in rivals:
        rival.stdin.write("\n")
        rival.stdin.flush()
    seen = [count]
    while any(rival.poll() is None for rival in rivals):
        found = cache.listing(tmp_path)
        assert all(model.complete or not model.files for model in found.models)
        seen.append(len(found.models))
    results = [json.loads(rival.communicate()[0]) for rival in rivals]
    assert [failed for _, failed in results] == [0, 0, 0]
    assert sum(gone for gone, _ in results) >= count
    assert seen == sorted(seen, reverse=True)
    assert list(tmp_path.iterdir()) == []
