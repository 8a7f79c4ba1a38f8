"""One controller for one directory."""

import subprocess
import sys

import pytest

from vllm_fsm import lock


def test_a_directory_is_held_once(tmp_path):
    held = lock.DirectoryLock(tmp_path / "run")
    with pytest.raises(lock.Held, match="another controller is running"):
        lock.DirectoryLock(tmp_path / "run")
    held.release()
    lock.DirectoryLock(tmp_path / "run").release()


def test_asking_does_not_take(tmp_path):
    assert not lock.held(tmp_path)
    held = lock.DirectoryLock(tmp_path)
    assert lock.held(tmp_path)
    held.release()
    assert not lock.held(tmp_path)


def test_it_ends_with_its_process(tmp_path):
    program = "import sys; from pathlib import Path; from vllm_fsm import lock\n"
    program += f"lock.DirectoryLock(Path({str(tmp_path)!r})); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert lock.held(tmp_path)
        child.kill()
        child.wait()
        assert not lock.held(tmp_path)


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        lock.DirectoryLock(tmp_path / "file" / "run")


def test_a_directory_that_was_removed_is_taken_anew(tmp_path):
    held = lock.DirectoryLock(tmp_path / "run")
    assert held.intact
    (tmp_path / "run" / lock.NAME).unlink()
    (tmp_path / "run").rmdir()
    assert not held.intact
    held.renew()
    assert held.intact
    assert lock.held(tmp_path / "run")
    held.release()


def test_a_directory_that_somebody_else_took_meanwhile(tmp_path):
    held = lock.DirectoryLock(tmp_path)
    (tmp_path / lock.NAME).unlink()
    other = lock.DirectoryLock(tmp_path)
    assert not held.intact
    with pytest.raises(lock.Held):
        held.renew()
    other.release()
    held.release()
