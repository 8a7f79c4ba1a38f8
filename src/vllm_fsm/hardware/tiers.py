"""What a device is good for, from its compute capability or gfx target. The only place that knows these numbers."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

Capability = tuple[int, int]
"""Compute capability, major and minor."""


class Tier(StrEnum):
    """What the presets are made for."""

    BLACKWELL = "nvidia-blackwell"
    HOPPER = "nvidia-hopper"
    OLDER = "nvidia-older"
    AMD = "amd"
    CPU = "cpu"


FP8_FROM: Final[Capability] = (8, 9)
"""vLLM 0.32, `platforms/cuda.py`, `supports_fp8`."""

AMD_TARGETS: Final[dict[str, bool]] = {
    "gfx90a": False,
    "gfx942": True,
    "gfx950": True,
    "gfx1100": False,
    "gfx1101": False,
    "gfx1200": True,
    "gfx1201": True,
}
"""Discrete parts that vLLM's ROCm image is built for, and whether they calculate in FP8.

Source: `PYTORCH_ROCM_ARCH` in vLLM's `docker/Dockerfile.rocm_base`. vLLM says FP8 of gfx90a too (`platforms/rocm.py`,
`supports_fp8`), which has no units for it."""

AMD_APUS: Final = frozenset(
    {
        *("gfx902", "gfx909", "gfx90c", "gfx1013", "gfx1033", "gfx1035", "gfx1036", "gfx1037"),
        *("gfx1103", "gfx1150", "gfx1151", "gfx1152", "gfx1153"),
    }
)
"""Graphics units inside a processor (LLVM, "User Guide for AMDGPU Backend", processors of type APU). vLLM's image is
built for gfx1150 and gfx1151 as well; no preset was made for them."""

MI300A: Final = 0x74A0
"""PCI device of the one gfx942 that is a processor too: its memory is the system's (vLLM, `platforms/rocm.py`)."""

INTEGRATED: Final[frozenset[Capability]] = frozenset({(5, 3), (6, 2), (7, 2), (8, 7), (10, 1), (11, 0), (12, 1)})
"""Parts without memory of their own: Jetson TX1 to Orin, Thor (10.1 before CUDA 13, 11.0 since), GB10.
Source: the table of CUDA GPUs; what NVML says of their memory differs between drivers."""

TEGRA: Final[dict[str, Capability]] = {
    "nvidia,tegra194": (7, 2),
    "nvidia,tegra234": (8, 7),
    "nvidia,tegra264": (11, 0),
}
"""Systems on a chip by their device tree's `compatible`: NVML is missing on their older releases."""


def nvidia(capability: Capability) -> Tier | None:
    """Return the tier of a compute capability, None below 8.0."""
    major = capability[0]
    if major >= 10:
        return Tier.BLACKWELL
    return {9: Tier.HOPPER, 8: Tier.OLDER}.get(major)


def gfx(version: int) -> str | None:
    """Name the target of KFD's `gfx_target_version`; None for a node without one, such as a processor.

    The number is major * 10000 + minor * 100 + stepping; the name has minor and stepping as hexadecimal digits
    (90010 is gfx90a).
    """
    major, rest = divmod(version, 10000)
    minor, stepping = divmod(rest, 100)
    return f"gfx{major}{minor:x}{stepping:x}" if major else None
