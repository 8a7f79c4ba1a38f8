"""The phases: what happens to one supervisor by itself, and what is looked at for all of them at the same time."""

from __future__ import annotations

import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from idle import TICK, memory

from rivals.outcome import Outcome
from rivals.place import LIMIT, WAYS, Place, until
from rivals.supervisor import Supervisor, gone, kill

Kind = type[Supervisor]
Pairs = Sequence[tuple[Kind, Outcome]]
SETTLE = 1.2
"""Seconds that a server lives before the next thing happens to it: several supervisors start none twice a second."""
SETTLED = 5.0
"""Seconds after which a supervisor is idle."""
PATIENCE = 5.0
"""Seconds after which a change is lost, and a process that should be gone an orphan."""
LONGEST = 80.0
"""Seconds after which no further round is begun: on a machine that does nothing else all of them take half of it."""
MISSES = 5
"""Changes that may be lost before the latencies are given up."""
SLOWEST = 40.0
"""Seconds to wait for a readiness that is looked for every 30 s."""
WINDOW = 12.0
"""Seconds for which somebody may call a server ready that never had the port."""


def latencies(kind: Kind, outcome: Outcome, rounds: int) -> None:
    """A change and a crash, `rounds` times, with nothing else running; then the memory.

    After a change that is lost the supervisor is started anew, and the round repeated. What takes too long ends early.
    """
    done = misses = tries = 0
    end = time.monotonic() + LONGEST
    while done < rounds:
        done, missed = _rounds(kind, outcome, range(done + 1, rounds + 1), end)
        misses += missed
        tries += 1
        if tries > MISSES:
            raise TimeoutError(f"{MISSES} changes led to nothing")
    if misses:
        outcome.notes["change-exec"] = f"{misses} lost, not counted"


def _rounds(kind: Kind, outcome: Outcome, numbers: range, end: float) -> tuple[int, bool]:
    """Do the rounds of these numbers; return the last one that needs no other try, and whether a change was lost."""
    draw = random.Random(numbers.start)
    with Place() as place:
        supervisor = kind(place)
        try:
            supervisor.start()
            for number in numbers:
                if time.monotonic() > end:
                    outcome.notes["change-term"] = f"of {number - 1} only"
                    break
                _linger(draw)
                written = place.write(number, WAYS[number % 2])
                try:
                    started = place.marks.wait("exec", written, number, PATIENCE)
                except TimeoutError:
                    return number - 1, not supervisor.excused(written)
                term = place.marks.wait("term", written)
                _add(outcome, "change-term", 1e3 * (term.at - written))
                _add(outcome, "change-exec", 1e3 * (started.at - written))
                _until_ready(supervisor, outcome, started.at)
                if kind.restarts:
                    _linger(draw)
                    killed = kill(place.tree()[0])
                    again = place.marks.wait("exec", killed, number)
                    _add(outcome, "crash-exec", 1e3 * (again.at - killed))
                    _until_ready(supervisor, outcome, again.at)
            _linger(draw)
            _memory(supervisor, outcome)
        finally:
            supervisor.close()
    return numbers.stop - 1, False


def _linger(draw: random.Random) -> None:
    time.sleep(SETTLE + 0.3 * draw.random())


def _add(outcome: Outcome, key: str, value: float) -> None:
    outcome.values.setdefault(key, []).append(value)


def _until_ready(supervisor: Supervisor, outcome: Outcome, since: float) -> None:
    if supervisor.readiness:
        seen = supervisor.ready(since, SLOWEST)
        if seen is None:
            raise TimeoutError(f"{supervisor.name} said nothing of ready within {SLOWEST:g} s")
        listening = supervisor.place.marks.wait("listen", since)
        _add(outcome, "ready", 1e3 * (seen - listening.at))
    else:
        supervisor.place.marks.wait("listen", since)


def _memory(supervisor: Supervisor, outcome: Outcome) -> None:
    _add(outcome, "pss", sum(memory(pid, "Pss") for pid in supervisor.own()))
    if helpers := supervisor.helpers():
        outcome.notes["pss"] = f"{sum(memory(pid, 'Pss') for pid in helpers):.1f} of it the helper"


