"""What a process leaves behind that holds a secret: no core dump, and no traceback with it."""

from __future__ import annotations

import resource
import sys
import threading
import traceback
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_fsm.redaction import Redactor


def forbid_core_dumps() -> None:
    """Let neither us nor any child dump its memory, in which the key is.

    A limit of 1 byte, not 0: with 0 the kernel still hands the dump to a program that `core_pattern` names behind a
    pipe, as systemd-coredump; 1 is its mark for no dump at all (`fs/coredump.c`).
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    limit = 1 if hard else 0
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def redact_tracebacks(redactor: Redactor) -> None:
    """From now on print what is caught by nobody, in any thread or destructor, without the secrets in it."""

    def say(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        sys.stderr.write(redactor.line(text))
        sys.stderr.flush()

    sys.excepthook = say
    threading.excepthook = lambda about: say(about.exc_type, about.exc_value, about.exc_traceback)
    sys.unraisablehook = lambda about: say(about.exc_type, about.exc_value, about.exc_traceback)
