"""How fast a download is and how long it takes: what is shown, and what means nothing."""

import pytest

from vllm_fsm.adapters.download.speed import SOONEST, Speed, time_left


def fed(*readings: tuple[float, int]) -> float | None:
    speed = Speed()
    for now, total in readings:
        speed.feed(now, total)
    return speed.value


def test_a_steady_speed_is_told_as_it_is():
    assert fed(*((second, 5000 * second) for second in range(10))) == pytest.approx(5000.0)


def test_too_little_is_known_at_first():
    assert fed() is None
    assert fed((100.0, 0)) is None
    assert fed((100.0, 0), (100.0 + SOONEST / 2, 5000)) is None


def test_it_follows_a_change_within_seconds():
    before = [(float(second), 1000 * second) for second in range(60)]
    after = [(60.0 + second, 60_000 + 9000 * second) for second in range(30)]
    assert 8000.0 < (fed(*before, *after) or 0.0) < 9000.0


def test_a_clock_that_stands_still_changes_nothing():
    assert fed((0.0, 0), (5.0, 5000), (5.0, 9000)) == fed((0.0, 0), (5.0, 5000))


@pytest.mark.parametrize(
    ("missing", "speed", "seconds"),
    [(1000, 10.0, 100.0), (0, 10.0, 0.0), (1000, None, None), (1000, 0.0, None), (10**11, 1e-9, None)],
)
def test_the_time_that_is_left(missing, speed, seconds):
    assert time_left(missing, speed) == seconds
