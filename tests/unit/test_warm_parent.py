"""The program that becomes an engine, in what can be seen without one."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

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
