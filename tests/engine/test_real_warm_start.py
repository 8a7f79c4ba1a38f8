"""A warm start of the real vLLM is the same engine as a plain one."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.real_vllm import Service
from support.wait import LIMIT, wait_for
from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.procfs import Process

LISTENING = "0A"
PREPARED = 600.0
"""Seconds that a warm parent may take: it has the lowest priority, and other tests may run at the same time."""
SETTLED = 15.0
LOOKS = 6
BETWEEN = 0.2
"""Seconds between two looks: what is gone by the next one was not held."""
SIGNALS = ("SigIgn", "SigBlk", "SigCgt")


def _clients(port: int) -> set[str]:
    """The connections of those who ask, the controller's own among them, as /proc/PID/fd names them."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}") and row[3] != LISTENING}


def _held(process: Process, port: int) -> set[str]:
    """The kinds of open files that a process holds all the time; some come and go within moments.

    Not how many: on a busy machine a connection within the engine is there or not.
    """
    held: Counter[str] | None = None
    for _ in range(LOOKS):
        clients = _clients(port)
        targets = []
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                targets.append(os.readlink(link))
        # Shared memory has random names.
        found = Counter(re.sub(r":?\[\d+\]|(?<=^/dev/shm/).*", "", name) for name in targets if name not in clients)
        held = found if held is None else held & found
        time.sleep(BETWEEN)
    return set(held or ())


def _facts(process: Process, port: int) -> dict[str, Any]:
    """What /proc shows of a process, apart from numbers that no two processes share."""
    folder = Path(f"/proc/{process.pid}")
    status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
    return {
        "name": process.name,
        "cmdline": procfs.cmdline(process.pid).rstrip(b"\0") if process.name != "python" else b"",
        "exe": os.readlink(folder / "exe"),
        "cwd": os.readlink(folder / "cwd"),
        "stdin": os.readlink(folder / "fd" / "0"),
        "limits": (folder / "limits").read_text(),
        "signals": {name: status[name] for name in SIGNALS},
        "umask": status["Umask"],
        "cpus": status["Cpus_allowed"],
        "nice": os.getpriority(os.PRIO_PROCESS, process.pid),
        "threads": status["Threads"],
        "fds": _held(process, port),
    }


def _environment(pid: int) -> dict[str, str]:
    block = procfs.environ(pid).split(b"\0")
    return dict(entry.decode().split("=", 1) for entry in block if b"=" in entry)


def _look(service: Service) -> dict[str, Any]:
    """Everything that must be the same in both starts."""
    family = service.family()
    _, models = service.ask("/v1/models", service.key)
    for card in models["data"]:
        card.pop("created")
        for permission in card["permission"]:
            permission.pop("id")
            permission.pop("created")
    leader, tracker = (_environment(family[name].pid) for name in ("leader", "tracker"))
    # The key is given to a warm parent at the start: it is in the engine's environment, from where the tracker has it,
    # and not in the block that the kernel shows of the leader.
    leader.pop("VLLM_API_KEY", None)
    assert tracker["VLLM_API_KEY"] == service.key
    private = leader["TMPDIR"]
    lines = [line["line"] for line in service.lines if line["event"] == "engine-output"]
    given = [line for line in lines if "non-default args:" in line][-1]
    return {
        "processes": {name: _facts(process, service.port) for name, process in family.items()},
        "parents": {
            "core": family["core"].parent == family["leader"].pid,
            "worker": family["worker"].parent == family["core"].pid,
        },
        "environment": {name: value.replace(private, "TMPDIR") for name, value in leader.items()},
        "changed environment": {name: value.replace(private, "TMPDIR") for name, value in tracker.items()},
        "version": service.ask("/version"),
        "models": models,
        "arguments": re.sub(r"^.*?non-default args: ", "", given),
        "form": re.sub(r"\d+", "0", given.partition("non-default")[0]),
    }


def _differences(plain: dict[str, Any], warm: dict[str, Any]) -> dict[str, Any]:
    """What two starts differ in, by process and fact."""
    found: dict[str, Any] = {name: (plain[name], warm[name]) for name in plain if plain[name] != warm[name]}
    if "processes" in found:
        found["processes"] = {
            (name, key): (fact, warm["processes"][name][key])
            for name, facts in plain["processes"].items()
            for key, fact in facts.items()
            if fact != warm["processes"][name][key]
        }
    return found


def _same(service: Service, plain: dict[str, Any]) -> None:
    with suppress(AssertionError):  # a request that has just ended may still be held open
        wait_for(lambda: _differences(plain, _look(service)) == {}, SETTLED)
    assert _differences(plain, _look(service)) == {}


def test_a_hasty_start_is_the_same_engine_and_so_is_the_first_of_the_next_controller() -> None:
    with Service("--warm", "on", overrides={"warm": {"settle": PREPARED, "patience": LIMIT}}) as service:
        service.wish(256)
        first = service.comes_up(0)
        service.generates()
        plain = _look(service)
        assert service.health()["warm"]["hasty"]
        os.kill(first["pid"], signal.SIGKILL)
        second = service.comes_up(first["attempt"])
        service.generates()
        parent = service.says("warm-parent-ready")
        assert (parent["pid"], parent["processes"], parent["missing"]) == (second["pid"], 3, None)
        assert service.events("warm-child-not-used") == []
        _same(service, plain)
        # What is known of the processes outlives the controller: the first start of the next one has no need to wait.
        assert service.stop() == 0
        service.again(warm={"settle": PREPARED, "patience": LIMIT})
        third = service.comes_up(0)
        service.generates()
        assert service.says("warm-parent-ready")["pid"] == third["pid"]
        assert service.events("warm-child-not-used") == []
        _same(service, plain)
    assert service.ours() == []


def test_a_warm_start_is_the_same_engine() -> None:
    with Service("--warm", "on", overrides={"warm": {"settle": 0.5, "patience": LIMIT}}) as service:
        service.wish(256)
        first = service.comes_up(0)
        service.generates()
        plain = _look(service)
        wait_for(lambda: service.health()["warm"]["state"] == "ready", PREPARED, "a warm parent")
        parent = service.says("warm-parent-ready")
        assert parent["processes"] == 3
        assert parent["missing"] is None
        idle = _environment(parent["pid"])
        assert "VLLM_API_KEY" not in idle
        assert service.key not in idle.values()
        os.kill(first["pid"], signal.SIGKILL)
        second = service.comes_up(first["attempt"])
        service.generates()
        assert second["pid"] == parent["pid"]
        assert service.events("warm-child-not-used") == []
        _same(service, plain)
    assert service.ours() == []
