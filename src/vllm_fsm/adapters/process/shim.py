"""Becomes the engine: executed by path with `python -I -S`, as leader of a new session, standard input /dev/null.

    shim.py DESCRIPTOR CONTROLLER COMMAND ARGUMENT…

It ties its life to the controller's (PR_SET_PDEATHSIG, which survives exec), forbids core dumps, puts signals back to
what a fresh process has, and waits for one byte on DESCRIPTOR, a socket: the controller has then recorded it. Right
before exec it sends EXEC; a successful exec closes the socket, a failed one is followed by its error number.
No EXEC: nothing was executed.
"""

import ctypes
import os
import resource
import sys

PR_SET_PDEATHSIG = 1
SIGKILL = 9
SIG_SETMASK = 2
SIGNALS = range(1, 32)
EXEC = b"x"


def main() -> None:
    """Prepare and execute the engine; exit with 127 when that is impossible, or at once when nobody wants it."""
    channel, controller = int(sys.argv[1]), int(sys.argv[2])
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(SIGKILL))
    if os.getppid() != controller:  # it ended before we asked to be told
        sys.exit(127)
    os.set_inheritable(channel, False)
    dump = 1 if resource.getrlimit(resource.RLIMIT_CORE)[1] else 0  # see `last_words`
    resource.setrlimit(resource.RLIMIT_CORE, (dump, dump))
    for number in SIGNALS:  # `signal` would be twice as slow to import as all the rest
        libc.signal(number, None)
    libc.sigprocmask(SIG_SETMASK, bytes(128), None)
    if not os.read(channel, 1):
        sys.exit(127)
    os.write(channel, EXEC)
    try:
        os.execvpe(sys.argv[3], sys.argv[3:], os.environ)  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(channel, b"%d" % (error.errno or 0))
    sys.exit(127)


if __name__ == "__main__":
    main()
