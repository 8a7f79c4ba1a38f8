"""One repository's folder in the cache: what is read of it, what is written, what is thrown away."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache
from hypothesis import given
from hypothesis import strategies as st

from support.hub_cache import COMMIT, keep
from vllm_fsm.weights import hub_cache
from vllm_fsm.weights.hub_cache import OWN, PARTIAL, PIECE, Entry, Listing, RepoFolder, Unsafe, is_commit

OTHER = "beef" + "0" * 36
SMALL, LARGE = "a" * 40, "b" * 64


def entry(path: str, content: bytes = b"content") -> Entry:
    return Entry(path, len(content), hashlib.sha256(content).hexdigest())


def listing(*entries: Entry, commit: str = COMMIT, revision: str = "main") -> Listing:
    return Listing.of(commit, revision, entries)


@pytest.fixture
def folder(tmp_path: Path) -> RepoFolder:
    return RepoFolder(tmp_path / "models", "org/m")


def put(folder: RepoFolder, each: Entry, content: bytes = b"content") -> None:
    """Bring a blob, as a transfer does."""
    Path(folder.blob(each)).write_bytes(content)


def partial(folder: RepoFolder, name: str, size: int = 1) -> Path:
    path = Path(folder.blobs, name + PARTIAL)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


def everything(top: Path) -> list[str]:
    return sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_symlink() or path.is_file())


# --- names -------------------------------------------------------------------------------------------------------


def test_where_things_lie(folder: RepoFolder, tmp_path: Path) -> None:
    top = str(tmp_path / "models")
    assert folder.path == f"{top}/models--org--m"
    assert folder.blob(Entry("x", 1, SMALL)) == f"{top}/models--org--m/blobs/{SMALL}"
    assert folder.partial(Entry("x", 1, SMALL)) == f"{top}/models--org--m/blobs/{SMALL}.incomplete"
    assert folder.snapshot(COMMIT, "a/b.json") == f"{top}/models--org--m/snapshots/{COMMIT}/a/b.json"
    assert folder.ref("refs/pr/1") == f"{top}/models--org--m/refs/refs/pr/1"
    assert folder.lock(SMALL) == f"{top}/.locks/models--org--m/{SMALL}.lock"
    assert RepoFolder(top, "gpt2").name == "models--gpt2"


@pytest.mark.parametrize("name", ["", "main", COMMIT[:7], COMMIT.upper(), COMMIT + "0", f"{COMMIT}\n", "g" * 40])
def test_what_is_no_commit(name: str) -> None:
    assert not is_commit(name)
    with pytest.raises(Unsafe, match="commit"):
        Listing.of(name, "main", ())


UNSAFE: list[Any] = [
    *("", "/", "/etc/passwd", "..", ".", "../x", "a/../../x", "a/..", "./a", "a//b", "a/", "a\0b", "a\\b", "\\..\\x"),
    *("\ud800", "a/\udcff.json", None, 5, ["a"]),
]


@pytest.mark.parametrize("path", UNSAFE)
def test_a_file_name_that_must_not_be_used(path: Any) -> None:
    with pytest.raises(Unsafe, match="file name"):
        Listing.of(COMMIT, "main", [Entry(path, 1, SMALL)])


@pytest.mark.parametrize(
    "etag", ["", "../x", "a" * 39, "A" * 40, "a" * 41, f"{SMALL}\n", "/" + "a" * 39, None, 5, b"a" * 40]
)
def test_a_hash_that_must_not_be_used(etag: Any) -> None:
    with pytest.raises(Unsafe, match=r"hash of 'x'"):
        Listing.of(COMMIT, "main", [Entry("x", 1, etag)])


@pytest.mark.parametrize("size", [-1, None, "1", 1.5, True])
def test_a_size_that_is_none(size: Any) -> None:
    with pytest.raises(Unsafe, match=r"size of 'x'"):
        Listing.of(COMMIT, "main", [Entry("x", size, SMALL)])


@pytest.mark.parametrize("path", ["a", "a/b/c", "...", "a..b", ".gitattributes", "é/ü", "a b", "a\nb", "~", "a" * 255])
def test_other_file_names(path: str) -> None:
    assert list(Listing.of(COMMIT, "main", [Entry(path, 0, LARGE)]).entries) == [path]


@given(st.text(max_size=20) | st.lists(st.sampled_from(["..", ".", "a", ""])).map("/".join))
def test_no_listed_file_leads_out(path: str) -> None:
    folder = RepoFolder("/cache", "org/m")
    try:
        known = Listing.of(COMMIT, "main", [Entry(path, 1, SMALL)])
    except Unsafe:
        return
    for name in known.entries:
        place = folder.snapshot(COMMIT, name)
        assert os.path.normpath(place) == place
        assert place.startswith(folder.snapshot(COMMIT))
        assert folder.snapshot(COMMIT).endswith(f"/{COMMIT}/")
        os.fsencode(place)


# --- listings ----------------------------------------------------------------------------------------------------


def test_a_listing_comes_back(folder: RepoFolder) -> None:
    kept = listing(Entry("é/a.json", 0, SMALL), Entry("b.safetensors", 1 << 40, LARGE))
    folder.prepare(kept)
    assert folder.listing(COMMIT) == kept
    assert folder.listing(OTHER) is None
    assert [each.large for each in kept.entries.values()] == [False, True]


def test_the_listing_of_huggingface_hub(folder: RepoFolder) -> None:
    entries = {
        "config.json": TreeCacheEntry(5, SMALL),
        "a/m.bin": TreeCacheEntry(7, SMALL, lfs_sha256=LARGE, lfs_size=7, xet_hash="c" * 64),
    }
    write_tree_cache(folder.path, COMMIT, entries)
    assert Path(folder.path, "trees", f"{COMMIT}.json").is_file()
    found = folder.listing(COMMIT)
    assert found is not None
    assert found.entries == {"config.json": Entry("config.json", 5, SMALL), "a/m.bin": Entry("a/m.bin", 7, LARGE)}


def test_ours_counts_before_the_other_one(folder: RepoFolder) -> None:
    write_tree_cache(folder.path, COMMIT, {"a": TreeCacheEntry(5, SMALL)})
    folder.prepare(listing(entry("b")))
    assert list(folder.listing(COMMIT).entries) == ["b"]  # type: ignore[union-attr]
    Path(folder.path, OWN, f"{COMMIT}.json").write_text("{")
    assert list(folder.listing(COMMIT).entries) == ["a"]  # type: ignore[union-attr]


BROKEN = [
    *(b"", b"{", b"null", b"[]", b"5", b'"x"', b"{}", b"\xff\xfe\0", b"[" * 100_000, b'{"a":' * 100_000, b"\0" * 99),
    *(
        b'{"schema": 1}',
        b'{"schema": 2, "revision": "main", "files": {}}',
        b'{"schema": 1, "revision": "", "files": []}',
    ),
    b'{"schema": 1, "revision": "", "files": {"a": 5}}',
    b'{"schema": 1, "revision": "", "files": {"a": {"size": 1}}}',
    b'{"schema": 1, "revision": "", "files": {"../a": {"size": 1, "etag": "' + SMALL.encode() + b'"}}}',
    b'{"schema": 1, "revision": "", "files": {"\\ud800": {"size": 1, "etag": "' + SMALL.encode() + b'"}}}',
    b'{"schema": 1, "revision": "", "files": {"a": {"size": 1, "etag": "../../x"}}}',
    b'{"format_version": 2, "files": {}}',
    b'{"format_version": 1, "files": {"/a": {"size": 1, "blob_id": "' + SMALL.encode() + b'"}}}',
    b'{"format_version": 1, "files": {"a": {"size": "1", "blob_id": "' + SMALL.encode() + b'"}}}',
    b'{"format_version": 1, "files": {"a": {"size": 1, "blob_id": null}}}',
]


@pytest.mark.parametrize("content", BROKEN)
@pytest.mark.parametrize("place", [OWN, "trees"])
def test_a_broken_listing_is_none(folder: RepoFolder, place: str, content: bytes) -> None:
    path = Path(folder.path, place, f"{COMMIT}.json")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert folder.listing(COMMIT) is None
    assert folder.sweep() == 0


def test_a_listing_that_is_a_folder(folder: RepoFolder) -> None:
    Path(folder.path, OWN, f"{COMMIT}.json").mkdir(parents=True)
    assert folder.listing(COMMIT) is None


def test_a_moved_branch_drops_its_earlier_listing(folder: RepoFolder) -> None:
    third = "d" * 40
    folder.prepare(listing(entry("a"), commit=third, revision="v1"))
    folder.prepare(listing(entry("a")))
    folder.prepare(listing(entry("b"), commit=OTHER))
    assert folder.listing(COMMIT) is None
    assert folder.listing(OTHER) is not None
    assert folder.listing(third) is not None


def test_what_an_interrupted_write_left_is_overwritten(folder: RepoFolder) -> None:
    own = Path(folder.path, OWN)
    own.mkdir(parents=True)
    (own / f"{COMMIT}.json.{os.getpid()}.tmp").write_text("half of it")
    folder.prepare(listing(entry("a")))
    assert sorted(path.name for path in own.iterdir()) == ["boot", f"{COMMIT}.json"]


# --- references --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", ["main", "v1", "refs/pr/1", "feature/x"])
def test_a_reference_comes_back(folder: RepoFolder, revision: str) -> None:
    assert folder.commit(revision) is None
    for commit in (COMMIT, OTHER):
        folder.refer(listing(commit=commit, revision=revision))
        assert folder.commit(revision) == commit
    assert Path(folder.ref(revision)).read_text() == OTHER, "huggingface_hub takes the file as it is"


def test_a_commit_needs_no_reference(folder: RepoFolder) -> None:
    assert folder.commit(COMMIT) is None
    folder.prepare(listing(revision=COMMIT))
    folder.refer(listing(revision=COMMIT))
    assert folder.commit(COMMIT) == COMMIT
    assert not Path(folder.path, "refs").exists()


@pytest.mark.parametrize("content", [b"", b"main", b"../../x", b"\xff" * 40, COMMIT.encode() + b"0", b"x" * 10_000])
def test_a_reference_that_is_none(folder: RepoFolder, content: bytes) -> None:
    path = Path(folder.ref("main"))
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert folder.commit("main") is None


def test_a_reference_that_is_a_folder(folder: RepoFolder) -> None:
    Path(folder.ref("main")).mkdir(parents=True)
    assert folder.commit("main") is None


def test_two_revisions_side_by_side(folder: RepoFolder) -> None:
    old, new = entry("a", b"old"), entry("a", b"newer")
    for each, content, commit, revision in ((old, b"old", COMMIT, "v1"), (new, b"newer", OTHER, "main")):
        folder.prepare(listing(each, commit=commit, revision=revision))
        put(folder, each, content)
        folder.link(commit, each)
        folder.refer(listing(commit=commit, revision=revision))
    assert (folder.read(COMMIT, "a"), folder.read(OTHER, "a")) == (b"old", b"newer")
    assert (folder.commit("v1"), folder.commit("main")) == (COMMIT, OTHER)
    assert folder.holds(COMMIT, old)
    assert not folder.holds(COMMIT, new)


# --- files -------------------------------------------------------------------------------------------------------


def test_a_file_is_there_when_it_is_linked_in_its_full_size(folder: RepoFolder) -> None:
    each = entry("a/b.json")
    folder.prepare(listing(each))
    assert (folder.holds(COMMIT, each), folder.present(each)) == (False, 0)
    partial(folder, each.etag, 3)
    assert (folder.holds(COMMIT, each), folder.present(each)) == (False, 3)
    put(folder, each)
    assert (folder.holds(COMMIT, each), folder.present(each)) == (False, 7)
    folder.link(COMMIT, each)
    assert folder.holds(COMMIT, each)
    put(folder, each, b"short")
    assert not folder.holds(COMMIT, each)


def test_a_blob_of_the_wrong_size_counts_for_nothing(folder: RepoFolder) -> None:
    """A transfer begins it anew, from the partial file if there is one."""
    each = entry("a")
    folder.prepare(listing(each))
    put(folder, each, b"longer than it ought to be")
    assert folder.present(each) == 0
    partial(folder, each.etag, 3)
    assert folder.present(each) == 3
    partial(folder, each.etag, 99)
    assert folder.present(each) == 7


def test_a_folder_is_no_file(folder: RepoFolder) -> None:
    folder.prepare(listing())
    place = Path(folder.snapshot(COMMIT, "a"))
    place.mkdir()
    assert not folder.holds(COMMIT, Entry("a", place.stat().st_size, SMALL))


def test_a_link_as_huggingface_hub_makes_it(folder: RepoFolder) -> None:
    for path, target in (("a", "../../blobs/"), ("x/y/a", "../../../../blobs/")):
        each = entry(path)
        folder.prepare(listing(each))
        put(folder, each)
        folder.link(COMMIT, each)
        assert os.readlink(folder.snapshot(COMMIT, path)) == target + each.etag
        assert folder.read(COMMIT, path) == b"content"


def test_linking_again_changes_nothing(folder: RepoFolder) -> None:
    each = entry("a")
    folder.prepare(listing(each))
    put(folder, each)
    folder.link(COMMIT, each)
    before = os.lstat(folder.snapshot(COMMIT, "a"))
    folder.link(COMMIT, each)
    assert os.lstat(folder.snapshot(COMMIT, "a")) == before


@pytest.mark.parametrize("kind", ["file", "dangling", "elsewhere"])
def test_a_link_takes_the_place_of_what_is_there(folder: RepoFolder, tmp_path: Path, kind: str) -> None:
    each = entry("a")
    folder.prepare(listing(each))
    put(folder, each)
    place, outside = Path(folder.snapshot(COMMIT, "a")), tmp_path / "outside"
    outside.write_text("kept")
    if kind == "file":
        place.write_text("old")
    else:
        place.symlink_to("nowhere" if kind == "dangling" else outside)
    folder.link(COMMIT, each)
    assert folder.read(COMMIT, "a") == b"content"
    assert outside.read_text() == "kept"


def test_a_link_that_a_killed_process_left_half_made(folder: RepoFolder) -> None:
    """Process numbers come again soon in a container."""
    each = entry("a")
    folder.prepare(listing(each))
    put(folder, each)
    Path(f"{folder.snapshot(COMMIT, 'a')}.{os.getpid()}.tmp").symlink_to("nowhere")
    folder.link(COMMIT, each)
    assert everything(Path(folder.snapshot(COMMIT))) == ["a"]


def test_what_is_read_has_a_limit(folder: RepoFolder) -> None:
    each = entry("a")
    folder.prepare(listing(each))
    put(folder, each)
    folder.link(COMMIT, each)
    assert folder.read(COMMIT, "a", limit=7) == b"content"
    assert folder.read(COMMIT, "a", limit=6) is None
    assert folder.read(COMMIT, "missing") is None
    assert folder.read(COMMIT, "") is None


def test_the_files_of_a_snapshot(tmp_path: Path) -> None:
    keep(tmp_path, "org/m", {"b": b"", "a/c": b"", "a/b/d": b""})
    folder = RepoFolder(tmp_path, "org/m")
    Path(folder.snapshot(COMMIT, "dangling")).symlink_to("../../blobs/none")
    Path(folder.snapshot(COMMIT, "folder")).symlink_to("/usr")
    assert folder.files(COMMIT) == ["a/b/d", "a/c", "b"]
    assert folder.files(OTHER) == []


# --- sweeping ----------------------------------------------------------------------------------------------------


def test_partial_files_that_belong_to_nothing_go(folder: RepoFolder) -> None:
    wanted, elsewhere = entry("a", b"1"), entry("b", b"2")
    folder.prepare(listing(wanted))
    folder.prepare(listing(elsewhere, commit=OTHER, revision="v1"))
    mine, other, orphan = (partial(folder, name) for name in (wanted.etag, elsewhere.etag, SMALL))
    foreign, odd = partial(folder, f"{wanted.etag}.0123abcd"), partial(folder, "odd")
    blob = Path(folder.blobs, LARGE)
    blob.touch()
    assert folder.sweep() == 3
    assert [path.exists() for path in (mine, other, orphan, foreign, odd, blob)] == [
        True,
        True,
        False,
        False,
        False,
        True,
    ]
    assert folder.sweep() == 0


def test_those_of_a_moved_branch_go(folder: RepoFolder) -> None:
    old, same = entry("a", b"old"), entry("b")
    folder.prepare(listing(old, same))
    gone, stays = partial(folder, old.etag), partial(folder, same.etag)
    folder.prepare(listing(entry("a", b"new"), same, commit=OTHER))
    assert folder.sweep() == 1
    assert (gone.exists(), stays.exists()) == (False, True)


@contextmanager
def locked_elsewhere(path: str) -> Iterator[None]:
    """Hold a lock as huggingface_hub does, in another process."""
    program = "import sys; from huggingface_hub.utils import WeakFileLock\n"
    program += f"with WeakFileLock({path!r}): print('held', flush=True); sys.stdin.read()"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield
        child.communicate()


def test_what_another_process_writes_stays(folder: RepoFolder) -> None:
    paths = [partial(folder, f"{SMALL}.0123abcd"), partial(folder, SMALL)]
    with locked_elsewhere(folder.lock(SMALL)):
        assert folder.sweep() == 0
        assert all(path.exists() for path in paths)
    assert folder.sweep() == 2
    with open(folder.lock(SMALL)) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_that_cannot_be_asked_counts_as_held(folder: RepoFolder) -> None:
    path = partial(folder, f"{SMALL}.0123abcd")
    lock = Path(folder.lock(SMALL))
    lock.parent.mkdir(parents=True)
    lock.symlink_to(lock)
    assert folder.sweep() == 0
    assert path.exists()


def test_sweeping_where_nothing_is(folder: RepoFolder) -> None:
    assert folder.sweep() == 0
    Path(folder.blobs, f"folder{PARTIAL}").mkdir(parents=True)
    assert folder.sweep() == 0


def test_sweeping_follows_no_link(folder: RepoFolder, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    link = Path(folder.blobs, SMALL + PARTIAL)
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    assert folder.sweep() == 1
    assert outside.read_text() == "kept"


# --- a power cut -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "left"),
    [(0, 0), (1, 0), (PIECE - 1, 0), (PIECE, PIECE), (PIECE + 1, PIECE), (5 * PIECE - 1, 4 * PIECE)],
)
def test_after_a_power_cut_what_was_synced_is_kept(
    folder: RepoFolder, monkeypatch: pytest.MonkeyPatch, size: int, left: int
) -> None:
    each = entry("a")
    monkeypatch.setattr(hub_cache, "boot_id", lambda: "first")
    folder.prepare(listing(each))
    path = partial(folder, each.etag, size)
    folder.prepare(listing(each))
    assert path.stat().st_size == size, "the same kernel has all of it"
    monkeypatch.setattr(hub_cache, "boot_id", lambda: "second")
    folder.prepare(listing(each))
    assert path.stat().st_size == left
    with path.open("ab") as file:
        file.truncate(left + 1)
    folder.prepare(listing(each))
    assert path.stat().st_size == left + 1, "it is cut once"


def test_where_no_boot_is_known_it_is_cut(folder: RepoFolder) -> None:
    path = partial(folder, SMALL, PIECE + 1)
    folder.prepare(listing(Entry("a", 2 * PIECE, SMALL)))
    assert path.stat().st_size == PIECE


def test_only_our_own_partial_files_are_cut(folder: RepoFolder, tmp_path: Path) -> None:
    """Somebody else's may be written at this moment: cut under its writer it would be full of zeros."""
    outside = tmp_path / "outside"
    outside.write_text("kept")
    foreign = partial(folder, f"{SMALL}.0123abcd", 5)
    busy = partial(folder, LARGE, 5)
    Path(folder.blobs, "c" * 40 + PARTIAL).symlink_to(outside)
    Path(folder.blobs, "d" * 40 + PARTIAL).mkdir()
    with locked_elsewhere(folder.lock(LARGE)):
        folder.prepare(listing(entry("a")))
    assert (foreign.stat().st_size, busy.stat().st_size, outside.read_text()) == (5, 5, "kept")


