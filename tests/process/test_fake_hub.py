"""The fake hub as the real `huggingface_hub` sees it."""

import hashlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, RepoFile, constants, errors, snapshot_download
from huggingface_hub.utils.sha import git_hash

from support.fake_hub import COMMAND, FakeHub
from support.wait import wait_for

TOKENS = {"hf_friend": ["org/tiny"], "hf_stranger": []}
WEIGHTS = "/org/tiny/resolve/.*/model.safetensors"
CHUNK = 1 << 16


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that holds `org/tiny`, and a client that writes what it gets in small pieces."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
    with FakeHub(tmp_path / "hub", tokens=TOKENS) as hub:
        hub.repo("org/tiny")
        yield hub


def download(hub: FakeHub, repo_id: str = "org/tiny", **options: Any) -> dict[str, bytes]:
    """Download the repository into a cache of its own; return the files."""
    cache = hub.root.parent / f"cache-{time.monotonic_ns()}"
    defaults: dict[str, Any] = {"token": False, "cache_dir": cache, "endpoint": hub.url}
    folder = Path(snapshot_download(repo_id, **(defaults | options)))
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def held(hub: FakeHub, repo_id: str = "org/tiny") -> dict[str, bytes]:
    """The files that the hub holds."""
    folder = hub.root / repo_id
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".hub.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def got(hub: FakeHub, path_part: str) -> list[dict[str, Any]]:
    """The GETs of `path_part`, all of them over."""
    return [request for request in hub.over() if request["method"] == "GET" and path_part in request["path"]]


def running(hub: FakeHub, sent: int) -> list[dict[str, Any]]:
    """The running requests, once there is one that sent so many bytes."""
    return wait_for(lambda: [asked for asked in hub.requests() if "running" in asked and asked["sent"] == sent])


def entries(hub: FakeHub, repo_id: str = "org/tiny") -> dict[str, RepoFile]:
    """The files that the hub says it has."""
    listed = HfApi(hub.url, token=False).list_repo_tree(repo_id, recursive=True)
    return {entry.path: entry for entry in listed if isinstance(entry, RepoFile)}


def sha256(entry: RepoFile) -> str:
    assert entry.lfs is not None
    return str(entry.lfs.sha256)


