"""The page names a test for each defence: they are there, and each table's row has one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)))
DEFENCES = [line for line in PAGE.splitlines() if line.startswith("| ") and line.count("|") == 4]
WITHOUT = (
    "| run code |",
    "| it could |",
    "| they could |",
    "| what |",
    "| the API key",
    "| hub tokens",
    "| the machine's",
)
"""Rows that name no test: of the first table, of the headers, and where nothing stands in the way."""


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_each_test_that_is_named_exists(file: str, test: str) -> None:
    text = (ROOT / file).read_text()
    assert not test or re.search(rf"^\s*(?:async )?def {test}\(", text, re.MULTILINE)


def test_each_defence_has_its_test() -> None:
    rows = [line for line in DEFENCES if not line.startswith((*WITHOUT, "| the truth"))]
    assert len(rows) > 25
    assert [line for line in rows if "`tests/" not in line] == []
