"""Models with arguments that are known to work: which of them fit this machine, and why the others do not.

The nine of the package are `data/presets.json`; a file of the same shape in the data directory replaces those whose id
it repeats and adds others. The rules of the shape:

- `args` begin with the model, hold nothing that is reserved for the service, and neither `--max-model-len` nor
  `--tensor-parallel-size`: these follow from the memory;
- `minMemoryGB` is what weights, cache and the rest need, in GiB of the nominal size of cards;
- `contextByMemory` has the context length for each amount of memory, the smallest first and not above `minMemoryGB`;
  an empty one means that no length is passed;
- hardware that a preset has no `configs` for is not offered it;
- a chat template that is named by an absolute path must be there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import Field

from vllm_fsm.arguments import flag_values, reserved
from vllm_fsm.core.snapshot import Message
from vllm_fsm.files.reading import Broken, Empty, Good, Missing, read_object
from vllm_fsm.files.store import FileModel, shaped

if TYPE_CHECKING:
    from vllm_fsm.hardware.machine import Machine

NAME: Final = "presets.json"
"""Below the data directory, for presets of the user's own."""
BUILT_IN: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", NAME)

CUSTOM: Final = "custom"
"""What is selected instead of a preset: arguments of the user's own."""

TIERS: Final = ("nvidia-blackwell", "nvidia-hopper", "nvidia-older", "amd")
"""The hardware that there are presets for."""

CPU: Final = "cpu"
"""The tier of a machine without a GPU that is known; there are no presets for it."""

WAYS: Final = (1, 2, 4, 8)
"""Over how many equal GPUs a model may be spread: vLLM divides the attention heads, whose numbers go by these."""

MEMORY_MOST: Final = 1_000_000
CONTEXT_MOST: Final = 100_000_000
"""GiB and tokens; what is more is a slip."""

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FP8 = re.compile(r"(?<![a-z0-9])fp8(?![a-z0-9])", re.IGNORECASE)
_FROM_MEMORY: Final = ("--max-model-len", "--tensor-parallel-size")


class Step(FileModel):
    """A context length and the memory that it takes."""

    gb: int
    """GiB."""
    ctx: int
    """Tokens."""


class Configuration(FileModel):
    """What a preset is on one kind of hardware."""

    args: list[str]
    """What follows `vllm serve`, apart from what follows from the memory."""
    min_memory_gb: int = Field(alias="minMemoryGB")
    """GiB."""
    context_by_memory: list[Step]

    @property
    def model(self) -> str:
        """The name of the model."""
        return self.args[0]

    @property
    def files(self) -> tuple[str, ...]:
        """The files that the arguments name by an absolute path: vLLM's images bring chat templates."""
        named = flag_values(self.args, "--chat-template") or ()
        return tuple(path for path in named if os.path.isabs(path))

    def context(self, memory: int) -> int | None:
        """Return the longest context that fits `memory` GiB, None where none is passed."""
        return max((step.ctx for step in self.context_by_memory if step.gb <= memory), default=None)

    def arguments(self, context: int | None, devices: int) -> tuple[str, ...]:
        """Return the serve arguments for a context of so many tokens on so many GPUs."""
        length = () if context is None else ("--max-model-len", str(context))
        spread = () if devices == 1 else ("--tensor-parallel-size", str(devices))
        return (*self.args, *length, *spread)


class Preset(FileModel):
    """A model with its arguments for each kind of hardware."""

    id: str
    display_name: str
    configs: dict[str, Configuration]
    """By tier."""


