"""Why the engine's command could not be executed."""

from __future__ import annotations

import errno
import os

from vllm_fsm.core.snapshot import Finding

NOT_FOUND = frozenset({errno.ENOENT, errno.ENOTDIR})
NOT_EXECUTABLE = frozenset({errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.EISDIR, errno.ELOOP})
HOPELESS = frozenset({errno.E2BIG, errno.EINVAL, errno.ENAMETOOLONG})


def explain_exec(error: OSError, command: str, path: str | None) -> Finding:
    """Say why `command` could not be executed. `path` is the PATH that it was looked for in.

    A missing interpreter of a script gives the same error number as a missing file.
    """
    text = error.strerror or str(error)
    if error.errno in NOT_FOUND:
        if not _exists(command, path):
            return Finding.of("EngineNotFound", permanent=True, command=command)
        text = "the interpreter that its first line names is missing"
    if error.errno in NOT_FOUND | NOT_EXECUTABLE:
        return Finding.of("EngineNotExecutable", permanent=True, command=command, error=text)
    return Finding.of("EngineStartFailed", permanent=error.errno in HOPELESS, error=text)


def _exists(command: str, path: str | None) -> bool:
    if os.path.dirname(command):
        return os.path.exists(command)
    folders = os.get_exec_path({"PATH": path} if path is not None else {})
    return any(os.path.exists(os.path.join(folder, command)) for folder in folders)
