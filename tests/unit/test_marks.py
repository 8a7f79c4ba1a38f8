"""Marks are written whole, read back exactly, and never half."""

from pathlib import Path

import pytest

from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.process import marks
from vllm_fsm.adapters.process.marks import Mark


def mark(tmpdir: str = "/run/vllm-fsm/t/1-abc") -> Mark:
    return Mark(
        boot=procfs.boot_id(),
        namespace=procfs.pid_namespace(),
        session=4711,
        start=99,
        pipe=12345,
        tmpdir=tmpdir,
    )


@pytest.mark.parametrize("tmpdir", ["/run/vllm-fsm/t/1-abc", "/a dir/with blanks", "/ünï", "/not-utf8-\udcff"])
def test_what_was_written_is_read(tmp_path: Path, tmpdir: str) -> None:
    written = mark(tmpdir)
    marks.write(written, str(tmp_path))
    (found,) = marks.read_all(str(tmp_path))
    told = set(Mark.__slots__) - {"since"}
    assert {name: getattr(found, name) for name in told} == {name: getattr(written, name) for name in told}
    assert found.current
    marks.remove(found, str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    marks.remove(found, str(tmp_path))


def test_every_cut_makes_a_mark_worthless(tmp_path: Path) -> None:
    """A cut directory name would be another directory."""
    whole = mark()
    marks.write(whole, str(tmp_path))
    content = (tmp_path / whole.file).read_bytes()
    for length in range(len(content)):
        (tmp_path / whole.file).write_bytes(content[:length])
        assert marks.read_all(str(tmp_path)) == []
        assert list(tmp_path.iterdir()) == []


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "health.json").write_text("{}")
    (tmp_path / "engine-room").write_text("x")
    assert marks.read_all(str(tmp_path)) == []
    assert len(list(tmp_path.iterdir())) == 2
    assert marks.read_all(str(tmp_path / "missing")) == []
