"""The output of the last starts: bounded, whole at both ends, and followed while it grows."""

import contextlib

import pytest

from vllm_fsm import record
from vllm_fsm.record import MISSING, Record


class Enough(Exception):
    """The test has seen all that there is."""


def lines(state, attempt=None):
    return list(record.read(state, record.latest(state, attempt)))


def test_what_was_written_is_read(tmp_path):
    written = Record(tmp_path)
    for text in ("one", "", "trois é", "\udce9"):
        written.write(1, text)
    assert lines(tmp_path) == ["one", "", "trois é", "\\udce9"]


def test_three_starts_are_kept_over_all_lives(tmp_path):
    for life in "ab":
        written = Record(tmp_path)
        for attempt in (1, 2):
            written.write(attempt, f"{life}{attempt}")
        written.close()
    assert sorted({part.serial for part in record.parts(tmp_path)}) == [2, 3, 4]
    assert lines(tmp_path) == ["b2"]
    assert lines(tmp_path, 1) == ["b1"]
    assert lines(tmp_path, 3) == []


def test_the_first_and_the_last_words_are_kept_in_bounded_space(tmp_path):
    written = Record(tmp_path, first=1000, later=500)
    said = [f"line {number:04}" for number in range(1000)]
    for text in said:
        written.write(1, text)
    kept = lines(tmp_path)
    gap = kept.index(MISSING)
    assert kept[:gap] == said[: 1000 // 10]
    assert kept[gap + 1 :] == said[-len(kept) + gap + 1 :]
    assert 500 <= 10 * (len(kept) - gap - 1) <= 1000
    assert sum(file.stat().st_size for file in (tmp_path / record.NAME).iterdir()) <= 2000


def test_nothing_is_missing_while_it_fits(tmp_path):
    written = Record(tmp_path, first=100, later=100)
    said = [f"line {number:04}" for number in range(28)]
    for text in said:
        written.write(1, text)
    assert lines(tmp_path) == said


def test_only_the_owner_may_read(tmp_path):
    Record(tmp_path).write(1, "x")
    assert (tmp_path / record.NAME).stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / record.NAME).iterdir()} == {0o600}


def test_a_failed_write_is_told_and_the_next_one_tried(tmp_path):
    state = tmp_path / "state"
    written = Record(state)
    with pytest.raises(OSError, match="No such file"):
        written.write(1, "lost")
    state.mkdir()
    written.write(1, "kept")
    assert lines(state) == ["kept"]


def test_other_files_are_left_alone(tmp_path):
    folder = tmp_path / record.NAME
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    written = Record(tmp_path)
    for attempt in range(5):
        written.write(attempt, "x")
    assert (folder / "notes.txt").read_text() == "mine"


def followed(state, attempt, *steps):
    """What is seen while each of `steps` happens when there is nothing more to read."""
    seen, left = [], list(steps)

    def wait():
        if not left:
            raise Enough
        left.pop(0)()

    with contextlib.suppress(Enough):
        seen.extend(record.follow(state, attempt, wait))
    return seen


def test_following_goes_on_over_parts_and_starts(tmp_path):
    written = Record(tmp_path, first=60, later=60)
    written.write(1, "begun")
    seen = followed(
        tmp_path,
        None,
        lambda: [written.write(1, f"line {number}") for number in range(12)],
        lambda: written.write(2, "the next start"),
    )
    assert seen == ["begun", *(f"line {number}" for number in range(12)), "the next start"]


def test_following_waits_for_the_first_line_and_keeps_to_the_start_that_was_asked_for(tmp_path):
    written = Record(tmp_path)
    assert followed(tmp_path, 1, lambda: written.write(1, "one"), lambda: written.write(2, "two")) == ["one"]


def test_following_says_where_it_was_too_slow(tmp_path):
    written = Record(tmp_path, first=60, later=60)
    written.write(1, "begun")
    seen = followed(tmp_path, 1, lambda: [written.write(1, f"line {number:05}") for number in range(40)])
    assert MISSING in seen
    assert seen[-1] == "line 00039"
