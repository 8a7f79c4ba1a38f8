"""Whether there is memory to spare for a warm parent."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_fsm.adapters import memory
from vllm_fsm.adapters.memory import Room

GIB = 1 << 30
MEMINFO = "MemTotal:       {total} kB\nMemFree:        1 kB\nMemAvailable:   {free} kB\n"


@pytest.mark.parametrize(
    ("free", "total", "cost", "keeps"),
    [
        (4 * GIB, 16 * GIB, 0, True),
        (4 * GIB - 1, 16 * GIB, 0, False),
        (6 * GIB, 16 * GIB, 2 * GIB, True),
        (6 * GIB, 16 * GIB, 2 * GIB + 1, False),
        (13 * GIB, 128 * GIB, 0, True),
        (12 * GIB, 128 * GIB, 0, False),  # a tenth is more than 4 GiB
    ],
)
def test_four_gib_and_a_tenth_stay_free(free: int, total: int, cost: int, keeps: bool) -> None:
    assert Room(free, total).keeps(cost) is keeps


def test_every_place_must_have_room() -> None:
    rooms = [Room(100 * GIB, 200 * GIB), Room(3 * GIB, 8 * GIB)]
    assert memory.enough(0, rooms[:1])
    assert not memory.enough(0, rooms)
    assert not memory.enough(0, [])


def _place(root: Path, **files: str) -> list[Room]:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return memory.rooms(meminfo=str(root / "meminfo"), proc=str(root / "cgroup"), root=str(root / "fs"))


def test_the_machines_memory_alone(tmp_path: Path) -> None:
    text = MEMINFO.format(total=16 << 20, free=9 << 20)
    assert _place(tmp_path, meminfo=text, cgroup="0::/\n") == [Room(9 * GIB, 16 * GIB)]
    assert _place(tmp_path / "other", meminfo="nonsense") == []


def test_a_group_with_a_limit_counts_and_its_file_pages_do_not(tmp_path: Path) -> None:
    files = {
        "meminfo": MEMINFO.format(total=16 << 20, free=9 << 20),
        "cgroup": "0::/a/b\n",
        "fs__a__b__memory_DOT_max": "max\n",
        "fs__a__memory_DOT_max": f"{8 * GIB}\n",
        "fs__a__memory_DOT_current": f"{7 * GIB}\n",
        "fs__a__memory_DOT_stat": f"anon 1\ninactive_file {2 * GIB}\nactive_file 5\n",
    }
    assert _place(tmp_path, **files) == [Room(9 * GIB, 16 * GIB), Room(3 * GIB, 8 * GIB)]


def test_version_1(tmp_path: Path) -> None:
    files = {
        "meminfo": MEMINFO.format(total=16 << 20, free=9 << 20),
        "cgroup": "5:cpu,memory:/a\n1:name=systemd:/a\n",
        "fs__memory__memory_DOT_limit_in_bytes": f"{4 * GIB}\n",
        "fs__memory__memory_DOT_usage_in_bytes": f"{1 * GIB}\n",
        "fs__memory__memory_DOT_stat": "total_inactive_file 0\n",
    }
    assert _place(tmp_path, **files) == [Room(9 * GIB, 16 * GIB), Room(3 * GIB, 4 * GIB)]


def test_what_files_take_counts_as_free_once_used_or_more_often(tmp_path: Path) -> None:
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "memory.max").write_text("1000")
    (tmp_path / "group" / "memory.current").write_text("700")
    (tmp_path / "group" / "memory.stat").write_text("inactive_file 100\nactive_file 200\n")
    proc = tmp_path / "cgroup"
    proc.write_text("0::/group\n")
    files = {"meminfo": "/nowhere", "proc": str(proc), "root": str(tmp_path)}
    assert memory.rooms(**files) == [Room(400, 1000)]
    assert memory.rooms(active_files=True, **files) == [Room(600, 1000)]
