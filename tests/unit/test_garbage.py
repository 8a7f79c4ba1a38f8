"""Circles of objects are freed, and modules are looked at once."""

import gc
import weakref

import pytest

from vllm_fsm.garbage import Garbage


class Circle:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def thaw():
    """What is set aside here is not aside for other tests; nothing is freed but by us."""
    gc.disable()
    yield
    gc.unfreeze()
    gc.enable()


def test_circles_are_freed_every_time() -> None:
    garbage = Garbage()
    for _ in range(3):
        circle = weakref.ref(Circle())
        assert circle() is not None
        garbage.collect()
        assert circle() is None


def test_what_is_there_at_first_is_not_looked_at_again() -> None:
    garbage = Garbage()
    garbage.collect()
    aside = gc.get_freeze_count()
    assert aside > 10_000
    garbage.collect()
    assert gc.get_freeze_count() == aside
    assert len(gc.get_objects()) < aside / 10
