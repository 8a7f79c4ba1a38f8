"""What the bodies of the engine's answers mean. Pure; whatever comes in, nothing is raised."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, Final

Steps = tuple[float, ...]
"""What an engine that steps changes, see `steps`; compare with `==` only."""

_SIGNS: Final = (
    b"vllm:generation_tokens_total",
    b"vllm:prompt_tokens_total",
    b"vllm:kv_cache_usage_perc",
    b"vllm:num_requests_running",
    b"vllm:num_requests_waiting",
)
_SAMPLE: Final = re.compile(
    rb"^(%s)(?:\{(?:[^\"\n}]|\"(?:[^\"\\\n]|\\.)*\")*\})?[ \t]+([^\s]+)" % b"|".join(_SIGNS), re.MULTILINE
)


def steps(metrics: bytes) -> Steps | None:
    """Read from `/metrics` what moves when the engine steps, summed over labels; None if none of it is there.

    That is the two token counters, and three gauges that vLLM sets from the scheduler's report after a step and never
    otherwise (`vllm/v1/metrics/loggers.py`, `record`). The gauges matter while one long prompt is read in: for minutes
    no token is counted then, and the engine is anything but stuck. With `--disable-log-stats` none of them is there.
    """
    sums: dict[bytes, float] = {}
    for name, text in _SAMPLE.findall(metrics):
        try:
            value = float(text)
        except ValueError:
            continue
        if math.isfinite(value):
            sums[name] = sums.get(name, 0.0) + value
    return tuple(sums.get(name, 0.0) for name in _SIGNS) if sums else None


def listed_model(models: bytes, names: Sequence[str], model: str) -> str | None:
    """Return the id under which `/v1/models` lists what we asked for, None if it does not.

    That is one of `names` (what vLLM calls it when told so, else `model`), or a base model whose id or root is `model`
    or its snapshot in the cache, the path that vLLM puts in a hub id's place under `HF_HUB_OFFLINE`.
    """
    listed = _cards(models)
    for name in names:
        if any(card["id"] == name for card in listed):
            return name
    snapshot = f"/models--{model.replace('/', '--')}/snapshots/"
    for card in listed:
        for place in (card["id"], card.get("root")):
            # An adapter has a parent, and a root of its own.
            if isinstance(place, str) and (place == model or snapshot in place) and not card.get("parent"):
                identifier: str = card["id"]
                return identifier
    return None


def generated(completion: bytes) -> bool:
    """Tell whether this is a completion with at least one choice."""
    answer = _json(completion)
    return isinstance(answer, dict) and isinstance(answer.get("choices"), list) and bool(answer["choices"])


def _cards(models: bytes) -> list[dict[str, Any]]:
    answer = _json(models)
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        return []
    return [card for card in data if isinstance(card, dict) and isinstance(card.get("id"), str)]


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