def ask(url: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """Ask without a client's opinion."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, headers=headers), timeout=10) as response:
        return response.status, response.read(), {name.lower(): value for name, value in response.headers.items()}


# --- what is there -----------------------------------------------------------------------------------------------


def test_a_repository_comes_whole(hub: FakeHub) -> None:
    hub.repo("org/tiny", shards=3, files={"original/notes.txt": b"hello", "empty.txt": b""})
    assert download(hub) == held(hub)
    assert hub.sent() == sum(map(len, held(hub).values()))
    assert {request["status"] for request in hub.requests()} == {200}


def test_hashes_are_those_of_git_and_git_lfs(hub: FakeHub) -> None:
    hub.repo("org/tiny", files={"a/b/c.txt": b"hello\n"})
    listed = entries(hub)
    # What `git hash-object` says of a file with this content.
    assert listed["a/b/c.txt"].blob_id == "ce013625030ba8dba906f756967f9e9ca394464a"
    weights = (hub.root / "org/tiny/model.safetensors").read_bytes()
    assert sha256(listed["model.safetensors"]) == hashlib.sha256(weights).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(listed['model.safetensors'])}\n"
    pointer += f"size {len(weights)}\n"
    assert listed["model.safetensors"].blob_id == git_hash(pointer.encode())


def test_a_repository_is_listed_in_every_way(hub: FakeHub) -> None:
    hub.repo("org/tiny", files={"a/b/c.txt": b"hello\n", "a/d.txt": b""})
    api = HfApi(hub.url, token=False)
    assert {entry.path for entry in api.list_repo_tree("org/tiny")} == {"a", *held(hub)} - {"a/b/c.txt", "a/d.txt"}
    assert {entry.path for entry in api.list_repo_tree("org/tiny", "a")} == {"a/b", "a/d.txt"}
    assert {entry.path for entry in api.list_repo_tree("org/tiny", recursive=True)} == {"a", "a/b", *held(hub)}
    (info,) = api.get_paths_info("org/tiny", ["a/b/c.txt", "absent"])
    assert isinstance(info, RepoFile)
    assert (info.path, info.size) == ("a/b/c.txt", 6)
    siblings = {file.rfilename: file.size for file in api.model_info("org/tiny", files_metadata=True).siblings or ()}
    assert siblings == {path: len(content) for path, content in held(hub).items()}
    assert api.list_repo_files("org/tiny") == sorted(held(hub))


def test_a_commit_is_what_the_files_are_and_has_names(hub: FakeHub) -> None:
    api = HfApi(hub.url, token=False)
    first = api.model_info("org/tiny").sha
    hub.repo("org/tiny", seed=1, revisions={"v1": "main", "refs/pr/1": "main"})
    second = api.model_info("org/tiny").sha
    assert first != second
    assert api.model_info("org/tiny", revision="refs/pr/1").sha == second
    assert {branch.name for branch in api.list_repo_refs("org/tiny").branches} == {"main", "v1", "refs/pr/1"}
    assert download(hub, revision="v1") == download(hub, revision=second)
    hub.repo("org/tiny", commit="c" * 40)
    assert api.model_info("org/tiny").sha == "c" * 40


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=2-4", 206, slice(2, 5)),
        ("bytes=90-", 206, slice(90, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=95-200", 206, slice(95, None)),
        ("nonsense", 200, slice(None)),
    ],
)
def test_a_range_is_that_part(hub: FakeHub, asked: str, status: int, part: slice) -> None:
    content = bytes(range(100))
    hub.repo("org/tiny", files={"a.bin": content})
    answer, body, headers = ask(f"{hub.url}/org/tiny/resolve/main/a.bin", Range=asked)
    assert (answer, body) == (status, content[part])
    first = content.index(body)
    assert headers.get("content-range") == (f"bytes {first}-{first + len(body) - 1}/100" if status == 206 else None)


def test_a_range_behind_the_end_is_refused(hub: FakeHub) -> None:
    hub.repo("org/tiny", files={"a.bin": bytes(100)})
    with pytest.raises(urllib.request.HTTPError) as refused:
        ask(f"{hub.url}/org/tiny/resolve/main/a.bin", Range="bytes=100-")
    with refused.value:
        assert (refused.value.code, refused.value.headers["content-range"]) == (416, "bytes */100")


def test_sparse_files_take_no_room(hub: FakeHub) -> None:
    shards = {f"model-{number:05d}.safetensors": 100_000_000 for number in range(500)}
    folder = hub.repo("org/huge", sparse={**shards, "small.safetensors": 300_000, "odd.txt": 5})
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2_000_000
    api = HfApi(hub.url, token=False)
    assert (api.model_info("org/huge").used_storage or 0) > 50_000_000_000
    files = download(hub, "org/huge", allow_patterns=["small.safetensors", "odd.txt"])
    assert files == {"small.safetensors": bytes(300_000), "odd.txt": bytes(5)}
    listed = entries(hub, "org/huge")
    for name in ("small.safetensors", "model-00499.safetensors"):
        assert sha256(listed[name]) == hashlib.sha256(bytes(listed[name].size)).hexdigest()


# --- who may have it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("meta", "repo_id", "token", "error", "status"),
    [
        ({"gated": True}, "org/tiny", False, errors.GatedRepoError, 401),
        ({"gated": True}, "org/tiny", "hf_stranger", errors.GatedRepoError, 403),
        ({"private": True}, "org/tiny", False, errors.RepositoryNotFoundError, 401),
        ({"private": True}, "org/tiny", "hf_stranger", errors.RepositoryNotFoundError, 404),
        ({}, "org/absent", False, errors.RepositoryNotFoundError, 401),
        ({}, "org/absent", "hf_friend", errors.RepositoryNotFoundError, 404),
        ({"disabled": True}, "org/tiny", False, errors.DisabledRepoError, 403),
        ({}, "org/tiny", "hf_forged", errors.HfHubHTTPError, 401),
    ],
)
def test_refusals_are_what_the_client_knows_them_by(
    hub: FakeHub, meta: dict[str, Any], repo_id: str, token: Any, error: type[errors.HfHubHTTPError], status: int
) -> None:
    hub.repo("org/tiny", **meta)
    with pytest.raises(errors.HfHubHTTPError) as refused:
        HfApi(hub.url, token=token).auth_check(repo_id)
    assert (type(refused.value), refused.value.response.status_code) == (error, status)
    with pytest.raises((error, errors.LocalEntryNotFoundError)):
        download(hub, repo_id, token=token)
    assert hub.sent() == 0


@pytest.mark.parametrize("meta", [{"gated": True}, {"private": True}])
def test_a_granted_token_gets_everything(hub: FakeHub, meta: dict[str, Any]) -> None:
    hub.repo("org/tiny", **meta)
    assert download(hub, token="hf_friend") == held(hub)
    assert HfApi(hub.url, token="hf_friend").whoami()["name"] == "tester"
    assert all(request["auth"] for request in got(hub, "org/tiny"))


def test_a_gated_repository_tells_what_it_is(hub: FakeHub) -> None:
    hub.repo("org/tiny", gated=True)
    assert HfApi(hub.url, token=False).model_info("org/tiny").gated == "auto"


def test_what_is_not_in_a_repository(hub: FakeHub) -> None:
    api = HfApi(hub.url, token=False)
    with pytest.raises(errors.RevisionNotFoundError):
        download(hub, revision="v9")
    with pytest.raises(errors.RemoteEntryNotFoundError):
        api.hf_hub_download("org/tiny", "absent.json", cache_dir=hub.root.parent / "cache")
    with pytest.raises(errors.RemoteEntryNotFoundError):
        list(api.list_repo_tree("org/tiny", "absent"))


def test_a_moved_repository_is_followed(hub: FakeHub) -> None:
    hub.repo("org/old", moved_to="org/tiny")
    assert download(hub, "org/old") == held(hub)
    assert {request["status"] for request in got(hub, "/org/old")} == {307}


def test_a_redirect_to_the_cdn_drops_the_authorization(tmp_path: Path) -> None:
    with FakeHub(tmp_path / "hub", cdn=True, tokens=TOKENS) as hub:
        hub.repo("org/tiny", private=True)
        assert download(hub, token="hf_friend") == held(hub)
        (weights,) = got(hub, "/_cdn/")
        assert (weights["auth"], weights["sent"]) == (False, len(held(hub)["model.safetensors"]))
        assert got(hub, "/resolve/") != []
        assert all(request["auth"] for request in got(hub, "/resolve/"))


# --- how it fails ------------------------------------------------------------------------------------------------


def test_a_dropped_download_goes_on_where_it_was(hub: FakeHub) -> None:
    hub.faults({"match": f"GET {WEIGHTS}", "action": "drop", "after_bytes": 5 * CHUNK, "times": 1})
    assert download(hub) == held(hub)
    first, second = got(hub, "model.safetensors")
    assert (first["range"], first["sent"], first["fault"]) == (None, 5 * CHUNK, "drop")
    assert (second["range"], second["status"]) == (f"bytes={5 * CHUNK}-", 206)
    assert first["sent"] + second["sent"] == len(held(hub)["model.safetensors"])


def test_a_range_that_is_ignored_brings_the_whole_file_again(hub: FakeHub) -> None:
    hub.faults(
        {"match": WEIGHTS, "action": "ignore-range"},  # passes over what asks for no range
        {"match": WEIGHTS, "action": "drop", "after_bytes": 5 * CHUNK, "times": 1},
    )
    assert download(hub) == held(hub)
    first, second = got(hub, "model.safetensors")
    assert (first["fault"], second["fault"], second["status"]) == ("drop", "ignore-range", 200)
    assert second["sent"] == len(held(hub)["model.safetensors"])


def test_a_corrupt_file_is_seen_by_its_hash_only(hub: FakeHub) -> None:
    hub.faults({"match": WEIGHTS, "action": "corrupt", "after_bytes": 1_000_001})
    cache = hub.root.parent / "cache"
    got, sound = download(hub, cache_dir=cache)["model.safetensors"], held(hub)["model.safetensors"]
    assert got[:1_000_001] == sound[:1_000_001]
    assert all(a ^ b == 255 for a, b in zip(got[1_000_001:], sound[1_000_001:], strict=True))
    checked = HfApi(hub.url, token=False).verify_repo_checksums("org/tiny", cache_dir=cache)
    assert [mismatch["path"] for mismatch in checked.mismatches] == ["model.safetensors"]


def test_a_stalled_download_times_out_and_goes_on(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 2.0)
    hub.faults({"match": WEIGHTS, "action": "stall", "after_bytes": 3 * CHUNK, "times": 1})
    assert download(hub) == held(hub)
    first, second = got(hub, "model.safetensors")
    assert (first["sent"], first["aborted"], first["fault"]) == (3 * CHUNK, True, "stall")
    assert second["range"] == f"bytes={3 * CHUNK}-"


def test_a_stall_ends(hub: FakeHub) -> None:
    hub.faults({"match": WEIGHTS, "action": "stall", "after_bytes": CHUNK, "seconds": 0.3})
    assert download(hub) == held(hub)
    (weights,) = got(hub, "model.safetensors")
    assert weights["seconds"] >= 0.3


def test_a_running_request_is_seen(hub: FakeHub) -> None:
    hub.faults({"match": WEIGHTS, "action": "stall", "after_bytes": CHUNK})
    with ThreadPoolExecutor() as pool:
        pool.submit(download, hub)
        (weights,) = running(hub, sent=CHUNK)
        assert (weights["running"], weights["status"], weights["path"][-18:]) == (True, 200, "/model.safetensors")
        hub.stop()
        hub.start()


def test_an_asked_status_and_a_delay(hub: FakeHub) -> None:
    hub.faults(
        {"match": "revision", "action": "status", "status": 429, "headers": {"Retry-After": "7"}, "body": "no"},
        {"match": "GET /api/models/org/tiny$", "action": "delay", "seconds": 0.2},
    )
    api = HfApi(hub.url, token=False)
    with pytest.raises(errors.HfHubHTTPError) as refused:
        api.model_info("org/tiny", revision="main")
    response = refused.value.response
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    assert api.model_info("org/tiny").id == "org/tiny"
    assert got(hub, "/api/models/org/tiny")[-1]["seconds"] >= 0.2


@pytest.mark.parametrize("rule", [{"match": "x", "action": "dorp"}, {"match": "("}, {"match": "(", "action": "drop"}])
def test_a_rule_that_is_not_understood_changes_nothing(hub: FakeHub, rule: dict[str, Any]) -> None:
    hub.faults({"match": "whoami", "action": "status", "status": 418})
    with pytest.raises(AssertionError, match=r"dorp|argument|unterminated"):
        hub.faults(rule)
    with pytest.raises(errors.HfHubHTTPError, match="418"):
        HfApi(hub.url, token="hf_friend").whoami()


def test_the_bandwidth_holds_and_can_change(hub: FakeHub) -> None:
    size = len(held(hub)["model.safetensors"])
    hub.bandwidth(2 * size)
    begin = time.monotonic()
    download(hub, allow_patterns="model.safetensors")
    assert time.monotonic() - begin >= 0.45
    hub.bandwidth(100)
    with ThreadPoolExecutor() as pool:
        future = pool.submit(download, hub, allow_patterns="*.jinja")
        wait_for(lambda: len([asked for asked in hub.requests() if "running" in asked]) == 1, what="a slow answer")
        hub.bandwidth(0)
        assert list(future.result()) == ["chat_template.jinja"]


# --- its life ----------------------------------------------------------------------------------------------------


def test_it_goes_down_and_comes_back(hub: FakeHub) -> None:
    download(hub)
    before = hub.over()
    hub.stop()
    with pytest.raises(errors.LocalEntryNotFoundError):
        download(hub)
    assert hub.requests() == before
    hub.start()
    assert download(hub) == held(hub)
    assert len(hub.over()) == 2 * len(before)
    assert hub.sent() == 2 * sum(map(len, held(hub).values()))


def test_a_download_goes_on_when_it_is_back(hub: FakeHub) -> None:
    hub.faults({"match": WEIGHTS, "action": "stall", "after_bytes": 5 * CHUNK})
    with ThreadPoolExecutor() as pool:
        future = pool.submit(download, hub, allow_patterns="*.safetensors")
        assert running(hub, sent=5 * CHUNK)
        hub.stop()
        hub.start()
        assert future.result() == {"model.safetensors": held(hub)["model.safetensors"]}
    first, second = got(hub, "model.safetensors")
    assert (first["aborted"], first["sent"], second["range"]) == (True, 5 * CHUNK, f"bytes={5 * CHUNK}-")


def test_it_does_not_outlive_who_started_it(tmp_path: Path) -> None:
    lines = f"""
        import signal, sys
        sys.path[:0] = {sys.path!r}
        from pathlib import Path
        from support.fake_hub import FakeHub
        with FakeHub(Path({str(tmp_path)!r})) as hub:
            print(hub.url, hub._process.pid, flush=True)
            signal.pause()
    """
    code = "\n".join(line[8:] for line in lines.splitlines())
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        _, pid = parent.stdout.readline().split()
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    wait_for(lambda: not alive(int(pid)), what="the hub ends")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_an_option_that_is_not_understood_stops_it(hub: FakeHub, capfd: pytest.CaptureFixture[str]) -> None:
    hub.stop()
    hub.repo("org/tiny", gatde=True)
    with pytest.raises(AssertionError, match="ended with 1"):
        hub.start()
    assert "org/tiny/.hub.json is not understood" in (said := capfd.readouterr().err)
    assert "gatde" in said


def test_run_by_hand_it_tells_its_port(tmp_path: Path) -> None:
    told = tmp_path / "port"
    (tmp_path / "hub").mkdir()
    command = [*COMMAND, "--root", str(tmp_path / "hub"), "--port", "0", "--port-file", str(told)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as hub:
        wait_for(told.exists, what="the port")
        assert ask(f"http://127.0.0.1:{told.read_text()}/_fake/health")[0] == 200
        hub.send_signal(signal.SIGTERM)


def test_of_many_requests_only_the_new_ones_are_told(hub: FakeHub) -> None:
    def many(_: int) -> None:
        api = HfApi(hub.url, token=False)
        for _ in range(50):
            api.file_exists("org/tiny", "config.json")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(many, range(8)))
    assert len(hub.over()) == 400
    assert ask(f"{hub.url}/_fake/requests?since=399")[1].count(b'"path"') == 1
    assert ask(f"{hub.url}/_fake/requests?since=400")[1] == b"[]"
