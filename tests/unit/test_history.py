"""The bounded record of transitions."""

import stat

from vllm_fsm import history
from vllm_fsm.history import History


def test_entries_come_back_in_order(tmp_path):
    record = History(tmp_path)
    for number in range(3):
        record.append({"number": number, "message": "größer"})
    assert list(history.read(tmp_path)) == [{"number": number, "message": "größer"} for number in range(3)]
    assert stat.S_IMODE((tmp_path / history.NAME).stat().st_mode) == 0o600


def test_it_is_bounded_and_keeps_the_newest(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "LIMIT", 1000)
    record = History(tmp_path)
    for number in range(500):
        record.append({"number": number})
    numbers = [entry["number"] for entry in history.read(tmp_path)]
    assert numbers == list(range(numbers[0], 500))
    assert len(numbers) >= 1000 // len('{"number": 499}\n')
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2000


def test_an_entry_longer_than_the_limit_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "LIMIT", 10)
    record = History(tmp_path)
    record.append({"message": "x" * 50})
    record.append({"message": "y" * 50})
    assert [entry["message"][0] for entry in history.read(tmp_path)] == ["x", "y"]


def test_pieces_are_skipped(tmp_path):
    (tmp_path / history.NAME).write_bytes(b'{"number": 1}\n{"numb\n\xff\n[]\n{"number": 2}\n')
    assert [entry["number"] for entry in history.read(tmp_path)] == [1, 2]


def test_nothing_recorded_yet(tmp_path):
    assert list(history.read(tmp_path / "none")) == []
