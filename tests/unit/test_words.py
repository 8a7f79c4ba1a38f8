"""An argument string is split as a shell splits it, and every character knows where it stood."""

import shlex

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from vllm_fsm.messages import text as sentence
from vllm_fsm.words import LIMIT, Unsplittable, Word, look_through, split

TEXTS = st.text(st.sampled_from("ab-=.{}:,\"'\\ \t\nä–😀#$`*"), max_size=40) | st.text(max_size=20)


def texts(line: str) -> list[str]:
    return [word.text for word in split(line)]


@given(TEXTS)
@example('--x \'{"a": 1}\' "b\\"c\\\\d\\e" f\\ g \'\' #h')
def test_the_words_are_those_of_shlex(line: str) -> None:
    assume("\\\n" not in line)
    try:
        words = texts(line)
    except Unsplittable as refusal:
        if refusal.message.id in ("QuoteNotClosed", "NothingEscaped"):
            with pytest.raises(ValueError, match=r"No closing quotation|No escaped character"):
                shlex.split(line)
        return
    assert words == shlex.split(line)


@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126)), max_size=6))
def test_what_shlex_joins_comes_back(words: list[str]) -> None:
    assert texts(shlex.join(words)) == words


@given(TEXTS)
def test_every_character_stands_where_it_is_said(line: str) -> None:
    refused_at = 0
    words: list[Word] = []
    try:
        words = split(line)
    except Unsplittable as refusal:
        refused_at = refusal.position
    assert 0 <= refused_at <= max(0, len(line) - 1)
    end = 0
    for word in words:
        assert end <= word.start < word.end <= len(line)
        end = word.end
        assert "".join(line[word.place(offset)] for offset in range(len(word.text))) == word.text
        assert word.place(len(word.text)) == word.end
        assert [*word.places] == sorted(set(word.places))


def test_a_backslash_joins_lines() -> None:
    assert texts("org/name \\\n  --dtype \\\nauto \"a\\\nb\" 'c\\\nd' e\\\nf") == [
        *("org/name", "--dtype", "auto", "ab", "c\\\nd", "ef"),
    ]


def test_places_of_quoted_words() -> None:
    assert split(" 'a'\"b\"\\c") == [Word("abc", 1, 9, (2, 5, 8))]
    assert split("''") == [Word("", 0, 2, ())]


@pytest.mark.parametrize(
    ("line", "position", "says"),
    [
        ("m --x 'a b", 6, "The quote ' at character 7 is not closed"),
        ("it's", 2, "The quote ' at character 3"),
        ('m "a\\', 2, 'The quote " at character 3'),
        ("m a\\", 3, "The \\ at character 4 has nothing behind it; remove it, or write \\\\."),
        ("m\0", 1, "The character U+0000 at character 2 cannot be seen"),
        ("m \x1b[31m", 2, "U+001B"),
        ("m --port\u202e", 8, "U+202E"),
        ("m 'a\u200fb'", 4, "U+200F"),
        ("m\u00a0--dtype auto", 1, "U+00A0"),
        ("m \u200b--dtype", 2, "U+200B"),
        ("m \ud800", 2, "U+D800"),
    ],
)
def test_refusals_name_the_place(line: str, position: int, says: str) -> None:
    with pytest.raises(Unsplittable) as refused:
        split(line)
    assert refused.value.position == position
    assert says in sentence(refused.value.message)


def test_blanks_of_a_template_and_joined_emoji_stay() -> None:
    assert texts("'Bonjour\u00a0!' 👩\u200d🚀") == ["Bonjour\u00a0!", "👩\u200d🚀"]


def test_too_long_a_text_is_refused_at_once() -> None:
    with pytest.raises(Unsplittable) as refused:
        split("a " * 50_000)
    assert sentence(refused.value.message) == "The arguments are 100000 characters long; at most 65536 are taken."
    assert len(split("x" * LIMIT)) == 1


def test_a_value_is_looked_through_as_if_it_were_quoted() -> None:
    look_through("a b\nc 'd \u00a0\\")
    with pytest.raises(Unsplittable) as refused:
        look_through("hf_\u200bx")
    assert refused.value.position == 3
    with pytest.raises(Unsplittable, match="ValueTooLong"):
        look_through("x" * (LIMIT + 1))
