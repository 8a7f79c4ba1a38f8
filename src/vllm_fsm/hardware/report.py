"""A machine as the JSON of `vllm-fsm hardware --json`; the schema is described in `docs/hardware.md`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vllm_fsm import messages

if TYPE_CHECKING:
    from vllm_fsm.hardware.device import Device
    from vllm_fsm.hardware.machine import Machine

SCHEMA: Final = 1


def document(machine: Machine) -> dict[str, Any]:
    """Return everything that is known; memory in GiB, and in bytes for each device."""
    return {
        "schema": SCHEMA,
        "tier": machine.tier,
        "memoryGiB": machine.memory_gib,
        "count": machine.count,
        "fp8": machine.fp8,
        "ramGiB": machine.ram_gib,
        "environment": dict(machine.environment),
        "complete": machine.complete,
        "notes": [messages.document(note) for note in machine.notes],
        "devices": [_device(device) for device in machine.devices],
    }


def _device(device: Device) -> dict[str, Any]:
    return {
        "vendor": device.vendor,
        "index": device.index,
        "migIndex": device.mig_index,
        "uuid": device.uuid,
        "name": device.name,
        "target": device.target,
        "kind": device.kind,
        "memoryBytes": device.memory,
        "memoryGiB": device.memory_gib,
        "tier": device.tier,
        "fp8": device.fp8,
        "chosen": device.chosen,
        "hiddenBy": device.hidden,
        "reasons": [messages.document(reason) for reason in device.reasons],
    }
