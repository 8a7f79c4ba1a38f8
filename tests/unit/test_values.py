"""Events and effects are values, those without fields of their own too."""

import inspect
from dataclasses import FrozenInstanceError, fields

import pytest

from vllm_fsm.core import effects as fx
from vllm_fsm.core import events as ev

KINDS = [
    kind
    for module, root in ((ev, ev.Event), (fx, fx.Effect))
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, root)
]


def made(kind):
    return kind(*range(len(fields(kind))))


@pytest.mark.parametrize("kind", KINDS)
def test_equal_means_the_same_kind_with_the_same_fields(kind):
    value = made(kind)
    assert (value, hash(value)) == (made(kind), hash(made(kind)))
    assert [other for other in KINDS if made(other) == value] == [kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_repr_makes_it_again(kind):
    assert eval(repr(made(kind)), vars(ev) | vars(fx)) == made(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_can_be_changed_or_added(kind):
    value = made(kind)
    for name in (*(field.name for field in fields(kind)), "other"):
        with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
            setattr(value, name, 1)
    assert not hasattr(value, "__dict__")