def together(pairs: Pairs, what: str, phase: Callable[[Kind, Outcome], None]) -> None:
    """Run a phase for all at the same time; what fails is a note of that one."""
    print(f"{what} …", file=sys.stderr, flush=True)
    threads = [threading.Thread(target=guarded, args=(phase, kind, outcome)) for kind, outcome in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def guarded(phase: Callable[[Kind, Outcome], None], kind: Kind, outcome: Outcome) -> None:
    """Run a phase; say what went wrong instead of passing it on."""
    try:
        phase(kind, outcome)
    except Exception as error:
        traceback.print_exc()
        outcome.facts.setdefault("error", f"{type(error).__name__}: {error}")


def lost(kind: Kind, outcome: Outcome, batches: int, size: int, budget: float) -> None:
    """Write `batches` times `size` distinct values in quick succession; each last one has to be what runs.

    Ends early after `budget` seconds, since every lost one takes its time.
    """
    draw = random.Random(2)
    number = made = missed = 0
    end = time.monotonic() + budget
    with Place() as place:
        supervisor = kind(place)
        try:
            supervisor.start()
            for batch in range(batches):
                if time.monotonic() > end:
                    break
                began = time.monotonic()
                for _ in range(size):
                    number += 1
                    place.write(number, WAYS[batch % 2])
                    time.sleep(0.02 * draw.random())
                made += 1
                try:
                    until(partial(_runs, place, number), PATIENCE, f"a server with {number}")
                except TimeoutError:
                    excused = supervisor.excused(began)
                    made, missed = made - excused, missed + (not excused)
                time.sleep(0.1 * draw.random())
        finally:
            supervisor.close()
    if not made:
        return
    _add(outcome, "lost", float(missed))
    outcome.notes["lost"] = f"{made * size:,} changes in {made} series"


def _runs(place: Place, number: int) -> bool:
    """Whether the server that listens was started with `number`, and lives."""
    listens, started = place.marks.latest("listen"), place.marks.latest("exec")
    if listens is None or started is None or listens.number != str(number) or started.number != str(number):
        return False
    return bool(place.servers())


def idle(pairs: Pairs, seconds: float) -> None:
    """CPU time of all of them beside servers that nobody asks anything, while nobody of them is starting."""
    limit = LIMIT + SETTLED + seconds + LIMIT
    started, measured = (threading.Barrier(len(pairs), timeout=limit) for _ in range(2))

    def phase(kind: Kind, outcome: Outcome) -> None:
        with Place() as place:
            supervisor = kind(place)
            try:
                try:
                    supervisor.start()
                finally:
                    started.wait()
                time.sleep(SETTLED)
                began, before = time.monotonic(), _spent(supervisor)
                time.sleep(seconds)
                outcome.values["idle"] = [100 * (_spent(supervisor) - before) / (time.monotonic() - began)]
            finally:
                measured.wait()
                supervisor.close()

    together(pairs, "idle", phase)


def _spent(supervisor: Supervisor) -> float:
    """CPU seconds of its own processes so far, with what children that have ended took."""
    total = 0
    for pid in supervisor.own():
        total += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return total / TICK


def orphans(kind: Kind, outcome: Outcome) -> None:
    """SIGKILL the supervisor itself; and see what of the server is there later."""
    if kind.contained:
        outcome.facts["orphans"] = kind.contained
        return
    with Place() as place:
        supervisor = _with_child(kind, place)
        try:
            leader, children = place.tree()
            kill(supervisor.main.pid)
            time.sleep(PATIENCE)
            outcome.facts["orphans"] = _left(leader, children) or "none"
        finally:
            supervisor.close()


def leftovers(kind: Kind, outcome: Outcome) -> None:
    """SIGKILL the server's leader, and see whether its child is there beside the next server."""
    if not kind.restarts:
        outcome.facts["leftover"] = "starts no next one"
        return
    with Place() as place:
        supervisor = _with_child(kind, place)
        try:
            leader, children = place.tree()
            kill(leader)
            time.sleep(PATIENCE)
            outcome.facts["leftover"] = _left(leader, children) or "none"
        finally:
            supervisor.close()


def deaf(kind: Kind, outcome: Outcome) -> None:
    """Ask the supervisor to stop a server that ignores it, with a child that does too."""
    with Place() as place:
        supervisor = _with_child(kind, place, RUDE_SIGTERM="deaf")
        try:
            leader, children = place.tree()
            asked = time.monotonic()
            order = threading.Thread(target=supervisor.end)
            order.start()
            ended = gone(leader, LIMIT)
            if ended is None:
                outcome.facts["deaf"] = f"not within {LIMIT:g} s"
            else:
                _add(outcome, "deaf", ended - asked)
                time.sleep(2.0)
                outcome.facts["deaf-child"] = _left(leader, children) or "none"
            order.join()
        finally:
            supervisor.close()


def false_ready(kind: Kind, outcome: Outcome) -> None:
    """A stranger holds the port and is healthy; the server comes to its port after 2 s, and ends for want of it."""
    with Place() as place:
        place.mode(BOOT=2)
        supervisor = kind(place)
        try:
            with supervisor.stranger():
                since = time.monotonic()
                supervisor.begin()
                said = supervisor.ready(since, WINDOW)
            if said is not None:
                outcome.values["false-ready"] = [said - since]
            elif kind.readiness:
                outcome.facts["false-ready"] = "none"
        finally:
            supervisor.close()


def _with_child(kind: Kind, place: Place, **modes: object) -> Supervisor:
    """Start a server with a child; it and its child listen to nobody if `modes` say so."""
    place.mode(RUDE_CHILDREN=1, **modes)
    supervisor = kind(place)
    supervisor.start()
    time.sleep(SETTLE)
    return supervisor


def _left(leader: int, children: list[int]) -> str:
    """What of these is there, in words."""
    there = ["leader"] if _lives(leader) else []
    return ", ".join([*there, *("grandchild" for pid in children if _lives(pid))])


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
