"""Without warm parents nothing of them is loaded, and nothing is missing."""

from __future__ import annotations

import inspect
import subprocess
import sys

from vllm_fsm.adapters.process.warm.keeper import Keeper
from vllm_fsm.adapters.process.warm.off import NoKeeper

PACKAGE = "vllm_fsm.adapters.process.warm"


def test_nothing_of_them_is_loaded() -> None:
    code = f"import sys, vllm_fsm.app; print(*sorted(name for name in sys.modules if name.startswith('{PACKAGE}.')))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == [f"{PACKAGE}.off"]


def test_the_stand_in_can_be_asked_and_told_the_same() -> None:
    def parameters(kind: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {name: [*inspect.signature(method).parameters] for name, method in methods if not name.startswith("_")}

    assert parameters(NoKeeper) == parameters(Keeper)
