"""What the end of an engine means: from its exit status and its last lines to a finding."""

import errno
import os
import re
import signal

from vllm_fsm.core.snapshot import Finding

USAGE = re.compile(r"vllm(?: serve)?: error: (.*)")
"""What argparse prints last; vLLM 0.32 exits with 2 then."""
DECORATION = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|^\([\w ]+ pid=\d+\) (?:[A-Z]+ \d\d-\d\d [\d:]+ \[[^]]*\] ?)?")
"""Colours, and what vLLM's logger puts before a message: `(EngineCore pid=7) ERROR 11-23 09:05:03 [core.py:133] `."""
NOISE = re.compile(
    r"\s*(?:$|nanobind: |See https://nanobind|- (?:leaked|\.\.\.) |warnings\.warn\(|.*resource_tracker: |"
    r"INFO: +(?:Waiting|Application shutdown|Finished|Shutting down))"
)
"""What every run prints after its last word."""
LONGEST_EVIDENCE = 500
MISSING = re.compile(
    r"(?:[\w.]*\.)?(?:LocalEntryNotFoundError|IncompleteSnapshotError|OfflineModeIsEnabled)\b"
    r"|\w*Error: Weight files referenced in index but missing"
    r"|\w*Error: Cannot find any model weights with"
    r"|\w*Error: Couldn't instantiate the backend tokenizer"
    r"|OSError: We couldn't connect to .* and couldn't find them in the cached files"
    r"|\s*Value error, Invalid repository ID or local directory specified"
)
"""What vLLM 0.32, transformers and huggingface_hub say of a file that is not in the cache."""
NOT_FOUND = frozenset({errno.ENOENT, errno.ENOTDIR})
NOT_EXECUTABLE = frozenset({errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.EISDIR, errno.ELOOP})
HOPELESS = frozenset({errno.E2BIG, errno.EINVAL, errno.ENAMETOOLONG})


def explain_exit(status: int, tail: str) -> Finding:
    """Say why an engine ended that nobody asked to end.

    `status` as in `subprocess`: negative for a signal. `tail`: the last lines of its output, redacted.
    """
    lines = [DECORATION.sub("", line).rstrip() for line in tail.splitlines()]
    usage = [found for line in lines if (found := USAGE.match(line))]
    if status == 2 and usage:
        said = usage[-1][0][:LONGEST_EVIDENCE]
        return Finding.of("BadArguments", permanent=True, evidence=said, detail=usage[-1][1][:LONGEST_EVIDENCE])
    said = next((line.strip()[:LONGEST_EVIDENCE] for line in reversed(lines) if not NOISE.match(line)), "")
    missing = next((line.strip()[:LONGEST_EVIDENCE] for line in lines if MISSING.match(line)), None)
    if missing is not None:
        return Finding.of("FileMissing", evidence=missing, line=missing)
    if status < 0:
        return Finding.of("EngineKilled", evidence=said, signal=_signal_name(-status))
    return Finding.of("EngineExited", evidence=said, status=status)


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


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
