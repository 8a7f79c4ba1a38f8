"""A few cycles of random acts on a real controller; `make chaos` runs a thousand, on a volume that fills up."""

from support.chaos import Chaos


def test_random_acts_end_as_the_files_ask():
    with Chaos(21) as chaos:
        for _ in range(8):
            chaos.turn()
