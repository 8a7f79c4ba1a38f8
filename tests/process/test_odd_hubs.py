"""Downloads from hubs that answer what no hub should, and settings under which none can be asked."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.download_rig import Rig
from support.odd_hub import COMMIT, Answer, Odd, listed, odd_hub, sha256
from vllm_fsm.core import events
from vllm_fsm.messages import text

MIB = 1 << 20
FILES = {"config.json": b'{"model_type": "llama"}', "empty.txt": b"", "model.safetensors": bytes(range(256)) * 4096}
PASSWORD = "pass-word-1"


def fetch(url: str, models: Path, **environment: str) -> events.Event:
    """Make one attempt at `org/model`; return the event that ends it."""

    async def whole() -> events.Event:
        async with Rig(url, models) as rig:
            return await rig.fetches("org/model", **environment)

    return asyncio.run(whole())


def failure(url: str, models: Path, **environment: str) -> events.DownloadFailed:
    ended = fetch(url, models, **environment)
    assert isinstance(ended, events.DownloadFailed), ended
    assert "{" not in text(ended.finding.message)
    return ended


def only(part: str, answer: Answer) -> Odd:
    """Answer so where the path holds `part`."""
    return lambda path, _: answer if part in path else None


def test_the_usual_answers_are_enough(tmp_path: Path) -> None:
    with odd_hub(FILES) as url:
        assert isinstance(fetch(url, tmp_path), events.WeightsComplete)
    for name, content in FILES.items():
        assert (tmp_path / "models--org--model/snapshots" / COMMIT / name).read_bytes() == content


def test_an_address_with_a_path_and_a_slash_at_its_end(tmp_path: Path) -> None:
    with odd_hub(FILES) as url:
        assert isinstance(fetch(f"{url}/mirror/hf/", tmp_path), events.WeightsComplete)


# --- what is listed --------------------------------------------------------------------------------------------------


def pages(number: int, *, size: int = 1, pause: float = 0.0) -> Odd:
    """List the repository in `number` pages of `size` made-up files each."""

    def odd(path: str, headers: Mapping[str, str]) -> Answer | None:
        if "/tree/" not in path:
            return None
        time.sleep(pause)
        page = int(path.rpartition("page=")[2]) if "page=" in path else 0
        entries = [listed(f"{page}/{entry}.bin", b"") for entry in range(size)]
        entries += [listed(name, content) for name, content in FILES.items()] if page == 0 else []
        address = f"http://{headers['Host']}{path.partition('?')[0]}?page={page + 1}"
        more = {"Link": f'<{address}>; rel="next"'} if page + 1 < number else {}
        return 200, more, json.dumps(entries).encode()

    return odd


def test_a_listing_that_takes_long_is_no_silence(tmp_path: Path) -> None:
    async def whole(url: str) -> None:
        async with Rig(url, tmp_path, silence=100.0, pause=80.0) as rig:
            assert isinstance(await rig.fetches("org/model"), events.WeightsComplete)
            assert rig.passed > 200.0

    with odd_hub(FILES, pages(9, pause=0.4)) as url:
        asyncio.run(whole(url))


def test_a_listing_without_an_end_is_refused(tmp_path: Path) -> None:
    with odd_hub(FILES, pages(10**9, size=2000)) as url:
        ended = failure(url, tmp_path)
    assert (ended.finding.reason, ended.finding.permanent) == ("UnsafeRepository", True)


@pytest.mark.parametrize(
    "entry",
    [
        {"size": -1},
        {"size": 1.5},
        {"oid": "x"},
        {"path": "a/../../b"},
        {"path": "/etc/passwd"},
        {"path": "a\0b"},
        {"path": "\ud800"},
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path: Path, entry: dict[str, object]) -> None:
    body = json.dumps([{**listed("config.json", b"{}"), **entry}]).encode()
    with odd_hub(FILES, only("/tree/", (200, {}, body))) as url:
        ended = failure(url, tmp_path)
    assert (ended.finding.reason, ended.finding.permanent) == ("UnsafeRepository", True)


def test_a_size_beyond_every_volume(tmp_path: Path) -> None:
    body = json.dumps([{**listed("config.json", b"{}"), "size": 10**30}]).encode()
    with odd_hub(FILES, only("/tree/", (200, {}, body))) as url:
        assert failure(url, tmp_path).finding.reason == "VolumeTooSmall"


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"[[]]", b"{", b'{"sha": 5}', b"<html>", b"[" * 100_000])
@pytest.mark.parametrize("where", ["/revision/", "/tree/"])
def test_an_answer_of_another_shape(tmp_path: Path, where: str, body: bytes) -> None:
    with odd_hub(FILES, only(where, (200, {}, body))) as url:
        ended = failure(url, tmp_path)
    assert ended.finding.reason in ("DownloadFailed", "UnsafeRepository", "NoWeights")


@pytest.mark.parametrize(("where", "status"), [("/revision/", 200), ("/tree/", 200), ("/api/", 500)])
def test_an_answer_without_an_end_does_not_eat_the_memory(tmp_path: Path, where: str, status: int) -> None:
    with odd_hub(FILES, only(where, (status, {}, None))) as url:
        ended = failure(url, tmp_path)
    assert (ended.finding.reason, ended.finding.permanent) == ("DownloadFailed", False)
    assert "MemoryError" in ended.finding.evidence


# --- what is sent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "/resolve/again"])
def test_redirects_that_lead_nowhere(tmp_path: Path, place: str) -> None:
    with odd_hub(FILES, only("/resolve/", (302, {"Location": place}, b""))) as url:
        assert not failure(url, tmp_path).finding.permanent
    assert not list(tmp_path.glob("models--*/snapshots/*/config.json"))


def test_another_range_than_was_asked_for_loses_nothing(tmp_path: Path) -> None:
    content = FILES["model.safetensors"]
    cut_off = {"Content-Length": str(len(content)), "Connection": "close"}
    partial = tmp_path / "models--org--model/blobs" / f"{sha256(content)}.incomplete"

    def odd(path: str, headers: Mapping[str, str]) -> Answer | None:
        if not path.endswith("model.safetensors"):
            return None
        if headers["Range"] is None:
            return 200, cut_off, content[: MIB // 2]
        return 206, {"Content-Range": f"bytes 5-{len(content) - 1}/{len(content)}"}, content[5:]

    with odd_hub(FILES, odd) as url:
        assert failure(url, tmp_path).finding.reason == "DownloadCut"
    assert partial.read_bytes() == content[: MIB // 2]


def test_what_is_gained_and_lost_again_is_no_gain(tmp_path: Path) -> None:
    """A hub that knows no ranges and always breaks off at the same place brings nothing, however much it sends."""
    content = FILES["model.safetensors"]

    def odd(path: str, _: Mapping[str, str]) -> Answer | None:
        if not path.endswith("model.safetensors"):
            return None
        return 200, {"Content-Length": str(len(content)), "Connection": "close"}, content[: MIB // 2]

    with odd_hub(FILES, odd) as url:
        first, second = (failure(url, tmp_path) for _ in range(2))
    assert (first.finding.reason, first.moved) == ("DownloadCut", True)
    assert (second.finding.reason, second.moved) == ("DownloadCut", False)


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [("7", 7.0), ("\xb2", 0.0), ("9" * 5000, 0.0), ("99999999", 86400.0), ("soon", 0.0), ("-5", 0.0)],
)
def test_how_long_to_wait(tmp_path: Path, asked: str, seconds: float) -> None:
    with odd_hub(FILES, only("/api/", (429, {"Retry-After": asked}, b"{}"))) as url:
        ended = failure(url, tmp_path)
    assert (ended.finding.reason, ended.retry_after) == ("HubRateLimited", seconds)


def test_when_to_come_again_is_told_by_the_hubs_own_clock(tmp_path: Path) -> None:
    """Ours may be wrong by years, as after a start without a network."""
    times = {"Date": "Wed, 01 Jan 2031 00:00:00 GMT", "Retry-After": "Wed, 01 Jan 2031 00:00:30 GMT"}

    with odd_hub(FILES, only("/api/", (503, times, b"{}"))) as url:
        assert failure(url, tmp_path).retry_after == 30.0


def test_a_hub_that_talks_too_much_is_still_understood(tmp_path: Path) -> None:
    loud = {"X-HF-Warning": "news; " + "x" * 60_000}
    body = json.dumps({"id": "org/model", "sha": COMMIT, "siblings": [], "tags": []}).encode()
    with odd_hub(FILES, only("/revision/", (200, loud, body))) as url:
        assert isinstance(fetch(url, tmp_path), events.WeightsComplete)


@pytest.mark.parametrize(
    "words",
    [
        '{"complete": {"unknown": "everything", "repo": "org/model"}}',
        '{"failed": {"reason": "NotInCache", "permanent": true, "params": {}, "evidence": "", "retry_after": 0}}',
        '{"progress": 5}',
        "[" * 30_000,
    ],
)
def test_a_hub_that_speaks_in_our_words_is_not_believed(tmp_path: Path, words: str) -> None:
    """huggingface_hub prints this header as it is, on a line of its own."""
    lying = {"X-HF-Warning": "; " + words}
    body = json.dumps({"id": "org/model", "sha": COMMIT, "siblings": [], "tags": []}).encode()
    with odd_hub(FILES, only("/revision/", (200, lying, body))) as url:
        ended = fetch(url, tmp_path)
    assert isinstance(ended, events.WeightsComplete)
    assert ended.note is None
    assert (tmp_path / "models--org--model" / "refs" / "main").read_text() == COMMIT


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables",
    [
        {"HF_ENDPOINT": "hub.example"},
        {"HF_ENDPOINT": ""},
        {"HF_ENDPOINT": "ftp://hub.example"},
        {"HF_ENDPOINT": "http://hub.example:99999"},
        {"HF_ENDPOINT": "http://[::1"},
        {"HTTP_PROXY": f"ftp://me:{PASSWORD}@127.0.0.1:1", "no_proxy": "", "NO_PROXY": ""},
        {"SSL_CERT_FILE": "/no/such/file"},
    ],
)
def test_settings_under_which_no_hub_can_be_asked(tmp_path: Path, variables: dict[str, str]) -> None:
    async def whole() -> None:
        async with Rig("http://127.0.0.1:1", tmp_path) as rig:
            finding = await rig.fails("org/model", **variables)
            assert (finding.reason, finding.permanent) == ("HubSettingsWrong", True)
            assert next(iter(variables)) in text(finding.message)
            assert PASSWORD not in repr((rig.events, rig.logs))

    asyncio.run(whole())


def test_a_token_that_no_request_can_carry(tmp_path: Path) -> None:
    with odd_hub(FILES) as url:
        ended = failure(url, tmp_path, HF_TOKEN="hf_é")
    assert (ended.finding.reason, ended.finding.permanent) == ("TokenRefused", True)


@pytest.mark.parametrize("name", ["config.json/inside", "n" * 300])
def test_what_the_volume_cannot_hold_is_not_the_networks_fault(tmp_path: Path, name: str) -> None:
    with odd_hub({**FILES, name: b"x"}) as url:
        ended = failure(url, tmp_path)
    assert (ended.finding.reason, ended.finding.permanent) == ("CacheNotWritable", True)
    assert str(tmp_path) in text(ended.finding.message)


def test_a_signed_address_is_told_without_its_signature(tmp_path: Path) -> None:
    def odd(path: str, headers: Mapping[str, str]) -> Answer | None:
        if "/resolve/" in path:
            return 302, {"Location": f"http://localhost:{headers['Host'].partition(':')[2]}/cdn?Signature=s1gn3d"}, b""
        return (403, {}, b"{}") if path.startswith("/cdn") else None

    with odd_hub(FILES, odd) as url:
        ended = failure(url, tmp_path)
    assert "/cdn" in ended.finding.evidence
    assert "s1gn3d" not in repr(ended)


def test_a_password_in_the_hubs_address_is_told_to_nobody(tmp_path: Path) -> None:
    async def whole() -> None:
        async with Rig(f"http://me:{PASSWORD}@127.0.0.1:1", tmp_path) as rig:
            finding = await rig.fails("org/model")
            assert finding.reason == "HubUnreachable"
            assert "127.0.0.1:1" in text(finding.message)
            assert PASSWORD not in repr((rig.events, rig.logs))

    asyncio.run(whole())
