"""Input that means harm, a few hundred examples of each kind; `make soak` has a million inputs."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from support.hostile import TARGETS, in_time

EXAMPLES = 60


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_in(tmp_path: Path, name: str) -> None:
    """In a child: targets change the working directory, the environment, and the hub's client."""
    target = TARGETS[name]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            check = target.check(tmp_path)

            @settings(
                max_examples=EXAMPLES,
                derandomize=True,  # the same each time: what is new is looked for by the soak
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
            )
            @given(target.examples)
            def run(example: object) -> None:
                with in_time():
                    check(example)

            run()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0, "the child's output says why"
