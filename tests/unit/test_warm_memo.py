"""What is kept of the engine's processes for the next controller."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_fsm.adapters.process.warm.memo import LARGEST, LIMIT, NAME, Memo
from vllm_fsm.adapters.process.warm.plan import Node
from vllm_fsm.files import own

GIVEN = {"PATH": "/bin", "GONE": "1", "TMPDIR": "/run/t/1", "VLLM_API_KEY": "kSecret"}


def _leader() -> Node:
    leader = Node({}, ())
    core = Node({"VLLM_CORE": "1", "SOCKETS": "{TMPDIR}/x"}, ["GONE"])
    core.children = [Node({"RANK": "0", "ODD": "\udcff"}, ["GONE", "PATH"])]
    leader.children = [core]
    return leader


def _memo(folder: Path, secret: str = "hf_secret") -> Memo:
    return Memo(folder, lambda text: text.replace(secret, "***"))


def _mode(folder: Path) -> int:
    return (folder / NAME).stat().st_mode & 0o777


def _refused(folder: Path) -> str:
    with pytest.raises(ValueError, match=NAME) as caught:
        _memo(folder).recall()
    return str(caught.value)


def test_what_was_kept_is_recalled(tmp_path: Path) -> None:
    assert _memo(tmp_path).recall() is None
    _memo(tmp_path).keep("0.32.0+cpu", _leader())
    found = _memo(tmp_path).recall()
    assert found is not None
    version, leader = found
    assert version == "0.32.0+cpu"
    assert leader.order(GIVEN) == _leader().order(GIVEN)
    assert leader.count() == 3
    assert _mode(tmp_path) == 0o600


def test_what_stands_there_is_not_written_again(tmp_path: Path) -> None:
    memo = _memo(tmp_path)
    memo.keep("1", _leader())
    (tmp_path / NAME).chmod(0o640)  # a new file has another mode
    memo.keep("1", _leader())
    again = _memo(tmp_path)
    again.recall()
    again.keep("1", _leader())
    assert _mode(tmp_path) == 0o640
    memo.keep("2", _leader())
    assert _mode(tmp_path) == 0o600


def test_what_is_forgotten_is_written_again(tmp_path: Path) -> None:
    memo = _memo(tmp_path)
    memo.forget()
    memo.keep("1", _leader())
    memo.forget()
    assert memo.recall() is None
    memo.keep("1", _leader())
    assert memo.recall() is not None


def test_no_secret_is_kept(tmp_path: Path) -> None:
    memo, leader = _memo(tmp_path), _leader()
    memo.keep("1", leader)
    leader.children[0].children[0].values["TOKEN"] = "an hf_secret"
    with pytest.raises(ValueError, match="secret"):
        memo.keep("1", leader)
    assert not (tmp_path / NAME).exists()


def test_that_a_secret_is_missing_is_none(tmp_path: Path) -> None:
    child = Node.seen({"A": "1"}, {"OPENAI_API_KEY": "hf_secret", "PATH": "/bin", "VLLM_API_KEY": "kSecret"})
    leader = Node({}, ())
    leader.children = [child]
    _memo(tmp_path).keep("1", leader)
    found = _memo(tmp_path).recall()
    assert found is not None
    assert found[1].children[0].without == {"OPENAI_API_KEY", "PATH"}


def test_a_full_disk_leaves_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    (tmp_path / NAME).touch()
    monkeypatch.setattr(own, "open_anew", lambda *_: full)
    with pytest.raises(OSError, match="No space left"):
        _memo(tmp_path).keep("1", _leader())
    assert not (tmp_path / NAME).exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / NAME).symlink_to(other)
    with pytest.raises(OSError, match=NAME):
        _memo(tmp_path).recall()
    _memo(tmp_path).keep("1", _leader())
    assert other.read_text() == "mine"
    assert not (tmp_path / NAME).is_symlink()


LEAF = {"values": {}, "without": [], "children": []}


@pytest.mark.parametrize(
    ("leader", "why"),
    [
        (None, "subscriptable"),
        ([], "indices"),
        ({}, "values"),
        ({**LEAF, "values": []}, "another type"),
        ({**LEAF, "without": "PATH"}, "another type"),
        ({**LEAF, "children": {}}, "another type"),
        ({**LEAF, "children": [1]}, "subscriptable"),
        ({**LEAF, "values": {"A": 1}}, "no variable"),
        ({**LEAF, "values": {"A": "\0"}}, "no variable"),
        ({**LEAF, "values": {"A": "\ud800"}}, "no variable"),
        ({**LEAF, "values": {"A=B": "1"}}, "no variable"),
        ({**LEAF, "values": {"": "1"}}, "no variable"),
        ({**LEAF, "values": {"VLLM_API_KEY": "1"}}, "no variable"),
        ({**LEAF, "without": [1]}, "no variable"),
    ],
)
def test_what_is_not_ours_is_refused(tmp_path: Path, leader: object, why: str) -> None:
    (tmp_path / NAME).write_text(json.dumps({"version": "1", "leader": leader}))
    assert why in _refused(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "{}", '{"version": 1, "leader": {}}', "[" * 60_000])
def test_what_is_no_memo_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    _refused(tmp_path)
    (tmp_path / NAME).write_bytes(b"\xff" + text.encode())
    _refused(tmp_path)


def _wide(count: int) -> dict[str, object]:
    return {**LEAF, "children": [LEAF] * (count - 1)}


def _deep(count: int) -> dict[str, object]:
    leader: dict[str, object] = LEAF
    for _ in range(count - 1):
        leader = {**LEAF, "children": [leader]}
    return leader


@pytest.mark.parametrize("shape", [_wide, _deep])
def test_too_many_processes_are_refused(tmp_path: Path, shape: Callable[[int], object]) -> None:
    for count in (LARGEST, LARGEST + 1, 200):
        (tmp_path / NAME).write_text(json.dumps({"version": "1", "leader": shape(count)}))
        if count == LARGEST:
            assert _memo(tmp_path).recall() is not None
        else:
            assert "too many" in _refused(tmp_path)


def test_too_much_is_neither_kept_nor_read(tmp_path: Path) -> None:
    leader = _leader()
    leader.children[0].values["LARGE"] = "x" * LIMIT
    with pytest.raises(ValueError, match="too many"):
        _memo(tmp_path).keep("1", leader)
    leader = Node({}, ())
    leader.children = [Node({}, ()) for _ in range(LARGEST)]
    with pytest.raises(ValueError, match="too many"):
        _memo(tmp_path).keep("1", leader)
    assert not (tmp_path / NAME).exists()
    (tmp_path / NAME).write_text(" " * (LIMIT + 1))
    with pytest.raises(OSError, match=NAME):
        _memo(tmp_path).recall()
