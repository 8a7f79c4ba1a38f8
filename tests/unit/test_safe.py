"""What commands print of files in which others may have written: nothing that a terminal obeys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_fsm import history, lock, record
from vllm_fsm.adapters.health_file import NAME
from vllm_fsm.cli import main, safe
from vllm_fsm.cli.reading import boot_id
from vllm_fsm.redaction import plain

ORDERS = "\x1b]0;title\x07\x9b2J\x1bc\u202e\u2028\x85\x7f\r"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
)


def harmless(text: str) -> bool:
    return plain(text) == text


@given(st.text())
def test_a_line_is_one_line_that_can_be_printed(text: str) -> None:
    shown = safe.line(text)
    assert harmless(shown)
    assert "\n" not in shown


@given(JSON, st.sampled_from([None, 2]))
def test_json_says_the_same_and_can_be_printed(value: object, indent: int | None) -> None:
    shown = safe.as_json(value, indent)
    assert harmless(shown)
    assert json.loads(shown) == value


def test_words_of_any_language_stay_readable() -> None:
    assert safe.as_json({"name": "größer 模型"}) == '{"name": "größer 模型"}'


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_health_and_status(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]) -> None:
    arguments = {"model": ORDERS, "arguments": [f"org/{ORDERS}"], "environment": [ORDERS]}
    document = {
        "state": "Loading",
        "result": "loading",
        "message": f"It {ORDERS} loads",
        "reason": None,
        "since": "2026-01-02T12:00:00.000Z",
        "attempt": 1,
        "engine": "Alive",
        "pid": 1,
        "target": arguments,
        "active": arguments,
        "download": None,
        "nextTry": None,
        "bootId": boot_id(),
    }
    held = lock.DirectoryLock(tmp_path)
    (tmp_path / NAME).write_text(json.dumps(document))
    for command in ("health", "status"):
        main([command, "--run-dir", str(tmp_path), *flags])
        assert harmless(capsys.readouterr().out)
    held.release()


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_logs_and_history(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]) -> None:
    record.Record(tmp_path).write(1, f"a line {ORDERS}")
    history.History(tmp_path).append({"time": ORDERS, "from": 5, "to": [ORDERS], "reason": ORDERS})
    for command in ("logs", "history"):
        assert main([command, "--state-dir", str(tmp_path), *flags]) == 0
        assert harmless(capsys.readouterr().out)
