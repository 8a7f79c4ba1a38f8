"""`vllm-fsm hardware`: the accelerators and memory of this machine, what a model is served with, and why."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from vllm_fsm import messages
from vllm_fsm.cli import safe, table
from vllm_fsm.hardware import report
from vllm_fsm.hardware.collect import collect
from vllm_fsm.hardware.machine import Build, Machine, decide
from vllm_fsm.hardware.probes import to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_fsm.hardware.device import Device

HEADER = ("DEVICE", "NAME", "TARGET", "MEMORY", "TIER", "WHY")


def main(arguments: argparse.Namespace) -> int:
    """Print what was found; return 1 when a probe failed, so that it is not taken for the truth."""
    said = collect()
    if arguments.probes:
        print(safe.as_json(to_json(said), indent=2))
        return 0
    machine = decide(said, os.environ, Build(arguments.build) if arguments.build else None)
    if arguments.json:
        print(safe.as_json(report.document(machine), indent=2))
    else:
        print("\n".join(lines(machine, table.columns(), table.colourful(sys.stdout))))
    return 0 if machine.complete else 1


def lines(machine: Machine, columns: int, colours: bool = False) -> list[str]:
    """Return the answer as lines of at most `columns` characters where words allow it."""
    tier = machine.tier or "unknown"
    named = [("tier", tier), ("uses", _used(machine)), ("system", f"{_gib(machine.ram_gib)} of memory")]
    for at, note in enumerate(machine.notes):
        named.append(("" if at else "notes", messages.text(note)))
    if machine.environment:
        needs = " ".join(f"{name}={value}" for name, value in machine.environment)
        named.append(("needs", f"{needs} for the engine; presets bring that, custom arguments do not."))
    shown = table.rows(named, columns)
    shown[0] = shown[0].replace(tier, table.colour(tier, table.GREEN if machine.tier else table.RED, colours))
    if machine.devices:
        shown += ["", *table.table(HEADER, [_row(alike) for alike in _alike(machine.devices)], columns)]
    return shown


def _used(machine: Machine) -> str:
    if not machine.count:
        return "none"
    memory = "unknown memory" if machine.memory_gib is None else _gib(machine.memory_gib)
    each = " each" if machine.count > 1 else ""
    return f"{machine.count} × {machine.chosen[0].name}, {memory}{each}, {'FP8' if machine.fp8 else 'no FP8'}"


def _alike(devices: Sequence[Device]) -> list[tuple[Device, ...]]:
    """Put devices together of which the same is said."""
    groups: dict[object, tuple[Device, ...]] = {}
    for device in devices:
        key = (device.equal, device.tier, device.chosen, device.reasons)
        groups[key] = (*groups.get(key, ()), device)
    return list(groups.values())


def _row(devices: tuple[Device, ...]) -> tuple[str, ...]:
    first = devices[0]
    return (
        f"{first.vendor} {', '.join(device.number for device in devices)}{', used' if first.chosen else ''}",
        first.name,
        first.target or "unknown",
        f"{_gib(first.memory_gib)} {first.kind}",
        first.tier or "none",
        messages.sentences(first.reasons),
    )


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size} GiB"
