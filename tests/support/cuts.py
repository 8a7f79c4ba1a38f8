"""Ends a child in the middle of what it does: at each of its system calls, or at each byte that it writes."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Callable

PTRACE_TRACEME, PTRACE_SYSCALL, PTRACE_SETOPTIONS = 0, 24, 0x4200
PTRACE_O_TRACESYSGOOD, PTRACE_O_EXITKILL = 0x1, 0x100000
SYSCALL_STOP = signal.SIGTRAP | 0x80

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    if _libc.ptrace(request, pid, None, data) == -1:
        raise OSError(ctypes.get_errno(), "ptrace")


def traceable() -> bool:
    """Whether a child may be traced here."""
    try:
        killed_at_call(lambda: None, 1)
    except OSError:
        return False
    return True


def killed_at_call(work: Callable[[], object], number: int) -> bool:
    """Do `work` in a child that gets SIGKILL at its stop number `number`; False when it ended before.

    Every system call has two stops, before and behind it: a call happens, or it does not.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _ptrace(PTRACE_TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status):
        raise OSError("not traced")
    _ptrace(PTRACE_SETOPTIONS, child, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)
    passed = 0
    while True:
        _ptrace(PTRACE_SYSCALL, child)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the work itself failed"
            return False
        assert os.WIFSTOPPED(status), status
        if os.WSTOPSIG(status) == SYSCALL_STOP:
            passed += 1
            if passed == number:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return True


def killed_at_byte(work: Callable[[], object], size: int) -> bool:
    """Do `work` in a child that the kernel kills when a file of it would grow beyond `size` bytes; False: it ended.

    The bytes up to there are written: the kernel cuts the call short, and ends the process at the next one.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, "the work itself failed"
        return False
    assert os.WTERMSIG(status) == signal.SIGXFSZ
    return True
