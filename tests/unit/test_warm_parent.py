"""The program that becomes an engine, in what can be seen without one."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import pytest

from vllm_fsm.adapters.process.warm import parent


def test_it_imports_nothing_but_the_standard_library() -> None:
    tree = ast.parse(Path(parent.__file__).read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).partition(".")[0])
    assert names <= sys.stdlib_module_names


def test_a_thread_that_ends_meanwhile_keeps_no_other_from_its_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = ["1", "2", "3"]
    restored = []

    def set_priority(_which: int, thread: int, nice: int) -> None:
        if thread == 2:
            raise ProcessLookupError
        restored.append((thread, nice))

    monkeypatch.setattr(parent.Priority, "_returns", lambda _self: True)
    monkeypatch.setattr(parent.Priority, "_set_io", lambda *_: None)
    monkeypatch.setattr(os, "setpriority", set_priority)
    priority = parent.Priority(4, leads=False)
    restored.clear()
    monkeypatch.setattr(os, "listdir", lambda _path: threads)
    priority.restore()
    assert restored == [(1, 4), (3, 4)]
