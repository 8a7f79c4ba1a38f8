"""The dependencies: pinned by hashes, all of them, and what is installed is what was pinned."""

from __future__ import annotations

from importlib.metadata import distributions

import pytest
from packaging.utils import canonicalize_name

from support import audit

GOOD = "one==1.0 \\\n    --hash=sha256:" + "a" * 64 + " \\\n    --hash=sha256:" + "b" * 64 + "\n"


@pytest.mark.parametrize("file", audit.FILES)
def test_every_package_is_pinned_by_hashes(file: str) -> None:
    pins, wrong = audit.pinned((audit.ROOT / file).read_text())
    assert wrong == []
    assert len(pins) > 20


def test_all_that_the_project_asks_for_is_pinned() -> None:
    pins, _ = audit.pinned((audit.ROOT / "constraints.txt").read_text())
    assert audit.missing(audit.declared(), pins) == []


def test_what_is_installed_is_what_was_pinned() -> None:
    pins, _ = audit.pinned((audit.ROOT / "constraints.txt").read_text())
    here = {canonicalize_name(one.name): one.version for one in distributions() if one.name}
    if "uv" in here or not here.keys() >= {"ruff", "mypy"}:
        pytest.skip("this is not the environment of make setup")
    # A tool of one's own beside them is nobody's business but `make audit`'s.
    assert audit.differing(pins, {name: version for name, version in here.items() if name in pins}) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("one>=1.0 --hash=sha256:" + "a" * 64, "not pinned to one version"),
        ("one==1.* --hash=sha256:" + "a" * 64, "not pinned to one version"),
        ("one @ https://example.org/one.whl --hash=sha256:" + "a" * 64, "not pinned to one version"),
        ("one==1.0", "no SHA-256"),
        ("one==1.0 --hash=md5:" + "a" * 32, "no SHA-256"),
        ("one==1.0 --hash=sha256:" + "a" * 63, "no SHA-256"),
        ("--index-url https://example.org", "no requirement"),
    ],
)
def test_what_is_wrong_with_a_line(text: str, problem: str) -> None:
    _, wrong = audit.pinned(GOOD + text + "\n")
    assert len(wrong) == 1
    assert problem in wrong[0]


def test_what_differs() -> None:
    pins, wrong = audit.pinned(GOOD + GOOD.replace("one", "two"))
    assert wrong == []
    assert audit.differing(pins, {"one": "1.0.0", "two": "2.0", "three": "1"}) == [
        "three 1 is installed and not pinned",
        "two is installed as 2.0 and pinned to 1.0",
    ]
    assert audit.differing(pins, {"one": "1.0"}) == ["two is pinned and not installed"]
    assert audit.missing({"x": ["one>=2", "four"]}, pins) == [
        "one (x) is pinned to a version that pyproject.toml excludes",
        "four (x) is not pinned",
    ]
