"""The one reader of the inbox."""

import asyncio

import pytest

from support.story import target
from vllm_fsm import driver as module
from vllm_fsm.core import effects as fx
from vllm_fsm.core import events as ev
from vllm_fsm.core.snapshot import Snapshot
from vllm_fsm.driver import Driver, failure


def make(handlers=None):
    said = []
    driver = Driver(Snapshot(), lambda: 5.0, lambda event, **fields: said.append((event, fields)))
    done = []
    effects = [kind for kind in vars(fx).values() if isinstance(kind, type) and issubclass(kind, fx.Effect)]
    driver.handlers = dict.fromkeys(effects, done.append) | (handlers or {})
    return driver, done, said


def test_effects_go_to_their_handlers_in_order():
    driver, done, _ = make()
    driver.take(ev.WantedChanged(1.0, target()))
    driver.take(ev.WeightsComplete(1.0, 1))
    assert [type(effect) for effect in done] == [
        fx.CancelDownload,
        fx.CheckWeights,
        fx.ArmTimer,
        fx.StartEngine,
        fx.CancelTimer,
    ]


def test_it_runs_until_the_core_says_the_end():
    driver, _, _ = make()

    async def run():
        driver.post(ev.RetryRequested(1.0))
        driver.post(ev.StopRequested(1.0))
        return await driver.run()

    assert asyncio.run(run()) == 0


def broken(_effect):
    raise RuntimeError("no luck")


def test_an_effect_that_cannot_be_begun_comes_back_as_its_end():
    driver, _, said = make({fx.CheckWeights: broken})

    async def run():
        driver.take(ev.WantedChanged(1.0, target()))
        driver.settle()

    asyncio.run(run())
    assert said[0][0] == "effect-failed"
    assert driver.snapshot.fetch_tries == 1


EPOCH = [
    fx.TerminateEngine(3),
    fx.KillSession(3),
    fx.ConfirmVacancy(3, 1.0),
    fx.StartProbes(3, target(), 7, 0.0),
    fx.WatchLiveness(3),
]


@pytest.mark.parametrize("effect", EPOCH)
def test_failures_about_an_engine_carry_its_number(effect):
    event = failure(effect, OSError("x"), 5.0)
    assert isinstance(event, ev.EffectFailed)
    assert (event.epoch, event.effect) == (3, effect)


def test_failures_of_starts_and_fetches():
    assert isinstance(failure(fx.StartEngine(3, target()), OSError("x"), 5.0), ev.StartFailed)
    assert isinstance(failure(fx.StartDownload(3, target()), OSError("x"), 5.0), ev.DownloadFailed)
    assert failure(fx.StopProbes(3), OSError("x"), 5.0) is None
    assert failure(fx.TakePulse(3), OSError("x"), 5.0) == ev.PulseTaken(5.0, 3, moved=True)


def test_a_failing_observer_is_told_of_once_and_the_loop_goes_on():
    driver, _, said = make()
    seen = []

    def fails(*_):
        raise RuntimeError

    driver.observers = [fails, lambda *step: seen.append(step)]
    driver.take(ev.RetryRequested(1.0))
    driver.take(ev.RetryRequested(2.0))
    assert len(seen) == 2
    assert [event for event, _ in said] == ["observer-failed"]


def test_a_bug_in_a_decision_is_not_swallowed(monkeypatch):
    driver, _, _ = make()
    before = driver.snapshot

    def step(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(module, "step", step)
    with pytest.raises(ZeroDivisionError):
        driver.take(ev.RetryRequested(1.0))
    assert driver.snapshot is before
