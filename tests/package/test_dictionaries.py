"""Five languages, each with every sentence: the controller's own, and the package's."""

import ast
import json
import re
from string import Formatter

import pytest

from support import s9pk
from vllm_fsm.messages import ENGLISH

I18N = s9pk.SOURCE / "startos" / "i18n"
FOREIGN = ("es_ES", "de_DE", "pl_PL", "fr_FR")
LITERAL = r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*\""""
ACTIONS = (
    dict.fromkeys(("NoModel", "BadArguments", "ArgumentsRefused", "FixOffered"), "Set Model")
    | dict.fromkeys(("DiskFull", "VolumeFull", "VolumeFullFor"), "Delete Model Cache")
    | {"KeyRotatable": "Rotate API Key"}
)
"""Sentences that name an action."""


def controller(locale):
    """The sentences by id; an id that stands twice counts."""
    pairs = json.loads((I18N / "controller" / f"{locale}.json").read_text(), object_pairs_hook=list)
    assert len({id_ for id_, _ in pairs}) == len(pairs)
    return dict(pairs)


def fields(sentence):
    return sorted(name for _, name, _, _ in Formatter().parse(sentence) if name is not None)


def entries(text, key):
    """The pairs of a dictionary in TypeScript."""
    found = re.findall(rf"^ *({key}):\s+({LITERAL}|\d+),$", text, re.MULTILINE)
    return [(ast.literal_eval(name) if name[0] in "'\"" else name, value) for name, value in found]


@pytest.fixture(scope="module")
def own():
    """The package's sentences: by language, by number."""
    default = (I18N / "dictionaries" / "default.ts").read_text()
    body = default[default.index("{") : default.index("} as const")]
    numbers = entries(body, rf"{LITERAL}|\w+")
    assert len(numbers) == body.count("\n") - 1 - len(re.findall(r":\n", body))
    table = {"en_US": {int(number): sentence for sentence, number in numbers}}
    assert len(table["en_US"]) == len(numbers), "a number stands twice"
    text = (I18N / "dictionaries" / "translations.ts").read_text()
    for locale in FOREIGN:
        start = text.index(f"  {locale}: {{")
        rows = entries(text[start : text.index("\n  },", start)], r"\d+")
        assert len({number for number, _ in rows}) == len(rows)
        table[locale] = {int(number): ast.literal_eval(sentence) for number, sentence in rows}
    return table


def test_the_english_sentences_are_the_controllers():
    assert controller("en_US") == ENGLISH


@pytest.mark.parametrize("locale", FOREIGN)
def test_every_sentence_of_the_controller_is_translated(locale):
    translated = controller(locale)
    assert list(translated) == list(ENGLISH)
    assert {id_ for id_ in ENGLISH if fields(translated[id_]) != fields(ENGLISH[id_])} == set()
    # Whether a full stop is put behind it in a row is asked of the sentence.
    assert {
        id_ for id_ in ENGLISH if translated[id_].endswith((".", ":")) != ENGLISH[id_].endswith((".", ":"))
    } == set()
    assert [id_ for id_ in ENGLISH if translated[id_] == ENGLISH[id_]] == []


@pytest.mark.parametrize("locale", FOREIGN)
def test_sentences_name_the_actions_as_they_are_displayed(locale, own):
    named = {sentence: number for number, sentence in own["en_US"].items()}
    translated = controller(locale)
    for id_, action in ACTIONS.items():
        assert action in ENGLISH[id_]
        assert own[locale][named[action]] in translated[id_]


def test_no_two_languages_say_the_same():
    tables = [controller(locale) for locale in ("en_US", *FOREIGN)]
    for id_, sentence in ENGLISH.items():
        if len(re.sub(r"\{\w+\}", "", sentence)) > 30:
            assert len({table[id_] for table in tables}) == 5, id_


@pytest.mark.parametrize("locale", FOREIGN)
def test_every_sentence_of_the_package_is_translated(locale, own):
    assert own[locale].keys() == own["en_US"].keys()
    for number, sentence in own["en_US"].items():
        assert sorted(re.findall(r"\$\{\w+\}", own[locale][number])) == sorted(re.findall(r"\$\{\w+\}", sentence))


def test_every_sentence_of_the_package_is_said_somewhere(own):
    sources = "\n".join(path.read_text() for path in (s9pk.SOURCE / "startos").rglob("*.ts"))
    said = {ast.literal_eval(text) for text in re.findall(rf"i18n\(\s*({LITERAL})", sources)}
    assert said == set(own["en_US"].values())


def test_nothing_is_shown_that_has_no_translation():
    """What people see has gone through a dictionary."""
    sources = [p for p in (s9pk.SOURCE / "startos").rglob("*.ts") if "i18n" not in str(p.relative_to(s9pk.SOURCE))]
    shown = re.compile(rf"\b(?:name|description|warning|message|title|reason|display): ({LITERAL})")
    assert {path.name: shown.findall(path.read_text()) for path in sources if shown.search(path.read_text())} == {
        "index.ts": ["'vLLM'"]
    }
