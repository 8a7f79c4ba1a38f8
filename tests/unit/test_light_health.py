"""`vllm-fsm health` is asked every few seconds: it imports next to nothing."""

import subprocess
import sys
from pathlib import Path

import vllm_fsm

PACKAGE = Path(vllm_fsm.__file__).resolve().parents[1]
PROGRAM = """
import sys
sys.path.append(sys.argv.pop(1))
from vllm_fsm.cli import main
code = main()
print(*sys.modules)
sys.exit(code)
"""
HEAVY = {"asyncio", "h11", "pathlib", "pydantic", "structlog", "transitions", "vllm_fsm.config", "vllm_fsm.core"}


def test_health_imports_next_to_nothing(tmp_path):
    command = (sys.executable, "-I", "-S", "-c", PROGRAM, str(PACKAGE), "health", "--run-dir", str(tmp_path))
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    said, loaded = run.stdout.splitlines()
    assert "not running" in said
    assert run.returncode == 1
    assert not set(loaded.split()) & HEAVY


def test_the_controller_starts_without_the_rules_for_arguments():
    """They take 15 ms to load, and are for what comes later: see `wishes.JUDGED_AFTER`."""
    program = "import sys, vllm_fsm.cli.run; print(*sys.modules)"
    run = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=True)
    later = {"argument_check", "command_line", "flags", "judgement", "presets", "hardware", "actions", "cache"}
    assert not set(run.stdout.split()) & {f"vllm_fsm.{name}" for name in later}
