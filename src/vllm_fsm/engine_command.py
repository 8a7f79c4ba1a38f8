"""The engine's command line and environment, from what is wanted: pure functions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from vllm_fsm.arguments import SERVED_MODEL_NAME, names_served_model, reserved_name
from vllm_fsm.config import MODELS
from vllm_fsm.core.snapshot import Target

KERNELS = os.path.join("cache", "vllm")
"""Compiled kernels and graphs; may be deleted at any time."""


ENGINE_SIDE = os.path.join(os.path.dirname(__file__), "engine_side")
"""Where the engine's interpreter finds what is ours in it."""
GUARD = "vllm_fsm_guard.KeyEverywhere"


def argv(
    target: Target,
    *,
    command: Sequence[str],
    host: str,
    port: int,
    data: Path,
    offline: bool = False,
    guard_all: bool = False,
) -> tuple[str, ...]:
    """Return the engine's argument vector. Our flags come last: vLLM 0.32 takes the last of equal flags.

    `guard_all`: the key is asked for everywhere, by a middleware of ours that comes before the user's.

    With the hub switched off (`offline`) vLLM 0.32 replaces the model's name by the path of its snapshot, in
    `/v1/models` too (`engine/arg_utils.py`): the name is given as the served one, unless the user gives another.
    """
    named = offline and not names_served_model(target.arguments)
    name = (SERVED_MODEL_NAME, target.model) if named else ()
    guard = ("--middleware", GUARD) if guard_all else ()
    fixed = ("--host", host, "--port", str(port), "--download-dir", str(data / MODELS))
    return (*command, "serve", *target.arguments, *name, *guard, *fixed)


def environment(
    base: Mapping[str, str],
    target: Target,
    *,
    data: Path,
    tmpdir: str,
    offline: bool = False,
    guard_all: bool = False,
) -> dict[str, str]:
    """Return the engine's environment, made from `base`, which is our own.

    The store may replace the defaults, that the hub is switched off (`offline`) among them; VLLM_CACHE_ROOT may come
    from our own environment as well. The API key is in the environment only, since every user of the machine can read
    the command line.
    """
    # What the store may not set is not inherited from our own environment either.
    inherited = {name: value for name, value in base.items() if not reserved_name(name)}
    defaults = {"PYTHONUNBUFFERED": "1", "HF_HUB_VERBOSITY": "info", **({"HF_HUB_OFFLINE": "1"} if offline else {})}
    wanted = {name: value for name, value in target.environment if not reserved_name(name)}
    fixed = {"HF_HUB_CACHE": str(data / MODELS), "VLLM_API_KEY": target.key.reveal(), "TMPDIR": tmpdir}
    made = {"VLLM_CACHE_ROOT": str(data / KERNELS), **inherited, **defaults, **wanted, **fixed}
    if guard_all:
        made["PYTHONPATH"] = os.pathsep.join(filter(None, (ENGINE_SIDE, made.get("PYTHONPATH"))))
    return made
