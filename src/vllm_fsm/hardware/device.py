"""One accelerator, as it is shown: what it is, what it is good for, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_fsm.core.snapshot import Message
    from vllm_fsm.hardware.tiers import Tier

GIB = 1 << 30


class Vendor(StrEnum):
    """Who made it."""

    NVIDIA = "nvidia"
    AMD = "amd"


class Kind(StrEnum):
    """Whose its memory is."""

    DEDICATED = "dedicated"
    UNIFIED = "unified"
    """The system's."""
    MIG = "mig"
    """A part of a card, with its part of the card's memory."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device that vLLM could be given: a card, a die of a card, or a MIG instance."""

    vendor: Vendor
    index: int
    """Its number as NVML counts cards, by PCI address, and as ROCm counts agents, by KFD node; from 0. MIG instances
    have that of their card."""
    uuid: str | None
    name: str
    target: str | None
    """Compute capability, like 8.9, or gfx target; None when it could not be read."""
    kind: Kind
    memory: int | None
    """Bytes; of a unified device, the system's. None when it could not be read."""
    memory_gib: int | None
    """What presets count with: dedicated memory to the nearest GiB, system memory rounded down."""
    tier: Tier | None
    """None when it cannot be used."""
    fp8: bool
    """Whether it calculates in FP8."""
    reasons: tuple[Message, ...]
    """Why it has this tier, or none, and what else should be known."""
    broken: bool = False
    """Whether it did not answer for itself."""
    card: str | None = None
    """UUID of the card that a MIG instance is a part of."""
    instance: tuple[int, int] | None = None
    """GPU instance and compute instance of a MIG instance."""
    mig_index: int | None = None
    """Number of a MIG instance on its card."""
    hidden: str | None = None
    """The variable that hides it from vLLM."""
    chosen: bool = False

    @property
    def equal(self) -> tuple[object, ...]:
        """What devices must have in common to serve one model together."""
        return (self.vendor, self.kind, self.name, self.target, self.memory_gib)

    @property
    def number(self) -> str:
        """How it is counted in a list: `0`, and `0:1` for a MIG instance."""
        return f"{self.index}" if self.mig_index is None else f"{self.index}:{self.mig_index}"
