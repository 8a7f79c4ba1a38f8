"""`vllm-fsm presets`: which models fit this machine, or one that is described."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from vllm_fsm import messages
from vllm_fsm.cli import USAGE, safe, table
from vllm_fsm.core.snapshot import Message
from vllm_fsm.hardware import detect
from vllm_fsm.hardware.machine import Build
from vllm_fsm.messages import text as sentence
from vllm_fsm.presets import CPU, CUSTOM, Capacity, Offer, default, fit, load

SCHEMA = 1


def main(arguments: argparse.Namespace) -> int:
    """Print the presets that fit, and with --all the others too; return 1 when a probe of the hardware failed."""
    failed: Sequence[Message] = ()
    try:
        capacity = described(arguments)
    except ValueError as error:
        print(f"vllm-fsm presets: {error}", file=sys.stderr)
        return USAGE
    presets, wrong = load(arguments.data)
    if capacity is None:
        machine = detect(os.environ, Build(arguments.build) if arguments.build else None)
        failed = () if machine.complete else machine.notes
        capacity = Capacity.of(machine)
        offers = fit(presets, capacity, os.path.exists)
    else:
        offers = fit(presets, capacity)
    shown = [offer for offer in offers if arguments.all or offer.reason is None]
    if arguments.json:
        print(safe.as_json(document(capacity, offers, shown, failed, wrong), indent=2))
    else:
        for message in (*failed, *((wrong,) if wrong is not None else ())):
            print(table.complaint(sentence(message)), file=sys.stderr)
        print("\n".join(lines(capacity, offers, shown, table.columns())))
    return 1 if failed else 0


def described(arguments: argparse.Namespace) -> Capacity | None:
    """Return the machine that the flags describe, None when they describe none.

    Raises:
        ValueError: they describe half a machine.
    """
    tier, memory = arguments.tier, arguments.memory
    if tier == CPU:
        return Capacity(CPU, memory, 0)
    if (tier is None) != (memory is None):
        raise ValueError("--tier and --memory describe a machine only together")
    if tier is None:
        if arguments.devices is not None or arguments.no_fp8:
            raise ValueError("--devices and --no-fp8 belong to a machine that --tier and --memory describe")
        return None
    return Capacity(tier, memory, arguments.devices or 1, not arguments.no_fp8)


def document(
    capacity: Capacity,
    offers: Sequence[Offer],
    shown: Sequence[Offer],
    failed: Sequence[Message],
    wrong: Message | None,
) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "schema": SCHEMA,
        "capacity": {
            "tier": capacity.tier,
            "memoryGiB": capacity.memory,
            "devices": capacity.devices,
            "fp8": capacity.fp8,
        },
        "default": default(offers),
        "presets": [
            {
                "id": offer.preset.id,
                "displayName": offer.preset.display_name,
                "offered": offer.reason is None,
                "model": offer.model,
                "args": list(offer.arguments),
                "context": offer.context,
                "devices": offer.devices,
                "reason": offer.reason and messages.document(offer.reason),
                "note": offer.note and messages.document(offer.note),
            }
            for offer in shown
        ],
        "notes": [messages.document(message) for message in failed],
        "problem": wrong and messages.document(wrong),
    }


def lines(capacity: Capacity, offers: Sequence[Offer], shown: Sequence[Offer], columns: int) -> list[str]:
    """Return the presets as lines of at most `columns` characters where words allow it."""
    chosen = default(offers)
    fitting = sum(offer.reason is None for offer in offers)
    last = "Which presets fit is not known. " if capacity.tier is None else f"{fitting} of {len(offers)} presets fit. "
    last += "Choose custom arguments." if chosen == CUSTOM else f"The first choice is {chosen}."
    rows = [(offer.preset.id, _text(offer)) for offer in shown]
    listed = [*table.entries(rows, columns), ""] if rows else []
    return [*listed, *table.fold(last, columns)]


def _text(offer: Offer) -> str:
    name = offer.preset.display_name
    if offer.reason is not None:
        return f"{name}: {sentence(offer.reason)}"
    length = "" if offer.context is None else f", context {offer.context}"
    note = "" if offer.note is None else f" {sentence(offer.note)}"
    return f"{name}: fits{length}, {offer.model}.{note}"
