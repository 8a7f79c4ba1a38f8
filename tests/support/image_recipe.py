"""A Dockerfile, read by BuildKit's own parser, and what its build asks for: stages, arguments, files of the context."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import dockerfile

SET = {"PATH", "HOME", "HOSTNAME"}
"""What every base image has in its environment."""

_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::?([-+])([^}]*))?\}|(\w+))")


@dataclass
class Stage:
    """From one `FROM` to the next."""

    name: str
    base: str
    instructions: list[Any] = field(default_factory=list)


class Recipe:
    """The recipe at `path`, as it is built with `arguments` for a `target`."""

    def __init__(self, path: Path, arguments: Mapping[str, str], target: str | None = None) -> None:
        self.outside: dict[str, str | None] = {}
        """The arguments that are declared before the first stage."""
        self.stages: dict[str, Stage] = {}
        stage: Stage | None = None
        for instruction in dockerfile.parse_file(str(path)):
            if instruction.cmd == "FROM":
                base, *named = instruction.value
                assert not named or named[0].lower() == "as", instruction
                stage = Stage(named[1].lower() if named else str(len(self.stages)), base)
                self.stages[stage.name] = stage
            elif stage is not None:
                stage.instructions.append(instruction)
            else:
                self.outside |= _declared([instruction])
        self.arguments = dict(arguments)
        known = {name: value for name, value in self.outside.items() if value is not None} | self.arguments
        for stage in self.stages.values():
            stage.base = _filled(stage.base, known).lower()
        self.target = target or list(self.stages)[-1]

    def built(self) -> list[Stage]:
        """Return the stages that the target needs, itself first; the others are not built."""
        found: dict[str, Stage] = {}
        wanted = [self.target]
        while wanted:
            name = wanted.pop()
            if name in self.stages and name not in found:
                found[name] = self.stages[name]
                wanted += [found[name].base, *(other for other, _ in self._taken(found[name]) if other)]
        return list(found.values())

    def lineage(self, stage: Stage) -> list[Stage]:
        """Return a stage and the stages that it stands on, the lowest first: arguments and variables are inherited."""
        below = self.stages.get(stage.base)
        return [*(self.lineage(below) if below else []), stage]

    def bases(self) -> set[str]:
        """Return the images of registries that are built upon."""
        return {stage.base for stage in self.built()} - self.stages.keys()

    def context(self) -> set[str]:
        """Return the paths of the context that the target's stages copy or mount, as they are written."""
        return {path for stage in self.built() for other, path in self._taken(stage) if not other}

    def declared(self, stage: Stage) -> dict[str, str | None]:
        """Return the build arguments that a stage knows, with their defaults."""
        return _declared(one for below in self.lineage(stage) for one in below.instructions)

    def unknown(self) -> set[tuple[str, str]]:
        """Return stages with the variables that they use and nobody set: BuildKit takes these to be empty."""
        return {(stage.name, name) for stage in self.built() for name in self._unset(stage)}

    def place(self, source: str) -> set[str]:
        """Return where the target has the directory that is called `source` in the context."""
        found = set()
        for stage in self.lineage(self.stages[self.target]):
            for instruction in stage.instructions:
                *sources, to = instruction.value
                if instruction.cmd == "COPY" and source in {path.strip("/") for path in sources}:
                    found.add(str(PurePosixPath(self.workdir(stage)) / _filled(to, self._values(stage))))
        return found

    def workdir(self, stage: Stage) -> str:
        """Return the working directory at a stage's end."""
        now = PurePosixPath("/")
        for below in self.lineage(stage):
            for instruction in below.instructions:
                if instruction.cmd == "WORKDIR":
                    now /= _filled(instruction.value[0], self._values(below))
        return str(now)

    def environment(self) -> dict[str, str]:
        """Return what the target's `ENV` set, as it is written."""
        return {
            name: value
            for stage in self.lineage(self.stages[self.target])
            for instruction in stage.instructions
            if instruction.cmd == "ENV"
            for name, value in _pairs(instruction)
        }

    def _values(self, stage: Stage) -> dict[str, str]:
        """Return what the arguments of a stage are; one without a default takes that of the one outside."""
        declared = {
            name: default if default is not None else self.outside.get(name)
            for name, default in self.declared(stage).items()
        }
        return {name: value for name, value in declared.items() if value is not None} | self.arguments

    def _taken(self, stage: Stage) -> Iterator[tuple[str | None, str]]:
        """Yield what a stage takes of another one, which is named, or of the context."""
        for instruction in stage.instructions:
            options = [flag.removeprefix("--").partition("=") for flag in instruction.flags]
            if instruction.cmd in ("COPY", "ADD"):
                other = next((value.lower() for name, _, value in options if name == "from"), None)
                for path in instruction.value[:-1]:
                    if "://" not in path:
                        yield other, path
            for name, _, value in options:
                if instruction.cmd == "RUN" and name == "mount":
                    mount = dict(part.partition("=")[::2] for part in value.split(","))
                    other = mount.get("from")
                    if other or mount.get("type", "bind") == "bind":
                        yield (other.lower() if other else None), mount.get("source", mount.get("src", "."))

    def _unset(self, stage: Stage) -> Iterator[str]:
        known = set(SET)
        for below in self.lineage(stage):
            for instruction in below.instructions:
                if instruction.cmd == "ARG":
                    known |= _declared([instruction]).keys()
                elif instruction.cmd in ("ENV", "COPY", "ADD", "WORKDIR", "LABEL"):
                    for word in instruction.value:
                        for found in _VARIABLE.finditer(word):
                            name, alternative = found[1] or found[4], found[2]
                            if name not in known and alternative is None:
                                yield name
                    if instruction.cmd == "ENV":
                        known |= {name for name, _ in _pairs(instruction)}


def _declared(instructions: Iterable[Any]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for instruction in instructions:
        if instruction.cmd == "ARG":
            for word in instruction.value:
                name, given, default = word.partition("=")
                found[name] = default.strip("\"'") if given else found.get(name)
    return found


def _pairs(instruction: Any) -> Iterator[tuple[str, str]]:
    """Yield what an `ENV` sets."""
    words = instruction.value
    for name, value in zip(words[::2], words[1::2], strict=True):
        yield name, value.strip("\"'")


def _filled(text: str, values: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name = found[1] or found[4]
        if name in values:
            return found[3] if found[2] == "+" else values[name]
        return found[3] if found[2] == "-" else found.group()

    return _VARIABLE.sub(value, text)


def ignored(path: str, patterns: str) -> bool:
    """Tell whether a context leaves `path` out, by its `.dockerignore`: the last pattern that fits decides."""
    out = False
    parts = PurePosixPath(path).parts
    for line in patterns.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keep, pattern = pattern.startswith("!"), pattern.lstrip("!").strip("/")
        if any(_fits(parts[:length], pattern.split("/")) for length in range(1, len(parts) + 1)):
            out = not keep
    return out


def _fits(parts: tuple[str, ...], pattern: list[str]) -> bool:
    if not pattern or not parts:
        return (not pattern and not parts) or pattern == ["**"]
    if pattern[0] == "**":
        return _fits(parts, pattern[1:]) or _fits(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])