class Presets(FileModel):
    """The contents of a file of presets."""

    presets: list[Preset]


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a model can be served with."""

    tier: str | None
    """One of `TIERS`, `CPU`, or None for unknown."""
    memory: int | None
    """GiB of one of the equal GPUs; None for unknown."""
    devices: int = 1
    """How many equal GPUs there are."""
    fp8: bool = True
    """They calculate in FP8; counts for AMD only, where tiers do not tell."""

    @classmethod
    def of(cls, machine: Machine) -> Capacity:
        """Return what the chosen devices of a machine have."""
        return cls(machine.tier, machine.memory_gib, machine.count, machine.fp8)


@dataclass(frozen=True, slots=True)
class Offer:
    """What becomes of one preset on this machine."""

    preset: Preset
    model: str | None
    """None when there is nothing for this hardware."""
    arguments: tuple[str, ...]
    """Empty when it is not offered."""
    context: int | None
    """Tokens, None where no length is passed."""
    devices: int
    """Over how many GPUs it is spread."""
    reason: Message | None
    """Why it is not offered; None when it is."""

    @property
    def note(self) -> Message | None:
        """What should be known of one that is offered."""
        return Message.of("PresetSpread", devices=self.devices) if self.reason is None and self.devices > 1 else None


def built_in() -> tuple[Preset, ...]:
    """Return the presets of the package.

    Raises:
        ValueError: its file is broken.
    """
    found = read(BUILT_IN)
    if not isinstance(found, Good):
        raise ValueError(f"{BUILT_IN} is broken: {found}")
    return found.value


def load(data: str | os.PathLike[str]) -> tuple[tuple[Preset, ...], Message | None]:
    """Return the presets of the package and of the data directory, and what is wrong with the latter's file.

    A broken file counts as none. A preset whose id is repeated is replaced where it stood, others follow.
    """
    found = read(os.path.join(data, NAME))
    match found:
        case Good(own):
            presets = {preset.id: preset for preset in (*built_in(), *own)}
            return tuple(presets.values()), None
        case Missing():
            return built_in(), None
        case Broken(message) | Empty(message):
            return built_in(), message


def read(path: str) -> Good[tuple[Preset, ...]] | Missing | Empty | Broken:
    """Return the presets in the file at `path`, or the first thing that is wrong with it."""
    content = read_object(path)
    if not isinstance(content, Good):
        return content
    shape = shaped(path, content.value, Presets)
    if isinstance(shape, Broken):
        return shape
    presets = tuple(shape.value.presets)
    for field, expected in _wrong(presets):
        return Broken(Message.of("PresetInvalid", file=path, field=field, expected=expected))
    return Good(presets)


def fit(
    presets: Iterable[Preset], capacity: Capacity, exists: Callable[[str], bool] = lambda _: True
) -> tuple[Offer, ...]:
    """Return what becomes of each preset on a machine; `exists` says whether it has a file of this path."""
    return tuple(_fit(preset, capacity, exists) for preset in presets)


def default(offers: Sequence[Offer]) -> str:
    """Return the id of what to select unless somebody chooses: the first preset that fits, else custom arguments."""
    return next((offer.preset.id for offer in offers if offer.reason is None), CUSTOM)


def _fit(preset: Preset, capacity: Capacity, exists: Callable[[str], bool]) -> Offer:
    def refused(id_: str, model: str | None = None, **params: str | int) -> Offer:
        return Offer(preset, model, (), None, 1, Message.of(id_, **params))

    if capacity.tier is None:
        return refused("PresetHardwareUnknown")
    if capacity.tier not in TIERS:
        return refused("PresetNeedsGpu")
    config = preset.configs.get(capacity.tier)
    if config is None:
        return refused("PresetOtherHardware", tier=capacity.tier)
    if capacity.tier == "amd" and not capacity.fp8 and _FP8.search(" ".join(config.args)):
        return refused("PresetNeedsFp8", config.model)
    needs = config.min_memory_gb
    if capacity.memory is None:
        return refused("PresetMemoryUnknown", config.model, needs=needs)
    possible = [ways for ways in WAYS if ways <= capacity.devices] or [1]
    for devices in possible:
        memory = capacity.memory * devices
        if needs <= memory:
            if missing := [path for path in config.files if not exists(path)]:
                return refused("PresetNeedsFile", config.model, path=missing[0])
            context = config.context(memory)
            return Offer(preset, config.model, config.arguments(context, devices), context, devices, None)
    if capacity.devices > 1:
        has, used = capacity.memory * possible[-1], possible[-1]
        return refused(
            "PresetNeedsMemoryOfSeveral", config.model, needs=needs, has=has, used=used, devices=capacity.devices
        )
    return refused("PresetNeedsMemory", config.model, needs=needs, has=capacity.memory)


def _wrong(presets: Sequence[Preset]) -> Iterable[tuple[str, str]]:
    """Yield each field that breaks a rule, and what it must be."""
    seen: set[str] = set()
    for number, preset in enumerate(presets):
        at = f"presets[{number}]"
        if not _ID.fullmatch(preset.id):
            yield f"{at}.id", "small letters, digits, dots, dashes and underscores, at most 64 of them"
        if preset.id == CUSTOM or preset.id in seen:
            yield f"{at}.id", f"another than {preset.id}, which is taken"
        seen.add(preset.id)
        if not preset.display_name.strip() or not preset.display_name.isprintable():
            yield f"{at}.displayName", "a name that can be seen"
        for tier, config in preset.configs.items():
            if tier not in TIERS:
                yield f"{at}.configs", f"an object with no other keys than {', '.join(TIERS)}"
            yield from _wrong_configuration(f"{at}.configs.{tier}", config)


def _wrong_configuration(at: str, config: Configuration) -> Iterable[tuple[str, str]]:
    from vllm_fsm import command_line, flags

    if not config.args or not config.args[0].strip() or config.args[0].startswith("-"):
        yield f"{at}.args[0]", "the model's name"
    for found in reserved(config.args):
        yield f"{at}.args[{found.places[0]}]", f"something else than {found.name}, which is reserved for the service"
    line = command_line.read(config.args, flags.load())
    for name in _FROM_MEMORY:
        given = line.last(name)
        if given is not None:
            yield f"{at}.args[{given.place.index}]", f"something else than {name}, which follows from the memory"
    if not 1 <= config.min_memory_gb <= MEMORY_MOST:
        yield f"{at}.minMemoryGB", f"from 1 to {MEMORY_MOST}"
    before = None
    for number, step in enumerate(config.context_by_memory):
        step_at = f"{at}.contextByMemory[{number}]"
        if not 1 <= step.ctx <= CONTEXT_MOST:
            yield f"{step_at}.ctx", f"from 1 to {CONTEXT_MOST}"
        if before is None and not 1 <= step.gb <= config.min_memory_gb:
            yield f"{step_at}.gb", f"from 1 to minMemoryGB, which is {config.min_memory_gb}"
        if before is not None and not before.gb < step.gb <= MEMORY_MOST:
            yield f"{step_at}.gb", f"more than {before.gb}, the one before"
        if before is not None and step.ctx < before.ctx:
            yield f"{step_at}.ctx", f"at least {before.ctx}, the one before"
        before = step
