"""Executing the engine through the shim, so that it is known exactly whether it was executed.

1. `spawn` starts the shim in a session of its own; it prepares itself and waits.
2. The controller records the process and tells the guardian.
3. `execute` sends one byte; the shim answers EXEC and executes the engine.
4. The socket closes with a successful exec; a number before that is the error of one that failed.
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from vllm_fsm.adapters.process import shim

GO = b"g"
LIMIT = 30.0
"""Seconds that an exec may take: reading the program from a mount that hangs has no end of its own."""


class Interrupted(Exception):
    """The shim ended before it executed anything."""


class Unanswered(Exception):
    """The time is over, and the shim has neither executed the engine nor ended."""


class Spawned:
    """A process in its own session that becomes the engine when it is told to."""

    __slots__ = ("channel", "output", "pipe", "process")

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket, output: int) -> None:
        self.process = process
        self.channel = channel
        self.output = output
        """The reading end of the pipe that is its standard output and error; whoever takes it closes it."""
        self.pipe = os.fstat(output).st_ino


def spawn(argv: Sequence[str], environment: Mapping[str, str], keep: Sequence[int] = ()) -> Spawned:
    """Start the shim; it waits. To be called on the main thread: the engine dies with the thread that made it.

    What it executes has the descriptors `keep` open, beside standard input, output and error.

    Raises OSError, and ValueError for a NUL in a string or a `=` in a variable's name.
    """
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe()
    try:
        ours.setblocking(False)
        process = subprocess.Popen(
            (sys.executable, "-I", "-S", shim.__file__, str(theirs.fileno()), str(os.getpid()), *argv),
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            env=environment,
            pass_fds=(theirs.fileno(), *keep),
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        os.close(reading)
        raise
    finally:
        theirs.close()
        os.close(writing)
    return Spawned(process, ours, reading)


async def execute(spawned: Spawned, limit: float = LIMIT) -> None:
    """Let the shim become the engine, within `limit` seconds.

    Raises OSError with exec's error number, Interrupted, or Unanswered: the process must then be killed.
    """
    loop = asyncio.get_running_loop()
    answer = b""
    with spawned.channel as channel:
        try:
            channel.send(GO)
            async with asyncio.timeout(limit) as patience:
                while part := await loop.sock_recv(channel, 16):
                    answer += part
        except (BrokenPipeError, ConnectionResetError):
            pass
        except TimeoutError:
            if not patience.expired():
                raise
            raise Unanswered from None
    if not answer.startswith(shim.EXEC):
        raise Interrupted
    if number := int(answer[len(shim.EXEC) :] or 0):
        raise OSError(number, os.strerror(number))
