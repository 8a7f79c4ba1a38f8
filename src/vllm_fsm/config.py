"""What a run is told: directories, engine, address, timeouts. Flags win over `VLLM_FSM_…` variables."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vllm_fsm import places
from vllm_fsm.core.snapshot import Settings

MODELS: Final = "models"
"""The HuggingFace cache, below the data directory."""
STATE: Final = places.STATE
"""Our own files, below the data directory."""

CORE: Final = Settings()
"""The numbers that the core decides by unless it is told others."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h)?", re.ASCII)
_LONGEST = 366 * 24 * 3600.0
"""Seconds; far more could not even be told as a time of day."""
_SECONDS = {None: 1.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that `vllm-fsm run` is told; times in seconds."""

    data: Path = Path(places.DATA)
    public: Path = Path(places.PUBLIC)
    run_dir: Path = Path(places.RUN_DIR)
    state_dir: Path | None = None
    engine: tuple[str, ...] = ("vllm",)
    host: str = "0.0.0.0"  # noqa: S104 - the service is meant for the network; the key guards it
    port: int = 8000
    startup_timeout: float = CORE.startup_timeout
    stop_timeout: float = CORE.stop_timeout
    stall_timeout: float = 60.0
    silence_timeout: float = CORE.silence
    fallback: str = "off"
    swap: str = "after-download"
    restart_first: float = CORE.restart_first
    restart_longest: float = CORE.restart_longest
    restart_reset: float = CORE.restart_reset
    restart_window: float = CORE.restart_window
    restart_intensity: int = CORE.restart_intensity
    slow_retry: float = CORE.slow_retry
    memory_wait: float = CORE.memory_wait
    xet: bool = False
    guard: str = "api"
    warm: str = "auto"
    log_format: str = "auto"

    @property
    def store(self) -> Path:
        """What to serve."""
        return self.data / "store.json"

    @property
    def credentials(self) -> Path:
        """The API key."""
        return self.public / "credentials.json"

    @property
    def models(self) -> Path:
        """The model cache."""
        return self.data / MODELS

    @property
    def state(self) -> Path:
        """History and attempt logs."""
        return self.state_dir or self.data / STATE

    def settings(self, seed: int) -> Settings:
        """Return the numbers that the core decides by."""
        return Settings(
            startup_timeout=self.startup_timeout,
            stop_timeout=self.stop_timeout,
            silence=self.silence_timeout,
            fallback=self.fallback == "last-good",
            swap_after_download=self.swap == "after-download",
            restart_first=self.restart_first,
            restart_longest=self.restart_longest,
            restart_reset=self.restart_reset,
            restart_window=self.restart_window,
            restart_intensity=self.restart_intensity,
            slow_retry=self.slow_retry,
            memory_wait=self.memory_wait,
            seed=seed,
        )


def duration(text: str) -> float:
    """Read a length of time as seconds: `90`, `90s`, `35m`, `35min`, `1.5h`.

    Raises:
        ValueError: it is none, not longer than nothing, or longer than a year.
    """
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 0.0 < seconds <= _LONGEST:
        raise ValueError(f"{text[:40]!r} is no length of time: write seconds, or a number with s, m or h, like 35m")
    return seconds


def written(value: str | float | bool | tuple[str, ...]) -> str:
    """Write a setting as `duration`, `switch`, `command` and `port` read it: seconds as whole minutes from two on."""
    match value:
        case bool():
            return "on" if value else "off"
        case float():
            return f"{value:g}s" if value < 120.0 or value % 60.0 else f"{value / 60.0:g}m"
        case tuple():
            return shlex.join(value)
        case _:
            return str(value)


def switch(text: str) -> bool:
    """Read `on` or `off`.

    Raises:
        ValueError: it is neither.
    """
    if text not in ("on", "off"):
        raise ValueError(f"{text!r} is neither on nor off")
    return text == "on"


def command(text: str) -> tuple[str, ...]:
    """Split an engine command as a shell does.

    Raises:
        ValueError: a quote is not closed, or nothing is left.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise ValueError(f"{text!r} cannot be split into words: {error}") from None
    if not words:
        raise ValueError("the engine command is empty")
    return words


def port(text: str) -> int:
    """Read a TCP port.

    Raises:
        ValueError: it is none.
    """
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise ValueError(f"{text!r} is no port: write a number from 1 to 65535")
    return int(text)
