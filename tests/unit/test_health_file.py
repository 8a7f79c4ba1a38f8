"""The file that readers believe."""

import json
import os
import resource

import pytest

from vllm_fsm.adapters.health_file import NAME, HealthFile


@pytest.fixture
def health(tmp_path):
    said = []
    file = HealthFile(tmp_path, lambda: file.shown, lambda event, **fields: said.append(event))
    file.shown = {"state": "Ready"}
    file.said = said
    return file


def test_it_is_written_when_it_changes_and_touched_when_not(health, tmp_path):
    health.write()
    path = tmp_path / NAME
    first = path.stat()
    assert json.loads(path.read_text()) == {"state": "Ready"}
    os.utime(path, (1.0, 1.0))
    health.write()
    assert path.stat().st_mtime == 1.0
    health.beat()
    assert path.stat().st_mtime > 1.0
    assert path.stat().st_ino == first.st_ino
    health.shown = {"state": "Failed"}
    health.beat()
    assert json.loads(path.read_text()) == {"state": "Failed"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_no_success_behind(health, tmp_path):
    health.write()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    health.shown = {"state": "Failed"}
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        health.write()
        health.beat()
        assert list(tmp_path.iterdir()) == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert health.said == ["health-file-failed"]
    health.beat()
    assert json.loads((tmp_path / NAME).read_text()) == {"state": "Failed"}


def test_a_file_that_was_removed_comes_back(health, tmp_path):
    health.write()
    (tmp_path / NAME).unlink()
    health.beat()
    assert json.loads((tmp_path / NAME).read_text()) == {"state": "Ready"}


def test_a_directory_that_is_missing_is_said_once(health, tmp_path):
    tmp_path.rmdir()
    health.write()
    health.beat()
    assert health.said == ["health-file-failed"]
    tmp_path.mkdir()
    health.beat()
    assert (tmp_path / NAME).exists()
