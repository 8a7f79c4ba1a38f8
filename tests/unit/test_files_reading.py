"""Whatever stands in a file's place comes back as content or as a sentence, at once and within bounds."""

import json
import os
import socket
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_fsm.files.credentials import Credentials, is_usable, new_key, parse_credentials, read_credentials
from vllm_fsm.files.reading import (
    DEEPEST,
    LIMIT,
    Broken,
    Empty,
    Good,
    Missing,
    parse_object,
    read_bytes,
    read_object,
)
from vllm_fsm.files.store import Store, parse_store, read_store
from vllm_fsm.messages import text as sentence

SECRET = "hf_abcdefghijKLMNOP1234567890"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def parse(text: str | bytes) -> Any:
    return parse_store("/data/store.json", text if isinstance(text, bytes) else text.encode())


def said(reading: object) -> str:
    assert isinstance(reading, (Broken, Empty)), reading
    return sentence(reading.message)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON at line 1, column 2"),
        ('{\n "serveArgs": [\n  "a" "b"]}', "not valid JSON at line 3, column 7 (expecting ',' delimiter)"),
        ('{"a": 1} x', "not valid JSON at line 1, column 10"),
        ('{"a": \\q}', "not valid JSON"),
        ("", "is empty"),
        (" \r\n\t", "is empty"),
        ("\ufeff", "is empty"),
        (b"\xff\xfe{\x00}\x00", "byte 1 is not UTF-8"),
        (b'{"a": "\xe9"}', "byte 8 is not UTF-8"),
        (b"\0" * 40, "byte 1 is a NUL"),
        (b'{"serveArgs":\0}', "byte 14 is a NUL"),
        ("[]", "the top level must be an object, not a list"),
        ("null", "the top level must be an object, not null"),
        ('"x"', "the top level must be an object, not a string"),
        ("7", "the top level must be an object, not a number"),
        ("true", "the top level must be an object, not true or false"),
        ('{"serveArgs": [], "serveArgs": ["m"]}', '"serveArgs" stands twice'),
        ('{"modelSelection": {"x": {"a": 1, "a": 1}}}', '"a" stands twice'),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a": 1e999}', "a number that is too large"),
        ('{"a": ' + "9" * 5000 + "}", "a number that is too large"),
        ('{"serveArgs": "m"}', "serveArgs must be a list, not a string"),
        ('{"serveArgs": ["m", 5]}', "serveArgs[1] must be a string, not a number"),
        ('{"serveArgs": {"0": "m"}}', "serveArgs must be a list, not an object"),
        ('{"serveEnv": {"A": "1"}}', "serveEnv must be a list, not an object"),
        ('{"serveEnv": ["A=1"]}', "serveEnv[0] must be an object, not a string"),
        ('{"serveEnv": [{"name": "A", "value": "1"}, {"name": "B"}]}', "serveEnv[1].value is missing"),
        ('{"serveEnv": [{"name": "A", "value": 1}]}', "serveEnv[0].value must be a string, not a number"),
        ('{"serveEnv": [{"name": "A", "value": null}]}', "serveEnv[0].value must be a string, not null"),
        ('{"modelSelection": "custom"}', "modelSelection must be an object, not a string"),
        ('{"modelSelection": {"customEnv": [{"value": ""}]}}', "modelSelection.customEnv[0].name is missing"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str | bytes, words: str) -> None:
    assert words in said(parse(text))


def test_nesting_is_bounded_however_deep() -> None:
    deepest = '{"x":' + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1) + "}"
    assert isinstance(parse(deepest), Good)
    deeper = '{"x":' + "[" * DEEPEST + "]" * DEEPEST + "}"
    assert f"more than {DEEPEST} levels" in said(parse(deeper))
    for text in ('{"x":' + "[" * 100_000, '{"x":' * 100_000, "[" * (LIMIT - 1)):
        assert f"more than {DEEPEST} levels" in said(parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"serveArgs": null}',
        '{"serveArgs": []}',
        '\ufeff{"serveEnv": null, "modelSelection": null}',
        '{"x": [1]}',
    ],
)
def test_every_field_is_optional(text: str) -> None:
    reading = parse(text)
    assert isinstance(reading, Good)
    assert not reading.value.serve_args
    assert reading.value.environment() == ()


def test_a_whole_store() -> None:
    reading = parse(
        json.dumps(
            {
                "serveArgs": ["org/name", "--x", ""],
                "serveEnv": [{"name": "B", "value": ""}, {"name": "A", "value": "ü", "note": 1}],
                "modelSelection": {"selection": "custom", "customArgs": "org/name", "customEnv": []},
                "serve_args": ["not this one"],
            }
        )
    )
    assert isinstance(reading, Good)
    store = reading.value
    assert store.serve_args == ["org/name", "--x", ""]
    assert store.environment() == (("B", ""), ("A", "ü"))
    assert store.model_selection is not None
    assert (store.model_selection.selection, store.model_selection.custom_args) == ("custom", "org/name")
    assert "org" not in repr(store)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"serveArgs": ["{SECRET}", 1]}}',
        f'{{"serveArgs": "{SECRET}"}}',
        f'{{"serveEnv": [{{"name": "{SECRET}"}}]}}',
        f'{{"serveEnv": [{{"value": "{SECRET}"}}]}}',
        f'{{"{SECRET}": 1, "{SECRET}": 2}}',
        f'{{"a": {SECRET}}}',
        f'{{"a": "{SECRET}',
        f"{SECRET}",
        f'"{SECRET}"',
        f'{{"{SECRET}": {{"{SECRET}": [}}',
        f'{{"apiKey": "{SECRET} {SECRET}"}}',
        f'{{"apiKey": ["{SECRET}"]}}',
        f'{{"apiKey": "{SECRET}é"}}',
    ],
)
def test_no_message_repeats_what_may_be_secret(text: str) -> None:
    for reading in (parse(text), parse_credentials("/public/credentials.json", text.encode())):
        shown = repr(reading)
        if isinstance(reading, (Broken, Empty)):
            shown += said(reading)
        assert SECRET not in shown


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_at_all_is_judged(raw: bytes) -> None:
    for reading in (parse(raw), parse_credentials("/c", raw), parse_object("/x", raw)):
        assert isinstance(reading, (Good, Broken, Empty))
        if not isinstance(reading, Good):
            assert said(reading)


