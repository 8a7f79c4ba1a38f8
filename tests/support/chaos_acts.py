"""Acts of a chaos on files, processes, the port, the clock, and the volume. Acts on downloads are in `hub_acts.py`.

An act that finds nothing to act upon returns False.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from support.controller import Controller
from support.obstacle import Choice, Obstacle
from support.volume import mount
from support.wait import wait_for
from vllm_fsm.adapters import procfs

if TYPE_CHECKING:
    from support.chaos import Chaos

Act = Callable[["Chaos"], bool | None]

MOMENT = 0.3
"""Seconds that an act takes something away: the length of the act, in which nothing is waited for."""
HOURS = 48
"""The furthest that the controller's wall clock is from the true one, either way."""
PAUSE = (0.0, 0.05, 0.3)
"""Seconds between two acts of one cycle, at random."""
KINDS: tuple[dict[str, object], ...] = (
    {},
    {},
    {"RUDE_CHILDREN": 2, "RUDE_CHILDREN_STAY": 1, "RUDE_TITLE": "VLLM::EngineCore"},
    {"RUDE_SIGTERM": "deaf"},
    {"RUDE_SIGTERM": "loading", "RUDE_LISTEN_AFTER": 0.3},
    {"RUDE_DAEMON": "pipe", "RUDE_SHM": 1, "RUDE_SEMAPHORE": 1},
    {"RUDE_CHILDREN": 1, "RUDE_CHILDREN_DEEP": 1, "RUDE_PROGRESS": 50},
    {"RUDE_FLOOD": 1 << 20, "RUDE_BAD_UTF8": 1, "RUDE_PRINT_KEY": 1},
    {"RUDE_SIGTERM": "slow:0.4"},
)
"""Engines that come up, and are rude at other times."""
REFUSING = {"RUDE_EXIT_CODE": 2, "RUDE_LAST_LINE": "vllm: error: unrecognized arguments: --oops"}
HANGING = {"RUDE_NEVER_LISTEN": 1}


def edit(chaos: Chaos) -> None:
    chaos.serve(rude=chaos.random.choice(KINDS) if not chaos.engine else None)


def edit_in_place(chaos: Chaos) -> None:
    chaos.serve(in_place=True)


def edit_often(chaos: Chaos) -> None:
    for _ in range(20):
        chaos.serve()


def clear(chaos: Chaos) -> None:
    chaos.controller.store.write_text("{}")
    chaos.wanted, chaos.obstacle = None, None


def delete_store(chaos: Chaos) -> None:
    chaos.controller.store.unlink(missing_ok=True)
    chaos.wanted, chaos.obstacle = None, None


def break_store_and_mend_it(chaos: Chaos) -> None:
    chaos.controller.store.write_bytes(chaos.random.choice((b"", b"{", b'{"serveArgs": 7}', b"\xff\xfe", b"[]")))
    time.sleep(chaos.random.choice(PAUSE))
    chaos.serve()


def delete_key(chaos: Chaos) -> None:
    chaos.controller.credentials.unlink(missing_ok=True)


def rotate_key(chaos: Chaos) -> None:
    key = "".join(chaos.random.choices("abcdefghijkmnpqrstuvwxyz23456789", k=22))
    new = chaos.controller.credentials.with_name(".new")
    new.write_text(json.dumps({"apiKey": key}))
    new.rename(chaos.controller.credentials)


def break_key_and_mend_it(chaos: Chaos) -> None:
    path = chaos.controller.credentials
    path.write_text(chaos.random.choice(("{", "[]", '{"apiKey": 7}')))
    time.sleep(chaos.random.choice(PAUSE))
    chaos.note_key()
    path.write_text(json.dumps({"apiKey": "mended" * 4}))


def kill_engine(chaos: Chaos) -> bool:
    return chaos.strike(chaos.pid(), signal.SIGKILL)


def kill_member(chaos: Chaos) -> bool:
    pid = chaos.pid()
    members = [p.pid for p in procfs.processes() if p.session == pid and p.pid != pid and not p.gone]
    return bool(members) and chaos.strike(chaos.random.choice(members), signal.SIGKILL)


def stop_engine_for_a_moment(chaos: Chaos) -> bool:
    pid = chaos.pid()
    if not chaos.strike(pid, signal.SIGSTOP):
        return False
    time.sleep(MOMENT)
    chaos.strike(pid, signal.SIGCONT)
    return True


def stop_controller_for_a_moment(chaos: Chaos) -> None:
    chaos.controller.signal(signal.SIGSTOP)
    time.sleep(MOMENT)
    if chaos.random.random() < 0.5:
        edit(chaos)
    chaos.controller.signal(signal.SIGCONT)


def kill_guardian(chaos: Chaos) -> bool:
    assert chaos.controller.process is not None
    found = False
    for process in procfs.processes():
        if process.parent == chaos.controller.process.pid and b"guardian" in procfs.cmdline(process.pid):
            found |= chaos.strike(process.pid, signal.SIGKILL)
    return found


def kill_controller(chaos: Chaos) -> None:
    chaos.controller.signal(signal.SIGKILL).ends()
    if chaos.random.random() < 0.5:
        wait_for(lambda: not chaos.controller.left(), what="the engine ends with its controller")
    chaos.again()


def restart_controller(chaos: Chaos) -> None:
    assert chaos.controller.stop(chaos.settle) == 0
    assert not chaos.controller.left()
    chaos.again()


def hang_up(chaos: Chaos) -> None:
    chaos.controller.signal(signal.SIGHUP)


