"""Ends the engine when the controller cannot: a process of its own, executed by path with `python -I -S`.

Standard input is a pipe that only the controller writes to: `+MARK` when an engine is about to be executed, `-MARK`
when nothing of it is left. End of file means that the controller ended, however that happened: every engine that was
not taken back is then killed, again and again until nothing of it is left, and its shared memory and TMPDIR go too.

The guardian leads its own session, ignores what a supervisor sends to a group, and holds no descriptor but its pipe.
"""

import os
import signal
import sys
import time

if __name__ == "__main__":  # -I leaves our package out of sys.path, -S leaves everything else out
    sys.path.append(os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", "..")))

from vllm_fsm.adapters.process.marks import Mark
from vllm_fsm.adapters.process.purge import Purge

SHORTEST, LONGEST = 0.002, 0.25
"""Seconds between two looks at a session that is being killed."""


def end(mark: Mark) -> None:
    """Kill what belongs to `mark` until nothing is left, then remove what it left behind."""
    purge = Purge(mark, watched=True)
    pause = SHORTEST
    while purge.strike():
        time.sleep(pause)
        pause = min(2 * pause, LONGEST)
    purge.finish()
    import shutil  # not held in memory while there is nothing to do

    shutil.rmtree(mark.tmpdir, ignore_errors=True)


def watch(pipe: int) -> list[Mark]:
    """Read the controller's lines until it ends; return the engines that it did not take back."""
    alive: dict[str, Mark] = {}
    rest = b""
    while data := os.read(pipe, 1 << 12):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            mark = Mark.parse(os.fsdecode(line[1:]))
            if line.startswith(b"+"):
                alive[mark.file] = mark
            else:
                alive.pop(mark.file, None)
    return list(alive.values())


def main() -> None:
    """Ignore the signals of others, wait, and clear up."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    for mark in watch(0):
        end(mark)


if __name__ == "__main__":
    main()
