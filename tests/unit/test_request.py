"""Requests: written by a command, taken away once, and nothing in their place can stop the controller."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vllm_fsm.files.writing import Refused
from vllm_fsm.request import SETTLE, Kind, Request, Requests, write_request

NOON = datetime(2026, 1, 31, 12, 0, 5, 250000, tzinfo=UTC)


class World:
    def __init__(self, path: Path) -> None:
        self.path = path / "request.json"
        self.now = 50.0
        self.lines: list[tuple[str, dict[str, object]]] = []
        self.requests = Requests(
            path, clock=lambda: self.now, log=lambda event, /, **fields: self.lines.append((event, fields))
        )

    def take(self, after: float = 0.0) -> Request | None:
        self.now += after
        return self.requests.take()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_request_is_taken_once(world: World, tmp_path: Path) -> None:
    assert world.take() is None
    write_request(tmp_path, Kind.RETRY, NOON)
    assert json.loads(world.path.read_text()) == {"schema": 1, "request": "retry", "at": "2026-01-31T12:00:05.250Z"}
    assert world.take() == Request(Kind.RETRY, "2026-01-31T12:00:05.250Z")
    assert world.take() is None
    assert list(tmp_path.iterdir()) == []
    assert world.lines == []
    assert world.requests.again is None


@pytest.mark.parametrize(
    "text",
    [
        '{"schema": 1, "request": "dance", "at": "2026-01-31T12:00:05Z"}',
        '{"schema": 2, "request": "retry", "at": "2026-01-31T12:00:05Z"}',
        '{"schema": 1, "request": "retry"}',
        '{"schema": 1, "request": ["retry"], "at": ""}',
        "{}",
    ],
)
def test_what_is_not_understood_is_removed_and_logged(world: World, text: str) -> None:
    world.path.write_text(text)
    assert world.take() is None
    assert not world.path.exists()
    assert [event for event, _ in world.lines] == ["request-unknown"]


@pytest.mark.parametrize("text", ["", "{", "[]", "x" * 70_000])
def test_a_broken_request_gets_its_moment(world: World, text: str) -> None:
    world.path.write_text(text)
    assert world.take() is None
    assert world.requests.again == world.now + SETTLE
    assert world.take(SETTLE - 0.01) is None
    assert world.path.exists()
    assert world.take(0.01) is None
    assert not world.path.exists()
    assert [event for event, _ in world.lines] == ["request-broken"]
    assert world.requests.again is None


def test_a_request_written_by_hand_in_two_steps(world: World) -> None:
    world.path.write_text("")
    assert world.take() is None
    world.path.write_text('{"schema": 1, "request": "retry", "at": "now"}')
    assert world.take(0.1) == Request(Kind.RETRY, "now")
    assert world.lines == []


def test_one_that_comes_while_another_is_taken_is_not_lost(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_request(tmp_path, Kind.RETRY, NOON)
    unlink = os.unlink

    def late(*arguments: str, **keywords: int) -> None:
        monkeypatch.setattr(os, "unlink", unlink)
        world.path.write_text('{"schema": 1, "request": "retry", "at": "later"}')
        unlink(*arguments, **keywords)

    monkeypatch.setattr(os, "unlink", late)
    assert world.take() is not None
    assert world.take() == Request(Kind.RETRY, "later")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_is_removed(world: World, make: Callable[[Path], None]) -> None:
    make(world.path)
    assert world.take() is None
    assert world.take(SETTLE) is None
    assert not os.path.lexists(world.path)
    assert [event for event, _ in world.lines] == ["request-broken"]


def test_a_directory_is_named_once_and_left(world: World, tmp_path: Path) -> None:
    world.path.mkdir()
    for _ in range(4):
        assert world.take(SETTLE) is None
    assert world.path.is_dir()
    assert [event for event, _ in world.lines] == ["request-stuck"]
    world.path.rmdir()
    write_request(tmp_path, Kind.RETRY, NOON)
    assert world.take() is not None


def test_asking_where_nobody_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="its directory does not exist"):
        write_request(tmp_path / "no", Kind.RETRY)
