"""Where memory limits stand, and what they say: versions 1 and 2, namespaces, the whole chain of parents."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_fsm.hardware import cgroups
from vllm_fsm.hardware.machine import system_memory
from vllm_fsm.hardware.probes import CgroupLimit, Failure, Memory

V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
CPU = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


def limits_2(*directories):
    return [f"{directory}/memory.max" for directory in directories]


def test_version_2_goes_up_to_the_mounted_root():
    assert cgroups.files("0::/a.slice/a-b.slice/c.service\n", V2) == limits_2(
        "/sys/fs/cgroup/a.slice/a-b.slice/c.service",
        "/sys/fs/cgroup/a.slice/a-b.slice",
        "/sys/fs/cgroup/a.slice",
        "/sys/fs/cgroup",
    )


def test_a_namespace_shows_its_own_root():
    assert cgroups.files("0::/\n", V2) == limits_2("/sys/fs/cgroup")


def test_a_group_outside_of_the_namespace_leaves_the_mount_point():
    assert cgroups.files("0::/../other\n", V2) == limits_2("/sys/fs/cgroup")


def test_version_1_tells_the_smallest_of_the_chain_too():
    assert cgroups.files("5:cpu,cpuacct:/x\n4:memory:/docker/1\n0::/\n", CPU + V1.format(root="/docker")) == [
        "/sys/fs/cgroup/memory/1/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/1/memory.stat",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ]


def test_the_hosts_path_in_a_container_leaves_the_mount_point():
    assert cgroups.files("4:memory:/kubepods/pod1/2\n", V1.format(root="/docker/3"))[0] == (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes"
    )


def test_a_hybrid_system_is_asked_in_both():
    found = cgroups.files("4:memory:/x\n1:name=systemd:/y\n0::/z\n", V1.format(root="/") + UNIFIED)
    assert "/sys/fs/cgroup/memory/x/memory.limit_in_bytes" in found
    assert "/sys/fs/cgroup/unified/z/memory.max" in found


def test_a_mount_point_may_hold_blanks():
    assert cgroups.files("0::/\n", "1 2 0:1 / /a\\040b rw - cgroup2 none rw\n") == limits_2("/a b")


@pytest.mark.parametrize(
    ("cgroup", "mountinfo"), [("", ""), ("0::/\n", ""), ("", V2), ("x\n", "y\n"), ("1:cpu:/\n", V2)]
)
def test_nothing_to_be_found(cgroup, mountinfo):
    assert cgroups.files(cgroup, mountinfo) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [("max", None), ("1024", 1024), ("0", 0), ("9223372036854771712", 9223372036854771712), ("", None), ("-1", None)],
)
def test_a_limit(text, says):
    assert cgroups.limit(text) == says


def test_the_line_that_counts():
    stat = "cache 5\nhierarchical_memory_limit 77\nhierarchical_memsw_limit 88\n"
    assert cgroups.relevant("/x/memory.stat", stat) == "77"
    assert cgroups.relevant("/x/memory.stat", "anon 1\n") == ""
    assert cgroups.relevant("/x/memory.max", "max\n") == "max"


parts = st.lists(st.text("abcxyz0189-_.:@äß", min_size=1, max_size=5), max_size=5).filter(
    lambda names: not {".", ".."} & set(names)
)
lines = st.text("0124:/ -,.\\ab\n" + "cgroup2memory", max_size=80)


@given(parts, parts)
def test_the_chain_has_every_parent(root, below):
    mount = f"1 2 0:1 /{'/'.join(root)} /sys/fs/cgroup rw - cgroup2 none rw"
    found = cgroups.files(f"0::/{'/'.join([*root, *below])}", mount)
    directories = [file.removesuffix("/memory.max") for file in found]
    assert directories[0] == "/".join(["/sys/fs/cgroup", *below])
    assert directories[-1] == "/sys/fs/cgroup"
    assert len(directories) == len(below) + 1
    assert all(longer.rpartition("/")[0] == shorter for longer, shorter in pairwise(directories))


@given(lines, lines)
def test_any_text_is_read(cgroup, mountinfo):
    assert isinstance(cgroups.files(cgroup, mountinfo), list)


@given(st.integers(0, 1 << 45), st.lists(st.one_of(st.integers(0, 1 << 63).map(str), st.just("max"))))
def test_the_smallest_counts(physical, texts):
    found = system_memory(Memory(physical, tuple(CgroupLimit(str(at), text) for at, text in enumerate(texts))))
    assert found == min([physical, *(int(text) for text in texts if text != "max")])


def test_a_limit_alone_does_not_tell_the_memory():
    assert system_memory(Memory(Failure("OSError"), (CgroupLimit("x", "1024"),))) is None
