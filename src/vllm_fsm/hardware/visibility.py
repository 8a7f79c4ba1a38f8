"""Which devices the `…_VISIBLE_DEVICES` variables leave to vLLM, and in which order: as the runtimes read them.

`CUDA_VISIBLE_DEVICES` and `HIP_VISIBLE_DEVICES` as PyTorch does (`torch/cuda/__init__.py`, `_parse_visible_devices`,
which follows the runtimes): a list of numbers or of UUIDs whose beginnings suffice; the first entry that names no
device ends the list; a device named twice empties it. `ROCR_VISIBLE_DEVICES` as ROCr does (`amd_filter_device.cpp`): a
repetition ends the list. `NVIDIA_VISIBLE_DEVICES` as the container toolkit does, which has read it already where it
counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vllm_fsm.hardware.device import Device

CUDA: Final = "CUDA_VISIBLE_DEVICES"
ORDER: Final = "CUDA_DEVICE_ORDER"
PCI_ORDER: Final = "PCI_BUS_ID"
TOOLKIT: Final = "NVIDIA_VISIBLE_DEVICES"
HIP: Final = "HIP_VISIBLE_DEVICES"
ROCR: Final = "ROCR_VISIBLE_DEVICES"

EVERYTHING: Final = frozenset({"", "all", "void"})
"""`void` and nothing mean that the toolkit injects none of itself. The Container Device Interface says `void` in every
container that it gives devices to, so neither hides what is there."""

_LEADING = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
_MIG_OF_CARD = re.compile(r"MIG-(GPU-[0-9a-fA-F-]+)/(\d{1,18})/(\d{1,18})", re.ASCII)
_MIG_OF_INDEX = re.compile(r"(\d{1,18}):(\d{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class View:
    """What a runtime sees of one vendor's devices."""

    left: tuple[Device, ...]
    """In the order in which it counts them."""
    counted: tuple[Device, ...]
    """What the numbers in `CUDA_VISIBLE_DEVICES` or `HIP_VISIBLE_DEVICES` count."""
    hidden: dict[Device, str]
    """The others, with the variable that hides each."""


def nvidia(devices: Sequence[Device], environment: Mapping[str, str]) -> View:
    """Return what is left of NVIDIA's devices.

    A card in MIG mode is named by its number or UUID, for any of its instances, or by an instance's UUID.
    """
    counted = left = tuple(devices)
    if (value := environment.get(TOOLKIT)) is not None:
        left = _injected(left, value)
    hidden = dict.fromkeys((device for device in counted if device not in left), TOOLKIT)
    if (value := environment.get(CUDA)) is not None:
        # CUDA counts what is there, whatever the toolkit's variable says outside of a container.
        named = [device for card in _listed(value, _cards(counted)) for device in card]
        hidden = dict.fromkeys((device for device in left if device not in named), CUDA) | hidden
        left = tuple(device for device in named if device not in hidden)
    return View(left, counted, hidden)


def amd(devices: Sequence[Device], environment: Mapping[str, str]) -> View:
    """Return what is left of AMD's devices: ROCr's variable first, HIP's or CUDA's among what that leaves.

    An empty HIP or CUDA variable counts as none (vLLM 0.32, `platforms/rocm.py`, `_sync_hip_cuda_env_vars`); an empty
    ROCr variable hides all.
    """
    counted = tuple(devices)
    if (value := environment.get(ROCR)) is not None:
        counted = _of_rocr(value, counted)
    hidden = dict.fromkeys((device for device in devices if device not in counted), ROCR)
    left = counted
    name = next((name for name in (HIP, CUDA) if environment.get(name)), None)
    if name is not None:
        left = tuple(device for one in _listed(environment[name], [(one,) for one in counted]) for device in one)
        hidden |= dict.fromkeys((device for device in counted if device not in left), name)
    return View(left, counted, hidden)


def by_number(value: str | None) -> bool:
    """Tell whether a variable names devices by numbers, which mean something in an order only."""
    return value is not None and _LEADING.match(value.strip()) is not None


