"""The kernel's count of processes that it ended for want of memory."""

import pytest

from vllm_fsm.adapters.process import oom

EVENTS = "low 0\nhigh 0\nmax 12\noom 3\noom_kill {}\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"


def place(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "count"),
    [
        ("0::/\n", {"memory.events": EVENTS.format(2)}, 2),
        ("0::/system.slice/vllm.service\n", {"system.slice/vllm.service/memory.events": EVENTS.format(7)}, 7),
        ("0::/../elsewhere\n", {"memory.events": EVENTS.format(1)}, 1),
        ("5:memory:/docker/abc\n1:name=systemd:/x\n", {"memory/docker/abc/memory.oom_control": CONTROL.format(4)}, 4),
        ("5:memory:/docker/abc\n", {"memory/memory.oom_control": CONTROL.format(5)}, 5),
        ("5:cpu,memory:/a\n0::/a\n", {"memory/a/memory.oom_control": CONTROL.format(6)}, 6),
        ("4:memory:/\n", {"memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\n"}, None),
        ("0::/\n", {"memory.events": "oom_kill many\n"}, None),
        ("0::/\n", {}, None),
        ("", {"memory.events": EVENTS.format(2)}, None),
        ("nonsense\n", {"memory.events": EVENTS.format(2)}, None),
    ],
)
def test_the_counter_is_found_in_both_versions(tmp_path, groups, files, count):
    place(tmp_path, "cgroup", groups)
    for path, text in files.items():
        place(tmp_path, f"fs/{path}", text)
    assert oom.kills(proc=str(tmp_path / "cgroup"), root=str(tmp_path / "fs")) == count


def test_without_the_kernels_file_there_is_no_count(tmp_path):
    assert oom.kills(proc=str(tmp_path / "none"), root=str(tmp_path)) is None
