"""Whether an engine can start from the cache as it is."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache

from support.hub_cache import COMMIT, SMALL, keep
from vllm_fsm.core.snapshot import Finding, Message
from vllm_fsm.weights.completeness import FOREIGN_CODE, Look, complete_commit, local_weights, look, weights
from vllm_fsm.weights.hub_cache import Entry, Listing, RepoFolder
from vllm_fsm.weights.needs import Needs, Repo, Role

OTHER = "beef" + "0" * 36
MODEL, TOKENIZER, ADAPTER = Repo("org/m"), Repo("org/t", role=Role.PLAIN), Repo("org/a", role=Role.ADAPTER)
INDEX = "model.safetensors.index.json"
SHARDS = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
SHARDED = {
    "config.json": b"{}",
    INDEX: json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))}).encode(),
    **{shard: shard.encode() for shard in SHARDS},
}
NEEDS = Needs((MODEL,))
READY, MISSING = Look(True, offline=True), Look(False)


def know(folder: Path, files: Mapping[str, bytes], *, commit: str = COMMIT, revision: str = "main") -> None:
    """Have what the hub lists of the commit, with the blobs that `keep` made."""
    blobs = {path: RepoFolder(folder.parent, "org/m").snapshot(commit, path) for path in files}
    entries = [
        Entry(path, len(content), Path(blobs[path]).resolve().name if Path(blobs[path]).exists() else "f" * 64)
        for path, content in files.items()
    ]
    RepoFolder(folder.parent, folder.name.removeprefix("models--").replace("--", "/")).prepare(
        Listing.of(commit, revision, entries)
    )


def without(files: Mapping[str, bytes], *paths: str) -> dict[str, bytes]:
    return {path: content for path, content in files.items() if path not in paths}


# --- what is not to be looked for --------------------------------------------------------------------------------


def test_a_start_that_needs_nothing(tmp_path: Path) -> None:
    assert look(tmp_path, Needs()) == Look(True)


def test_a_start_that_cannot_be_known_beforehand(tmp_path: Path) -> None:
    note = Message.of("FetchedByEngine", model="org/m", what="ModelScope")
    assert look(tmp_path, Needs(unresolved=note)) == Look(True, note=note)


def test_a_start_that_nobody_can_make(tmp_path: Path) -> None:
    problem = Finding.of("ModelPathMissing", permanent=True, path="/x")
    assert look(tmp_path, Needs(problem=problem)) == Look(False, problem=problem)


# --- a snapshot whose files are listed ---------------------------------------------------------------------------


def test_a_complete_snapshot(tmp_path: Path) -> None:
    know(keep(tmp_path, "org/m", SHARDED), SHARDED)
    assert look(tmp_path, NEEDS) == READY
    assert look(str(tmp_path), NEEDS) == READY


@pytest.mark.parametrize("missing", SHARDED)
def test_a_listed_file_is_missing(tmp_path: Path, missing: str) -> None:
    know(keep(tmp_path, "org/m", without(SHARDED, missing)), SHARDED)
    assert look(tmp_path, NEEDS) == MISSING


@pytest.mark.parametrize("kind", ["short", "dangling", "folder"])
def test_a_listed_file_is_broken(tmp_path: Path, kind: str) -> None:
    folder = keep(tmp_path, "org/m", SHARDED)
    know(folder, SHARDED)
    shard = folder / "snapshots" / COMMIT / SHARDS[1]
    blob = shard.resolve()
    blob.unlink()
    if kind == "short":
        blob.write_bytes(b"x")
    elif kind == "folder":
        blob.mkdir()
    assert look(tmp_path, NEEDS) == MISSING


def test_what_vllm_does_not_read_may_be_missing(tmp_path: Path) -> None:
    more = {"pytorch_model.bin": b"x", "original/params.json": b"{}", "model.gguf": b"x", "logo.png": b"x"}
    know(keep(tmp_path, "org/m", SHARDED), {**SHARDED, **more})
    assert look(tmp_path, NEEDS) == READY


def test_a_listing_by_huggingface_hub(tmp_path: Path) -> None:
    folder = keep(tmp_path, "org/m", without(SHARDED, SHARDS[1]))
    tree = {path: TreeCacheEntry(len(content), "a" * 40) for path, content in SHARDED.items()}
    write_tree_cache(str(folder), COMMIT, tree)
    assert look(tmp_path, NEEDS) == MISSING
    keep(tmp_path, "org/m", {SHARDS[1]: SHARDED[SHARDS[1]]})
    assert look(tmp_path, NEEDS) == READY


def test_a_listing_without_weights(tmp_path: Path) -> None:
    files = {"config.json": b"{}"}
    know(keep(tmp_path, "org/m", files), files)
    assert look(tmp_path, NEEDS) == MISSING
    assert look(tmp_path, Needs((replace(MODEL, role=Role.PLAIN),))) == READY


# --- a snapshot that nobody listed -------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [SMALL, SHARDED, {"params.json": b"{}", "consolidated.safetensors": b"x"}])
def test_an_unlisted_snapshot(tmp_path: Path, files: dict[str, bytes]) -> None:
    keep(tmp_path, "org/m", files)
    assert look(tmp_path, NEEDS) == READY


@pytest.mark.parametrize(
    "files",
    [
        {},
        without(SHARDED, SHARDS[0]),
        without(SHARDED, *SHARDS),
        without(SHARDED, "config.json"),
        without(SMALL, "config.json"),
        without(SMALL, "model.safetensors"),
        {
            "config.json": b"{}",
            "pytorch_model.bin.index.json": b'{"weight_map": {"a": "1.bin", "b": "2.bin"}}',
            "1.bin": b"",
        },
        {"original/config.json": b"{}", "model.safetensors": b""},
    ],
)
def test_an_unlisted_snapshot_that_lacks_something(tmp_path: Path, files: dict[str, bytes]) -> None:
    keep(tmp_path, "org/m", files)
    assert look(tmp_path, NEEDS) == MISSING


def test_the_index_of_another_form_does_not_count(tmp_path: Path) -> None:
    keep(tmp_path, "org/m", {**SHARDED, "pytorch_model.bin.index.json": b'{"weight_map": {"a": "1.bin"}}'})
    assert look(tmp_path, NEEDS) == READY


def test_a_dangling_link_is_no_file(tmp_path: Path) -> None:
    folder = keep(tmp_path, "org/m", SHARDED)
    (folder / "snapshots" / COMMIT / SHARDS[0]).resolve().unlink()
    assert look(tmp_path, NEEDS) == MISSING


@pytest.mark.parametrize(
    ("files", "there"),
    [
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}, True),
        ({"adapter_config.json": b"{}", "adapter_model.bin": b"x"}, True),
        ({"adapter_config.json": b"{}"}, False),
        ({"adapter_model.safetensors": b"x"}, False),
    ],
)
def test_an_unlisted_adapter(tmp_path: Path, files: dict[str, bytes], there: bool) -> None:
    keep(tmp_path, "org/a", files)
    assert look(tmp_path, Needs((ADAPTER,))) == (READY if there else MISSING)


def test_an_unlisted_tokenizer(tmp_path: Path) -> None:
    keep(tmp_path, "org/t", {"tokenizer_config.json": b"{}", "tokenizer.json": b"{}"})
    assert look(tmp_path, Needs((TOKENIZER,))) == READY


# --- revisions ---------------------------------------------------------------------------------------------------


def test_the_commit_that_is_found(tmp_path: Path) -> None:
    keep(tmp_path, "org/m")
    keep(tmp_path, "org/m", SHARDED, commit=OTHER, ref="v1")
    folder = RepoFolder(tmp_path, "org/m")
    assert complete_commit(folder, MODEL) == COMMIT
    assert complete_commit(folder, replace(MODEL, revision="v1")) == OTHER
    assert complete_commit(folder, replace(MODEL, revision=OTHER)) == OTHER
    assert complete_commit(folder, replace(MODEL, revision="v2")) is None
    assert complete_commit(folder, replace(MODEL, revision="d" * 40)) is None


def test_an_interrupted_move_of_a_branch_leaves_the_earlier_commit(tmp_path: Path) -> None:
    know(keep(tmp_path, "org/m"), SMALL)
    know(keep(tmp_path, "org/m", without(SHARDED, SHARDS[0]), commit=OTHER, ref=""), SHARDED, commit=OTHER)
    assert complete_commit(RepoFolder(tmp_path, "org/m"), MODEL) == COMMIT


# --- several repositories ----------------------------------------------------------------------------------------


def test_all_must_be_complete(tmp_path: Path) -> None:
    both = Needs((MODEL, TOKENIZER))
    keep(tmp_path, "org/m")
    assert look(tmp_path, both) == MISSING
    keep(tmp_path, "org/t", {"tokenizer_config.json": b"{}"})
    assert look(tmp_path, both) == READY


def test_a_hub_that_is_switched_off(tmp_path: Path) -> None:
    both = Needs((MODEL, TOKENIZER), offline=True)
    keep(tmp_path, "org/m")
    assert look(tmp_path, both) == Look(False, problem=Finding.of("NotInCache", permanent=True, repo="org/t"))
    keep(tmp_path, "org/t", {"tokenizer_config.json": b"{}"})
    assert look(tmp_path, both) == READY


# --- what a configuration refers to ------------------------------------------------------------------------------

REFERRING = b'{"auto_map": {"AutoConfig": "other/repo--code.Config"}}'


@pytest.mark.parametrize("path", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_code_of_another_repository_is_left_to_the_engine(tmp_path: Path, path: str) -> None:
    keep(tmp_path, "org/m", {**SMALL, path: REFERRING})
    note = Message.of("FetchedByEngine", model="org/m", what=FOREIGN_CODE)
    assert look(tmp_path, replace(NEEDS, remote_code=True)) == Look(True, note=note)
    assert look(tmp_path, NEEDS) == READY, "it is not executed"


def test_code_of_another_repository_hides_no_missing_weights(tmp_path: Path) -> None:
    keep(tmp_path, "org/m", {**SMALL, "config.json": REFERRING})
    assert look(tmp_path, Needs((MODEL, Repo("org/draft")), remote_code=True)) == MISSING


def test_a_speculator_brings_the_model_that_it_is_for(tmp_path: Path) -> None:
    config = b'{"speculators_config": {"verifier": {"name_or_path": "org/verifier"}}}'
    keep(tmp_path, "org/m", {**SMALL, "config.json": config})
    what = "the model that it speculates for"
    assert look(tmp_path, NEEDS) == Look(True, note=Message.of("FetchedByEngine", model="org/m", what=what))


# --- tidying, cost, odd places -----------------------------------------------------------------------------------


def test_looking_removes_partial_files_that_belong_to_nothing(tmp_path: Path) -> None:
    folder = keep(tmp_path, "org/m")
    stale = folder / "blobs" / ("a" * 64 + ".0123abcd.incomplete")
    stale.touch()
    assert look(tmp_path, NEEDS) == READY
    assert not stale.exists()


@pytest.mark.parametrize("listed", [True, False])
def test_two_thousand_files_are_looked_through_within_a_second(tmp_path: Path, listed: bool) -> None:
    files = {**SMALL, **{f"extra/{number % 40}/{number}.json": b"%d" % number for number in range(2000)}}
    folder = keep(tmp_path, "org/m", files)
    if listed:
        know(folder, files)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        assert look(tmp_path, NEEDS) == READY
        took.append(time.perf_counter() - began)
    assert min(took) < 1


def test_a_linked_cache(tmp_path: Path) -> None:
    keep(tmp_path / "disk", "org/m")
    (tmp_path / "models").symlink_to("disk")
    assert look(tmp_path / "models", NEEDS) == READY


def test_a_linked_repository(tmp_path: Path) -> None:
    elsewhere = keep(tmp_path / "disk", "org/m")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / elsewhere.name).symlink_to(elsewhere)
    assert look(tmp_path / "models", NEEDS) == READY


def test_no_cache(tmp_path: Path) -> None:
    assert look(tmp_path / "none", NEEDS) == MISSING
    (tmp_path / "file").touch()
    assert look(tmp_path / "file", NEEDS) == MISSING


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b"null", b"{", b'{"weight_map": {"a": "../../x"}}'])
def test_a_broken_index(tmp_path: Path, content: bytes) -> None:
    """It is asked for again where the hub lists more than there is."""
    files = {**SHARDED, INDEX: content}
    know(keep(tmp_path, "org/m", without(files, SHARDS[0])), files)
    assert look(tmp_path, NEEDS) == MISSING


def test_a_broken_configuration_is_the_engines_to_report(tmp_path: Path) -> None:
    keep(tmp_path, "org/m", {**SMALL, "config.json": b"[" * 100_000})
    assert look(tmp_path, replace(NEEDS, remote_code=True)) == READY


@pytest.mark.parametrize("place", ["snapshots", "blobs", "refs"])
def test_a_file_where_a_folder_ought_to_be(tmp_path: Path, place: str) -> None:
    folder = keep(tmp_path, "org/m")
    (folder / place).rename(folder / "away")
    (folder / place).touch()
    assert look(tmp_path, NEEDS) == MISSING


# --- where the weights lie -------------------------------------------------------------------------------------------


def test_the_weights_of_a_snapshot_in_their_order(tmp_path: Path) -> None:
    files = {**SHARDED, "tokenizer.json": b"{}", "pytorch_model.bin": b"never read", "original/x.safetensors": b"x"}
    folder = keep(tmp_path, "org/m", files)
    found = weights(RepoFolder(tmp_path, "org/m"), MODEL)
    assert found == [f"{folder}/snapshots/{COMMIT}/{shard}" for shard in SHARDS]
    know(folder, files)
    assert weights(RepoFolder(tmp_path, "org/m"), MODEL) == found


def test_the_weights_of_what_is_not_complete(tmp_path: Path) -> None:
    assert weights(RepoFolder(tmp_path, "org/m"), MODEL) == []
    keep(tmp_path, "org/m", without(SHARDED, SHARDS[1]))
    assert weights(RepoFolder(tmp_path, "org/m"), MODEL) == []


def test_no_weights_are_read_of_a_tokenizer(tmp_path: Path) -> None:
    keep(tmp_path, "org/t", SHARDED)
    assert weights(RepoFolder(tmp_path, "org/t"), TOKENIZER) == []


def local(folder: Path, files: Mapping[str, bytes]) -> list[str]:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return [path.removeprefix(f"{folder}/") for path in local_weights(Repo(str(folder)))]


def test_the_weights_of_a_directory(tmp_path: Path) -> None:
    unread = {"extra.safetensors": b"x", "pytorch_model.bin": b"x", "below/more.safetensors": b"x"}
    assert local(tmp_path, {**SHARDED, **unread}) == SHARDS


def test_the_weights_of_a_directory_without_an_index(tmp_path: Path) -> None:
    assert local(tmp_path, without(SHARDED, INDEX)) == SHARDS


def test_a_directory_with_an_index_that_nobody_can_read(tmp_path: Path) -> None:
    (tmp_path / INDEX).symlink_to("/dev/zero")
    assert local(tmp_path, without(SHARDED, INDEX)) == []


def test_a_directory_without_weights_and_none_at_all(tmp_path: Path) -> None:
    assert local(tmp_path, {"config.json": b"{}"}) == []
    assert local_weights(Repo("/proc/self/nothing/here")) == ["/proc/self/nothing/here"]


def test_a_single_file(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"x")
    assert local_weights(Repo(str(tmp_path / "model.gguf"))) == [str(tmp_path / "model.gguf")]
