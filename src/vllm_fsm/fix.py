"""What would mend a failed start: the same serve arguments with one number that the engine named.

`proposal` says what to change for a failure, `apply` writes it into arguments and variables. Both are pure, and nothing
is changed by itself: health and the actions offer a fix, and somebody takes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor
from typing import Final

from vllm_fsm.argument_check import check
from vllm_fsm.command_line import Given, read
from vllm_fsm.complaints import Severity
from vllm_fsm.core.snapshot import Message, Param
from vllm_fsm.flag_values import size
from vllm_fsm.flags import Table

CONTEXT: Final = "--max-model-len"
SEQUENCES: Final = "--max-num-seqs"
SHARE: Final = "--gpu-memory-utilization"
SPREAD: Final = "--tensor-parallel-size"
STAGES: Final = "--pipeline-parallel-size"
CACHE: Final = "--kv-cache-memory-bytes"
CACHE_VARIABLE: Final = "VLLM_CPU_KVCACHE_SPACE"
"""GiB, for the CPU build; it wins over the flag (`vllm/platforms/cpu.py`)."""

CHANGED: Final = frozenset({CONTEXT, SEQUENCES, SHARE, SPREAD, CACHE, CACHE_VARIABLE})
"""What a fix may change."""
VALUE: Final = re.compile(r"[1-9]\d{0,11}G?|0\.\d{1,2}", re.ASCII)
"""The values that a fix may have."""

ROOM: Final = 0.9
"""Of the memory that is free, what a KV cache is given: the rest of the machine wants some too."""

Params = Mapping[str, Param]
Variables = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Change:
    """One flag or variable with its new value."""

    name: str
    value: str

    def __str__(self) -> str:
        """Return it as it is written: `--flag value`, or `NAME=value`."""
        return f"{self.name} {self.value}" if self.name.startswith("-") else f"{self.name}={self.value}"

    @property
    def sound(self) -> bool:
        """Whether it is one that can be proposed here."""
        return self.name in CHANGED and VALUE.fullmatch(self.value) is not None


@dataclass(frozen=True, slots=True)
class Fix:
    """A change, and what it makes of what was asked for."""

    change: Change
    arguments: tuple[str, ...] = field(repr=False)
    """What follows `vllm serve`."""
    environment: tuple[tuple[str, str], ...] = field(repr=False)


def proposal(failure: Message, arguments: Sequence[str], environment: Variables, table: Table) -> Change | None:
    """Return what would mend `failure` of an engine that was started with these; None where no usable number is named.

    `failure` is the message of a finding: its parameters are the engine's numbers.
    """
    rule = _RULES.get(failure.id)
    if rule is None:
        return None
    name, number = rule
    try:
        value = number(dict(failure.params))
    except (KeyError, ValueError, OverflowError, ZeroDivisionError):
        return None
    line = read(arguments, table)
    given = {flag: line.last(flag) for flag in (CACHE, SPREAD, STAGES)}
    if name == CACHE:
        if dict(environment).get(CACHE_VARIABLE):
            name = CACHE_VARIABLE
        elif given[CACHE] is not None and value is not None:
            value += "G"
        else:
            return None
    if name == SPREAD and (given[SPREAD] is None or given[STAGES] is not None):
        return None  # what is asked for is a product of several flags
    change = Change(name, value or "")
    return change if change.sound else None


def apply(change: Change, arguments: Sequence[str], environment: Variables, table: Table) -> Fix | None:
    """Return `arguments` and `environment` with `change` made.

    None where it lowers nothing, or where vLLM would not read it or refuse what it took before. The flag stays where
    the one that counts stands, as it is spelled, and other occurrences go; one that is absent is put at the end.
    Everything else stays as it is and in its order.
    """
    if not change.sound:
        return None
    if not change.name.startswith("-"):
        now = dict(environment).get(change.name)
        if now is None or not _lowers(now, change.value):
            return None
        variables = tuple((name, change.value if name == change.name else value) for name, value in environment)
        return Fix(change, tuple(arguments), variables)
    written = _written(change, arguments, table)
    if written is None or _values(change.name, written, table) != [change.value]:
        return None
    if _refused(written, environment, table) - _refused(arguments, environment, table):
        return None
    return Fix(change, written, tuple(environment))


def mend(failure: Message, arguments: Sequence[str], environment: Variables, table: Table) -> Fix | None:
    """Return the fix of `failure`, None where there is none."""
    change = proposal(failure, arguments, environment, table)
    return None if change is None else apply(change, arguments, environment, table)


def _written(change: Change, arguments: Sequence[str], table: Table) -> tuple[str, ...] | None:
    found = [given for given in read(arguments, table).given if change.name in given.flag.names]
    if not found:
        return (*arguments, change.name, change.value)
    last = found[-1]
    if any(len(given.values) != 1 or given.values[0].keys for given in found):
        return None  # a value is missing, or was put together from JSON paths
    (value,) = last.values
    if not _lowers(value.text, change.value):
        return None
    words = list(arguments)
    words[value.index] = words[value.index][: value.offset] + change.value
    gone = {place for given in found[:-1] for place in _places(given)}
    return tuple(word for at, word in enumerate(words) if at not in gone)


def _values(name: str, arguments: Sequence[str], table: Table) -> list[str]:
    given = read(arguments, table).last(name)
    return [] if given is None else [value.text for value in given.values]


def _refused(arguments: Sequence[str], environment: Variables, table: Table) -> set[Message]:
    """What vLLM would refuse by the table. Another vLLM may have started with it, so only what is new counts."""
    # Whether files exist is asked before a start: a fix changes none.
    said = check(arguments, environment, table, table.version, exists=lambda _: True)
    return {one.message for one in said if one.severity is Severity.ERROR}


def _places(given: Given) -> set[int]:
    return {given.place.index, *(value.index for value in given.values)}


def _lowers(now: str, value: str) -> bool:
    """Whether `value` is below what is set now; what stands for no number may be anything."""
    try:
        present = _number(now)
    except (ValueError, OverflowError):
        return True
    return present <= 0 or _number(value) < present


def _number(text: str) -> float:
    try:
        return size(text)
    except ValueError:
        return float(text)


# --- what each failure names -------------------------------------------------------------------------------------


def _most(params: Params) -> str | None:
    """The most that fits."""
    wanted, most = int(params["wanted"]), int(params["most"])
    return str(most) if 0 < most < wanted else None


def _free(params: Params) -> str | None:
    """The share of the memory that is free, in hundredths."""
    free, total = float(params["free"]), float(params["total"])
    hundredths = floor(100 * free / total)
    return f"{hundredths / 100:g}" if 0 < hundredths < 100 else None


def _whole(params: Params) -> str | None:
    """What of the free memory a KV cache may take, in GiB."""
    space = floor(ROOM * float(params["free"]))
    return str(space) if 0 < space < float(params["wanted"]) else None


def _even(params: Params) -> str | None:
    """The largest power of two of GPUs that there are: the attention heads are shared out evenly."""
    wanted, has = int(params["wanted"]), int(params["has"])
    return str(1 << (has.bit_length() - 1)) if 0 < has < wanted else None


_RULES: Final[Mapping[str, tuple[str, Callable[[Params], str | None]]]] = {
    "ContextNeedsMemoryMost": (CONTEXT, _most),
    "ContextTooLong": (CONTEXT, _most),
    "ContextNeedsBatch": (CONTEXT, _most),
    "BatchTooSmall": (SEQUENCES, _most),
    "TooManySequences": (SEQUENCES, _most),
    "GpuBusy": (SHARE, _free),
    "MachineMemoryBusy": (SHARE, _free),
    "CacheTooLarge": (CACHE, _whole),
    "TooFewGpus": (SPREAD, _even),
}
"""By the reason: what is to be changed, and the new value from the numbers that the engine named."""
REASONS: Final = frozenset(_RULES)
"""The failures for which there may be a fix."""
