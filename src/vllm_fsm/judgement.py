"""What vLLM would refuse of arguments from a file: known before the engine that serves is stopped for them.

Set Model checks what it writes; a file that somebody edits is judged here. The table of flags and the rules take 15 ms
to load, so whoever starts up imports this module later.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from vllm_fsm import flags
from vllm_fsm.argument_check import check
from vllm_fsm.arguments import Effective
from vllm_fsm.complaints import Severity
from vllm_fsm.core.snapshot import Finding, Message
from vllm_fsm.engine_version import version
from vllm_fsm.messages import text as sentence


def judged(found: Effective, command: Sequence[str], *, exists: Callable[[str], bool] = os.path.exists) -> Effective:
    """Return `found` with what the engine that `command` starts would refuse of it.

    The first complaint becomes the problem. Where the flags of another version of vLLM are known, complaints become
    warnings, behind one that says so; without a complaint nothing is said of the version.
    """
    if not found.arguments or found.problem is not None:
        return found
    engine = version(command)
    table = flags.load(engine)
    # Asked as if the table were the engine's: notes are for who is choosing, not for a service that runs.
    said = check(found.arguments, found.environment, table, table.version, exists=exists)
    wrong = [complaint.message for complaint in said if complaint.severity is Severity.ERROR]
    if not wrong:
        return found
    if flags.public(engine) == table.version:
        detail = sentence(wrong[0]).rstrip(".")
        return replace(found, problem=Finding.of("BadArguments", permanent=True, detail=detail))
    other = (
        Message.of("VersionUnknown", known=table.version)
        if engine is None
        else Message.of("VersionOther", engine=engine, known=table.version)
    )
    return replace(found, warnings=(*found.warnings, other, *wrong))
