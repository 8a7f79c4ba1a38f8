"""What nobody catches is printed without secrets, and nothing dumps its memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

KEY = "Kq7vTz2LwXc9RbN4mEfH1s"
PROGRAM = """
import sys, threading
from vllm_fsm.last_words import redact_tracebacks
from vllm_fsm.redaction import Redactor
KEY = sys.argv[1]
redact_tracebacks(Redactor([KEY]))
class Rude:
    def __del__(self):
        raise ValueError(f"the destructor knows {KEY}")
def fail():
    raise ValueError(f"the thread knows {KEY}")
"""
WAYS = {
    "main": "raise ValueError(f'all know {KEY}')",
    "thread": "thread = threading.Thread(target=fail); thread.start(); thread.join()",
    "destructor": "Rude()",
    "chain": "try:\n    fail()\nexcept ValueError as error:\n    raise RuntimeError(f'again {KEY}') from error",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_traceback_that_nobody_catches_holds_no_secret(way: str) -> None:
    run = subprocess.run((sys.executable, "-c", PROGRAM + WAYS[way], KEY), capture_output=True, text=True, check=False)
    assert "Traceback" in run.stderr
    assert "***" in run.stderr
    assert KEY not in run.stderr + run.stdout


@pytest.mark.parametrize("hard", [0, resource.RLIM_INFINITY])
def test_nothing_is_dumped_here_or_in_a_child(tmp_path: Path, hard: int) -> None:
    if hard > resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY:
        pytest.skip("core dumps are forbidden here already")
    program = """
import os, resource, subprocess, sys
from vllm_fsm.last_words import forbid_core_dumps
resource.setrlimit(resource.RLIMIT_CORE, (int(sys.argv[1]),) * 2)
forbid_core_dumps()
print(*resource.getrlimit(resource.RLIMIT_CORE))
for work in (os.abort, lambda: subprocess.run((sys.executable, "-c", "import os; os.abort()"))):
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    print(os.WCOREDUMP(os.waitpid(child, 0)[1]))
"""
    run = subprocess.run(
        (sys.executable, "-c", program, str(hard)), capture_output=True, text=True, check=True, cwd=tmp_path
    )
    limit = "1 1" if hard else "0 0"
    assert run.stdout.split("\n")[:3] == [limit, "False", "False"]
    assert os.listdir(tmp_path) == []
