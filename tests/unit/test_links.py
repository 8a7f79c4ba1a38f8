"""Every link from one of our pages to another file, or to a heading, leads somewhere."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from support.by_path import ROOT

PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "s9pk/*.md", "benchmarks/*.md")
    for page in ROOT.glob(pattern)
    if page.is_file()
)
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)|^\s*\[[^\]]+\]:\s*<?(\S+?)>?\s*$", re.MULTILINE)
"""`[text](place)`, or `[name]: place` on a line of its own."""
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)


def links(text: str) -> list[str]:
    """Where the links of a page lead, as it is written there."""
    return [one or other for one, other in LINK.findall(CODE.sub("", text))]


def anchors(text: str) -> set[str]:
    """What `#` may be followed by: the headings in small letters, hyphens for spaces, without other punctuation."""
    prose = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for heading in HEADING.findall(prose):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


def broken(page: Path) -> list[str]:
    """The links of `page` that lead nowhere."""
    return [place for place in links(page.read_text()) if not re.match(r"[a-z]+:", place) and not leads(page, place)]


def leads(page: Path, place: str) -> bool:
    """Whether there is what `page` refers to by `place`."""
    name, _, anchor = unquote(place).partition("#")
    there = page.parent / name if name else page
    if not there.exists():
        return False
    return not anchor or there.suffix != ".md" or anchor in anchors(there.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert broken(page) == []


def test_the_pages_that_are_looked_at_have_links():
    names = {str(page.relative_to(ROOT)) for page in PAGES if links(page.read_text())}
    assert names >= {"README.md", "docs/design.md", "benchmarks/README.md"}


def test_what_leads_nowhere_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# One `word`, and more\n\n```sh\n# no heading\n```\n## Twice\n## Twice\n")
    good = "[a](other.md) [b](other.md#one-word-and-more) [c](other.md#twice-1) [d](https://x.example) [e](#here)"
    bad = "[a](gone.md) ![b](gone.svg) [c](other.md#no-heading) [d](#there) [e](other.md#twice-2)\n[f]: also/gone.md"
    page = tmp_path / "page.md"
    page.write_text(f"# Here\n\n{good}\n`[x](gone)`\n```\n[y](gone)\n```\n{bad}\n")
    assert broken(page) == ["gone.md", "gone.svg", "other.md#no-heading", "#there", "other.md#twice-2", "also/gone.md"]