def test_the_boot_is_the_kernels() -> None:
    assert len(hub_cache.boot_id()) == 36
    assert hub_cache.boot_id() == hub_cache.boot_id()


# --- what cannot be written --------------------------------------------------------------------------------------


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    folder = RepoFolder(tmp_path / "models", "org/m")
    for write in (folder.prepare, folder.refer):
        with pytest.raises(OSError, match="models"):
            write(listing(entry("a")))
    assert folder.commit("main") is None
    assert folder.sweep() == 0


def test_a_linked_cache_folder(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "models").symlink_to("disk")
    folder = RepoFolder(tmp_path / "models", "org/m")
    each = entry("a/b")
    folder.prepare(listing(each))
    put(folder, each)
    folder.link(COMMIT, each)
    folder.refer(listing(each))
    again = RepoFolder(tmp_path / "disk", "org/m")
    assert again.commit("main") == COMMIT
    assert again.read(COMMIT, "a/b") == b"content"


def test_our_folder_holds_json_that_others_may_read(folder: RepoFolder) -> None:
    folder.prepare(listing(Entry("a", 5, SMALL), revision="v1"))
    content = json.loads(Path(folder.path, OWN, f"{COMMIT}.json").read_text())
    assert content == {"schema": 1, "revision": "v1", "files": {"a": {"size": 5, "etag": SMALL}}}
