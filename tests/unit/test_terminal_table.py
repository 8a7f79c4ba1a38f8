"""Text for terminals: folded where it must be, coloured where somebody sees it."""

import io

import pytest

from vllm_fsm.cli import table

HEADER = ("NAME", "SIZE", "WHY")
LINES = [("one", "1 GiB", "because of this and that"), ("another", "20 GiB", "")]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_wide_terminal_shows_columns():
    assert table.table(HEADER, LINES, 80) == [
        "NAME     SIZE    WHY",
        "one      1 GiB   because of this and that",
        "another  20 GiB",
    ]


def test_the_last_column_is_folded():
    assert table.table(HEADER, [("one", "1 GiB", "because of this and of that and more")], 40)[1:] == [
        "one   1 GiB  because of this and of that",
        "             and more",
    ]


def test_a_narrow_terminal_shows_blocks():
    lines = [("one", "1 GiB", "because of this and of that and of many more"), ("another", "20 GiB", "")]
    assert table.table(HEADER, lines, 32) == [
        "NAME  one",
        "SIZE  1 GiB",
        "WHY   because of this and of",
        "      that and of many more",
        "",
        "NAME  another",
        "SIZE  20 GiB",
    ]


def test_rows_are_aligned_and_folded():
    assert table.rows([("a", "text that is long"), ("", "more"), ("longer", "x")], 20) == [
        "a       text that is",
        "        long",
        "        more",
        "longer  x",
    ]
    assert table.rows([("a", "x")], 20, 5) == ["a    x"]


def test_texts_stand_beside_their_names_or_below():
    named = [("a", "text that is long enough to be folded"), ("longer", "x")]
    assert table.entries(named, 32) == [
        "a       text that is long enough",
        "        to be folded",
        "longer  x",
    ]
    assert table.entries([*named, ("b", "a-word-of-many-letters-as-in-models")], 40) == [
        "a",
        "  text that is long enough to be folded",
        "longer",
        "  x",
        "b",
        "  a-word-of-many-letters-as-in-models",
    ]
    assert table.entries(named, 31)[0] == "a"


def test_what_goes_wrong_is_told_behind_our_name(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert table.complaint("Something is wrong \x1b[31mhere; see to it.") == (
        "vllm-fsm: Something is wrong here; see\n          to it."
    )


def test_a_long_word_stays_whole():
    assert table.fold("GPU-00000002-1111-2222", 10, "x ") == ["x GPU-00000002-1111-2222"]


@pytest.mark.parametrize(
    ("variables", "stream", "colours"),
    [
        ({}, Terminal(), True),
        ({}, io.StringIO(), False),
        ({"NO_COLOR": "1"}, Terminal(), False),
        ({"NO_COLOR": ""}, Terminal(), True),
        ({"TERM": "dumb"}, Terminal(), False),
    ],
)
def test_colours_are_for_terminals(monkeypatch, variables, stream, colours):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert table.colourful(stream) is colours


def test_a_colour_is_put_around():
    assert table.colour("x", table.GREEN, on=True) == "\x1b[32mx\x1b[0m"
    assert table.colour("x", table.GREEN, on=False) == "x"


@pytest.mark.parametrize(("said", "used"), [("20", 40), ("66", 66)])
def test_the_terminal_says_how_wide_it_is(monkeypatch, said, used):
    monkeypatch.setenv("COLUMNS", said)
    assert table.columns() == used
