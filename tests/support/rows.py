"""Which rows of the table are taken, counted where `transitions` takes them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vllm_fsm.core import table
from vllm_fsm.core.machine import MACHINES
from vllm_fsm.core.table import Row, trigger_name

TABLES: dict[str, list[Row]] = {"service": table.SERVICE, "engine": table.ENGINE, "download": table.DOWNLOAD}
EVERY_ROW: list[Row] = [row for rows in TABLES.values() for row in rows]


def shown(row: Row) -> str:
    """Name a row in one line."""
    guard = f" [{row.guard.__name__}]" if row.guard else ""
    return f"{row.source.value}: {trigger_name(row.trigger)}{guard} → {row.dest.value if row.dest else 'stays'}"


@contextmanager
def counting() -> Iterator[Counter[int]]:
    """Count how often each row is taken, by its place in `EVERY_ROW`, for as long as this lasts."""
    counts: Counter[int] = Counter()
    hooked: list[tuple[Any, Any]] = []
    number = 0
    for part, rows in TABLES.items():
        cells: dict[tuple[Any, str], Iterator[Any]] = {}
        for row in rows:
            cell = row.source, trigger_name(row.trigger)
            if cell not in cells:
                cells[cell] = iter(MACHINES[part].get_transitions(cell[1], row.source))
            transition = next(cells[cell])

            def taken(_turn: object, number: int = number) -> None:
                counts[number] += 1

            transition.add_callback("after", taken)
            hooked.append((transition, taken))
            number += 1
    try:
        yield counts
    finally:
        for transition, taken in hooked:
            transition.after.remove(taken)


def never_taken(counts: Counter[int]) -> list[Row]:
    """Return the rows that were not taken although they do something or decide among others."""
    alone: dict[tuple[Any, Any], int] = defaultdict(int)
    for row in EVERY_ROW:
        alone[row.source, row.trigger] += 1
    return [
        row
        for number, row in enumerate(EVERY_ROW)
        if not counts[number] and (row.dest or row.reaction or alone[row.source, row.trigger] > 1)
    ]