def _cards(devices: Sequence[Device]) -> list[tuple[Device, ...]]:
    """Group what a number stands for: each card, with all of its instances."""
    cards: dict[int, list[Device]] = {}
    for device in devices:
        cards.setdefault(device.index, []).append(device)
    return [tuple(cards[index]) for index in sorted(cards)]


def _listed(value: str, cards: Sequence[tuple[Device, ...]]) -> list[tuple[Device, ...]]:
    """Return what a list of CUDA's or HIP's kind names, a card or one instance each."""
    prefix = next((prefix for prefix in ("GPU-", "MIG-") if value.strip().startswith(prefix)), None)
    named: list[tuple[Device, ...]] = []
    for entry in value.split(","):
        word = entry.strip()
        if prefix is None:
            found = _by_leading_number(word, cards)
        else:
            found = _by_uuid(word, cards) if word.startswith(prefix) else ()
        if not found:
            break
        if found in named:
            return []
        named.append(found)
    return named


def _by_leading_number(word: str, cards: Sequence[tuple[Device, ...]]) -> tuple[Device, ...]:
    """Read a number as `strtoul` does: what follows it is not looked at."""
    match = _LEADING.match(word)
    number = int(match[0]) if match else -1
    return cards[number] if 0 <= number < len(cards) else ()


def _by_uuid(word: str, cards: Sequence[tuple[Device, ...]]) -> tuple[Device, ...]:
    """Return what the beginning of a UUID names, if it is one thing."""
    old = _MIG_OF_CARD.fullmatch(word)
    if old:
        card, instance = old[1].lower(), (int(old[2]), int(old[3]))
        found: list[tuple[Device, ...]] = [
            (one,) for one in _all(cards) if (one.card or "").lower() == card and one.instance == instance
        ]
    elif word.startswith("MIG-"):
        found = [(one,) for one in _all(cards) if one.mig_index is not None and _begins(one.uuid, word)]
    else:
        found = [card for card in cards if _begins(card[0].card or card[0].uuid, word)]
    return found[0] if len(found) == 1 else ()


def _all(cards: Sequence[tuple[Device, ...]]) -> list[Device]:
    return [device for card in cards for device in card]


def _begins(uuid: str | None, word: str) -> bool:
    return uuid is not None and uuid.lower().startswith(word.lower())


def _of_rocr(value: str, devices: Sequence[Device]) -> tuple[Device, ...]:
    named: list[Device] = []
    for word in value.upper().split(",")[: len(devices)]:
        device = _by_rocr(word.strip(), devices)
        if device is None or device in named:
            break
        named.append(device)
    return tuple(named)


def _by_rocr(word: str, devices: Sequence[Device]) -> Device | None:
    if word.startswith("G"):
        found = [device for device in devices if 5 <= len(word) <= 20 and _begins(device.uuid, word)]
        return found[0] if len(found) == 1 else None
    number = int(word) if _NUMBER.fullmatch(word) else -1
    return devices[number] if 0 <= number < len(devices) else None


def _injected(devices: Sequence[Device], value: str) -> tuple[Device, ...]:
    """Return what the toolkit would have let in; entries that it does not know here are the business of elsewhere.

    Inside a container numbers are the host's, and the toolkit has left as many cards as were listed: they are then
    taken as given.
    """
    if value.strip() in EVERYTHING:
        return tuple(devices)
    if value.strip() == "none":
        return ()
    words = [word.strip() for word in value.split(",") if word.strip()]
    cards = _cards(devices)
    named: set[Device] = set()
    for word in words:
        pair = _MIG_OF_INDEX.fullmatch(word)
        if _NUMBER.fullmatch(word):
            if len(cards) <= len(words):
                return tuple(devices)
            named.update(_by_leading_number(word, cards))
        elif pair:
            if len(devices) <= len(words):
                return tuple(devices)
            card, number = int(pair[1]), int(pair[2])
            named.update(one for one in devices if (one.index, one.mig_index) == (card, number))
        elif word.startswith(("GPU-", "MIG-")):
            named.update(_by_uuid(word, cards))
        else:  # a mounted list or a name of the Container Device Interface: applied already, or not ours
            return tuple(devices)
    return tuple(device for device in devices if device in named)