def test_no_beginning_of_a_file_passes_for_the_file() -> None:
    whole = json.dumps({"serveArgs": ["m", "--x"], "serveEnv": [{"name": "A", "value": "é}"}]}, ensure_ascii=False)
    raw = whole.encode()
    assert [n for n in range(len(raw) + 1) if isinstance(parse(raw[:n]), Good)] == [len(raw)]


def test_every_kind_of_thing_in_the_files_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.json"
    assert isinstance(read_object(path), Missing)
    assert isinstance(read_object(tmp_path / "no" / "store.json"), Missing)
    reading = read_store(path)
    assert isinstance(reading, Good)
    assert reading.value.serve_args is None

    path.mkdir()
    assert "a directory, not a file" in said(read_object(path))
    path.rmdir()

    os.mkfifo(path)
    found: list[object] = []
    reader = threading.Thread(target=lambda: found.append(read_object(path)), daemon=True)
    reader.start()
    reader.join(5)
    assert found, "a fifo blocks the reader"
    assert "a named pipe" in said(found[0])
    path.unlink()

    path.symlink_to("/dev/zero")
    assert "a device" in said(read_object(path))
    path.unlink()

    path.symlink_to(tmp_path / "nowhere")
    assert "leads nowhere" in said(read_object(path))
    path.unlink()

    path.symlink_to(path)
    assert "symbolic links" in said(read_object(path))
    path.unlink()

    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the name of a socket may have 107 bytes only
        server.bind("store.json")
        assert "a socket" in said(read_object(path))
    path.unlink()

    (tmp_path / "other").write_text('{"serveArgs": ["m"]}')
    path.symlink_to("other")
    reading = read_store(path)
    assert isinstance(reading, Good)
    assert reading.value.serve_args == ["m"]
    assert "Not a directory" in said(read_object(path / "below"))


def test_only_what_a_person_can_repair_may_be_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    path.mkdir()
    reading = read_credentials(path)
    assert isinstance(reading, Broken)
    assert not reading.contents
    path.rmdir()
    path.write_text("x")
    reading = read_credentials(path)
    assert isinstance(reading, Broken)
    assert reading.contents


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    with path.open("wb") as file:
        file.truncate(100 * 1024 * 1024)
    tracemalloc.start()
    try:
        reading = read_bytes(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert f"larger than {LIMIT} bytes" in said(reading)
    assert peak < 100_000


def test_a_file_that_hides_its_size_is_read_up_to_the_limit(tmp_path: Path) -> None:
    assert os.stat("/proc/self/status").st_size == 0
    assert "larger than 100 bytes" in said(read_bytes("/proc/self/status", limit=100))
    path = tmp_path / "f"
    path.write_bytes(b"x" * 100)
    assert read_bytes(path, limit=100) == Good(b"x" * 100)
    assert "larger than 99 bytes" in said(read_bytes(path, limit=99))


def test_failures_of_our_own_are_no_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "credentials.json"
    path.write_text("{}")

    def no_descriptor(*_: object, **__: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", no_descriptor)
    reading = read_credentials(path)
    assert isinstance(reading, Broken)
    assert "Too many open files" in said(reading)
    assert not reading.contents


@pytest.mark.parametrize("key", ["a", "!", "~" * 512, "sk-Ab_/+=.", '"\\'])
def test_usable_keys(key: str) -> None:
    assert is_usable(key)
    reading = parse_credentials("/c", json.dumps({"apiKey": key, "note": 1}).encode())
    assert isinstance(reading, Good)
    credentials, content = reading.value
    assert credentials.key() is not None
    assert credentials.key().reveal() == key  # type: ignore[union-attr]
    assert content == {"apiKey": key, "note": 1}


@pytest.mark.parametrize("key", ["a b", " a", "a\n", "é", "a\x7f", "\x00", "~" * 513, " ", "\ud800"])
def test_unusable_keys(key: str) -> None:
    assert not is_usable(key)
    reading = parse_credentials("/c", json.dumps({"apiKey": key}).encode())
    assert isinstance(reading, Broken)


@pytest.mark.parametrize("text", ["{}", '{"apiKey": null}', '{"apiKey": ""}', '{"APIKEY": "x"}', '{"api_key": "x"}'])
def test_credentials_without_a_key(text: str) -> None:
    reading = parse_credentials("/c", text.encode())
    assert isinstance(reading, Good)
    assert reading.value[0].key() is None


def test_generated_keys() -> None:
    keys = {new_key().reveal() for _ in range(500)}
    assert len(keys) == 500
    assert {len(key) for key in keys} == {22}
    assert all(key.isascii() and key.isalnum() for key in keys)
    assert len(set("".join(keys))) == 62


def test_a_key_is_shown_by_nothing() -> None:
    credentials = Credentials.model_validate({"apiKey": SECRET, "extra": SECRET})
    for shown in (repr(credentials), str(credentials), repr(credentials.key()), repr(Store())):
        assert SECRET not in shown
