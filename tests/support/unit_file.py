"""Reads a systemd unit, as far as ours needs it."""

from __future__ import annotations

from pathlib import Path

UNIT = Path(__file__).parents[2] / "docs" / "deploy" / "vllm-fsm.service"


def settings(path: Path = UNIT) -> dict[str, list[str]]:
    """Return all values of each key, whatever its section."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith(("#", "[")):
            found.setdefault(key, []).append(value)
    return found


def command() -> list[str]:
    """Return ExecStart in words; ours has no quotes and no specifiers."""
    (line,) = settings()["ExecStart"]
    assert not set(line) & set("\"'%$\\")
    return line.split()
