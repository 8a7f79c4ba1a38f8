"""The pure parts of bringing vLLM's source: what pip would ask, what an index lists, how the recipe is changed."""

from typing import Any

import pytest

from support.by_path import load

registry: Any = load("vllm/registry.py")
recipe: Any = load("vllm/recipe.py")

HELP = """
  -i, --index-url <url>       Base URL of the Python Package Index (default
                              https://index.invalid/simple). This should point to a
                              repository
  --extra-index-url <url>     Extra URLs (default nowhere)
"""


@pytest.mark.parametrize(
    ("listed", "indexes"),
    [
        ("", ("https://index.invalid/simple",)),
        ("global.index-url='https://a.invalid/s'\n", ("https://a.invalid/s",)),
        (
            "global.index-url='https://a.invalid/s'\ndownload.index-url='https://b.invalid/s'\n",
            ("https://b.invalid/s",),
        ),
        (":env:.index-url='https://c.invalid/s'\ndownload.index-url='https://b.invalid/s'\n", ("https://c.invalid/s",)),
        (
            "global.extra-index-url='file:///opt/a\\nhttps://d.invalid'\n",
            ("https://index.invalid/simple", "file:///opt/a", "https://d.invalid"),
        ),
    ],
)
def test_the_index_is_the_one_that_pip_would_ask(listed: str, indexes: tuple[str, ...]) -> None:
    assert registry.read(listed, HELP).indexes == indexes


def test_certificates_are_those_that_pip_trusts() -> None:
    assert registry.read("global.cert='/etc/own.pem'\n", HELP).certificates == "/etc/own.pem"
    assert registry.read("", HELP).certificates is None


def test_a_pip_that_tells_no_default_is_no_index() -> None:
    assert registry.read("", "nothing").indexes == ()


def test_both_kinds_of_pages_are_read() -> None:
    assert registry.listed_by_json('{"files": [{"filename": "a-1.tar.gz", "url": "../x/a-1.tar.gz"}]}') == [
        ("a-1.tar.gz", "../x/a-1.tar.gz")
    ]
    assert registry.listed_by_html(
        '<!DOCTYPE html><a data-x="1" href="../x/a-1.0%2Bcpu.tar.gz#sha256=00">a</a><br><A HREF="b.whl">b</A><a>c</a>'
    ) == [("a-1.0+cpu.tar.gz", "../x/a-1.0%2Bcpu.tar.gz"), ("b.whl", "b.whl")]


@pytest.mark.parametrize("page", ["[]", '{"files": 3}', '{"files": [{"url": "x"}]}', "<html>"])
def test_what_is_no_page_of_an_index_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        registry.listed_by_json(page)


UPSTREAM = "FROM base AS first\n" + "".join(edit.before for edit in recipe.EDITS) + "\n"


def test_the_recipe_is_told_the_version_and_asks_no_git() -> None:
    text = recipe.derive(UPSTREAM, "1.2")
    assert text.count(f"ARG {recipe.VERSION_ARG}\n") == 2
    assert ".git" not in text
    assert "vLLM 1.2" in text.partition("\n")[0]


@pytest.mark.parametrize("edit", recipe.EDITS, ids=lambda edit: edit.name)
def test_a_recipe_that_was_changed_upstream_is_refused(edit: Any) -> None:
    for text, places in ((UPSTREAM.replace(edit.before, ""), 0), (UPSTREAM + edit.before, 2)):
        with pytest.raises(recipe.Unfit, match=f"vLLM 1.2 has {places} places for the edit .{edit.name}"):
            recipe.derive(text, "1.2")
