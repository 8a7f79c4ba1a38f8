"""The recipe of the cpu image: vLLM's own, made to do without git history and to be told the version.

A source distribution has no `.git`, which the recipe mounts to find its version with setuptools-scm. The edits are by
name, and each must find its place exactly once: a recipe that was changed upstream is refused, not built wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass

VERSION_ARG = "SETUPTOOLS_SCM_PRETEND_VERSION"
"""The build argument that hands the version in. In a stage that declares it, setuptools-scm reads it as a variable."""

DECLARED = f"ARG {VERSION_ARG}\n"


class Unfit(ValueError):
    """The recipe is not the one that the edits are for: one sentence."""


@dataclass(frozen=True)
class Edit:
    """One change: where `before` stands, `after` shall stand."""

    name: str
    before: str
    after: str


EDITS = (
    Edit(
        "the Rust frontend is told its version",
        "FROM rust-build-cache AS rust-build\n",
        "FROM rust-build-cache AS rust-build\n" + DECLARED,
    ),
    Edit(
        "the Rust frontend is built without git history",
        '    --mount=type=bind,source=.git,target=.git \\\n    SETUPTOOLS_SCM_PRETEND_METADATA="{dirty=false}" bash',
        "    bash",
    ),
    Edit(
        "the wheel is told its version",
        "FROM vllm-src AS vllm-build\n",
        "FROM vllm-src AS vllm-build\n" + DECLARED,
    ),
)


def derive(upstream: str, version: str) -> str:
    """Return the recipe for vLLM `version`, from the text of its `docker/Dockerfile.cpu`.

    Raises:
        Unfit: an edit finds its place not at all, or more than once.
    """
    text = upstream
    for edit in EDITS:
        found = text.count(edit.before)
        if found != 1:
            raise Unfit(
                f'docker/Dockerfile.cpu of vLLM {version} has {found} places for the edit "{edit.name}", not one: '
                "look at what changed upstream, and adapt vllm/recipe.py."
            )
        text = text.replace(edit.before, edit.after)
    changes = "".join(f"#   {edit.name}\n" for edit in EDITS)
    return f"# Made by vllm/fetch from docker/Dockerfile.cpu of vLLM {version}. Changed so that\n{changes}\n{text}"
