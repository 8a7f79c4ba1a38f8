"""From the engine's `listen()` to `success` in `health.json`, and how much of it the engine's own answers took."""

from __future__ import annotations

import json

import figure
from figure import Bound, Figure
from rig import LIMIT, Renames, Rig

SIZE = 50


def measure(size: int = SIZE) -> list[Figure]:
    """Start `size` engines that listen after a random time of 0.1 to 0.6 s."""
    whole: list[float] = []
    answers: list[float] = []
    with Rig() as rig:
        for number in range(size):
            renames = Renames(rig.run_dir)
            written = rig.edit(number, RUDE_LISTEN_AFTER=round(0.1 + 0.5 * rig.draw.random(), 4))
            rig.stamps.wait("exec", written, str(number))
            seen, attempt = _success(rig, renames, number)
            renames.close()
            whole.append(1e3 * (seen - rig.stamps.wait("listen", written, str(number))))
            answers.append(sum(rig.says("probe-passed", LIMIT, epoch=attempt)["answers"].values()))
    return rows("fake engine", whole, answers)


def _success(rig: Rig, renames: Renames, number: int) -> tuple[float, int]:
    """Return when the health file said `success` for the engine with `number`, and which start that was."""
    while True:
        seen = renames.wait()
        health = json.loads((rig.run_dir / "health.json").read_bytes())
        if health["result"] == "success" and str(number) in health["active"]["arguments"]:
            return seen, health["attempt"]


def rows(what: str, whole: list[float], answers: list[float]) -> list[Figure]:
    """Return the rows for one kind of engine, times in milliseconds."""
    beyond = [all_ - own for all_, own in zip(whole, answers, strict=True)]
    return [
        Figure(f"listening → success, {what}", "ms", whole),
        Figure("… of it the engine's own answers", "ms", answers),
        Figure("… beyond these", "ms", beyond, Bound("median", 50)),
    ]


if __name__ == "__main__":
    figure.main(measure, SIZE, "engine starts")
