"""What the controller leaves out of its imports is left out there only."""

import subprocess
import sys

import pytest

from vllm_fsm import no_plugins
from vllm_fsm.stand_in import stand_in

ABSENT = "colorsys"
"""A module of the standard library that nothing here loads."""
PROGRAM = """
import sys
import vllm_fsm.cli.run
from vllm_fsm import journal
journal.logger(None, None, None, console=False)
print(*sys.modules)
import importlib.metadata, rich, ssl
print(len(importlib.metadata.entry_points()) > 0, ssl.OPENSSL_VERSION != "")
"""


@pytest.fixture
def unloaded(monkeypatch):
    monkeypatch.delitem(sys.modules, ABSENT, raising=False)


def test_an_import_fails_inside_and_works_afterwards(unloaded):
    with stand_in(ABSENT), pytest.raises(ImportError):
        import colorsys
    import colorsys

    assert colorsys.rgb_to_hsv


def test_what_is_loaded_already_stays(monkeypatch):
    with stand_in("json"):
        import json
    assert json.loads("1") == 1


def test_there_are_no_plugins_and_all_else_is_real(monkeypatch):
    monkeypatch.delitem(sys.modules, no_plugins.REAL)
    with stand_in(no_plugins.REAL, no_plugins):
        from importlib.metadata import entry_points, version

        assert sys.modules[no_plugins.REAL] is no_plugins
    assert entry_points(group="pydantic") == ()
    assert version("pydantic").startswith("2.")
    assert no_plugins.REAL not in sys.modules or sys.modules[no_plugins.REAL] is not no_plugins


def test_the_controller_loads_without_them_and_they_can_be_loaded_later():
    run = subprocess.run((sys.executable, "-c", PROGRAM), capture_output=True, text=True, check=True)
    loaded, later = run.stdout.splitlines()
    assert not set(loaded.split()) & {"ssl", "_ssl", no_plugins.REAL, "email", "rich"}
    assert later == "True True"