def second_controller(chaos: Chaos) -> None:
    second = Controller(chaos.root, port=chaos.controller.port).start()
    assert second.ends(chaos.settle) == 3


def steal_port(chaos: Chaos) -> bool:
    """Take the port while it is free; until the end of the cycle nothing can be served."""
    stranger = socket.socket()
    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        stranger.bind(("127.0.0.1", chaos.controller.port))
        stranger.listen()
    except OSError as error:
        stranger.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    chaos.free_port()
    chaos.stranger = stranger
    return True


def steal_port_of_the_next(chaos: Chaos) -> bool:
    """Kill the engine and be quicker than the next one."""
    kill_engine(chaos)
    until = time.monotonic() + MOMENT
    while not steal_port(chaos):
        if time.monotonic() > until:
            return False
    return True


def touch(chaos: Chaos) -> bool:
    """Write what is there already: nothing changes."""
    store = chaos.controller.store
    if not store.exists():
        return False
    store.write_bytes(store.read_bytes())
    return True


def unknown_model_and_back(chaos: Chaos) -> None:
    """A model that the hub does not have; nobody answers there."""
    chaos.controller.serve("org/none", HF_ENDPOINT="http://127.0.0.1:9")
    time.sleep(chaos.random.choice(PAUSE))
    chaos.serve()


def refused_choice_and_another(chaos: Chaos) -> None:
    """An engine that does not know its arguments."""
    cannot_be_served(chaos, REFUSING, "BadArguments")


def hanging_choice_and_another(chaos: Chaos) -> None:
    """An engine that comes to life and never listens."""
    cannot_be_served(chaos, HANGING, "EngineHung")


def cannot_be_served(chaos: Chaos, rude: Mapping[str, object], reason: str) -> None:
    """Choose what fails for good, after something that was ready or after nothing; then something else."""
    before = settled(chaos)
    chaos.serve(rude=rude)
    if chaos.random.random() < 0.5:
        rotate_key(chaos)
    if chaos.random.random() < 0.5:
        chaos.obstacle = Obstacle(frozenset({reason}), before if chaos.fallback else None, fallback=True)
        chaos.settles()
        if chaos.random.random() < 0.5:
            rotate_key(chaos)
            chaos.settles()
    else:
        time.sleep(chaos.random.choice(PAUSE))
    chaos.serve()


def settled(chaos: Chaos) -> Choice | None:
    """Choose something that can be served, or nothing; return what is ready then."""
    chaos.relent()
    # A real engine takes its time: there, what was chosen last will do.
    act = None if chaos.engine else chaos.random.choice((edit, clear))
    if act is not None:
        act(chaos)
    chaos.settles()
    return chaos.wanted


def step_clock(chaos: Chaos) -> None:
    """Set the controller's wall clock to another time, hours ahead or behind."""
    chaos.set_clock(3600.0 * chaos.random.randint(-HOURS, HOURS))


def fill_volume(chaos: Chaos) -> None:
    """No byte is left on the volume for a while."""
    with full_volume(chaos):
        delete_key(chaos)
        kill_engine(chaos)
        time.sleep(MOMENT)
    choose_again(chaos)


def choose_again(chaos: Chaos) -> None:
    """Ask anew for a model of the hub: a download that found no room is not tried again by itself."""
    if chaos.model is not None:
        chaos.serve(model=chaos.model, anew=True)


@contextlib.contextmanager
def full_volume(chaos: Chaos) -> Iterator[None]:
    """Leave no byte on the volume."""
    limits = os.statvfs(chaos.root / "data")
    size = limits.f_bavail * limits.f_frsize
    filler = chaos.root / "data" / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        file.write(bytes(size + (1 << 20)))
    try:
        yield
    finally:
        filler.unlink()


def write_protect_volume(chaos: Chaos) -> None:
    """The volume can only be read for a while."""
    data = str(chaos.root / "data")
    subprocess.run(("mount", "-o", "remount,ro", data), check=False, stderr=subprocess.DEVNULL)
    kill_engine(chaos)
    time.sleep(MOMENT)
    mount("-o", "remount,rw", data)
    choose_again(chaos)


ACTS: tuple[Act, ...] = (
    *(edit, edit, edit, edit_in_place, edit_often, clear, delete_store, break_store_and_mend_it, touch),
    *(delete_key, rotate_key, break_key_and_mend_it),
    *(kill_engine, kill_engine, kill_member, stop_engine_for_a_moment, stop_controller_for_a_moment),
    *(kill_guardian, kill_controller, restart_controller, hang_up, second_controller),
    *(steal_port, steal_port_of_the_next, unknown_model_and_back, fill_volume, write_protect_volume),
    *(refused_choice_and_another, hanging_choice_and_another, step_clock),
)
REPLACING: tuple[Act, ...] = (kill_controller, restart_controller)
"""Another controller comes, which knows of nothing that was ready before."""
ON_VOLUME: tuple[Act, ...] = (fill_volume, write_protect_volume)
"""What needs `Chaos.mounted`."""
RUDE: tuple[Act, ...] = (refused_choice_and_another, hanging_choice_and_another)
"""What needs the rude fake engine."""
ANEW: tuple[Act, ...] = (hang_up, delete_key, rotate_key, break_key_and_mend_it)
"""With an engine that has failed, everything begins anew."""
BESIDE: tuple[Act, ...] = (
    *(kill_engine, kill_member, stop_engine_for_a_moment, kill_guardian, second_controller),
    *(steal_port, steal_port_of_the_next, touch, step_clock),
)
"""What a choice that cannot be served outlasts, with all that is served instead of it."""
