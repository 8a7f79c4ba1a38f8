"""Whose weights will be read in a moment."""

from __future__ import annotations

from support.story import CRASH, FULL, Story, target
from vllm_fsm.core import events as ev
from vllm_fsm.core.loading import loading
from vllm_fsm.core.snapshot import Finding, Message, Snapshot, Target
from vllm_fsm.core.states import Phase

ONE, TWO = target("org/one"), target("org/two")


def reading(story: Story) -> Target | None:
    return loading(story.snapshot)


def started(**settings: object) -> Story:
    story = Story(**settings).happens(ev.WantedChanged, ONE).happens(ev.WeightsComplete)
    return story.happens(ev.EngineStarted, 4242)


def ready() -> Story:
    return started().happens(ev.ProbePassed)


def test_nobody_s_at_first() -> None:
    assert loading(Snapshot()) is None
    assert reading(Story().happens(ev.WantedChanged, ONE)) is None


def test_a_start_until_its_weights_are_read() -> None:
    story = started()
    assert reading(story) == ONE
    for phase in (Phase.IMPORTS, Phase.CONFIGURATION, Phase.PROCESSES):
        assert reading(story.happens(ev.PhaseEntered, phase, Message.of("PhaseImports"))) == ONE
    for phase in (Phase.WEIGHTS, Phase.COMPILATION, Phase.MEMORY, Phase.GRAPHS, Phase.LISTENING):
        assert reading(story.happens(ev.PhaseEntered, phase, Message.of("PhaseImports"))) is None


def test_nothing_while_an_engine_serves() -> None:
    assert reading(ready()) is None


def test_a_wish_is_not_enough() -> None:
    story = ready().happens(ev.WantedChanged, TWO)
    assert reading(story) is None
    assert reading(story.happens(ev.WeightsMissing)) is None


def test_from_the_stop_of_the_last_engine_on() -> None:
    story = ready().happens(ev.WantedChanged, TWO).happens(ev.WeightsComplete)
    assert reading(story) == TWO
    assert reading(story.happens(ev.EngineExited, 0, Finding.of("Ended"))) == TWO
    assert reading(story.happens(ev.EngineVacated)) == TWO


def test_the_plain_swap_looks_first() -> None:
    story = Story(swap_after_download=False).happens(ev.WantedChanged, ONE).happens(ev.WeightsComplete)
    story.happens(ev.EngineStarted, 4242).happens(ev.ProbePassed).happens(ev.WantedChanged, TWO)
    assert reading(story) is None
    assert reading(story.happens(ev.WeightsComplete)) == TWO


def test_a_crash_that_is_followed_by_a_start_at_once() -> None:
    story = ready().happens(ev.EngineExited, 1, CRASH)
    assert story.snapshot.due(ev.RestartDue) is None
    assert reading(story) == ONE


def test_a_start_that_waits_for_its_time() -> None:
    story = started(restart_first=5.0)
    for _ in range(3):
        story.happens(ev.EngineExited, 1, CRASH)
        if story.snapshot.due(ev.RestartDue) is not None:
            break
        story.happens(ev.EngineVacated).happens(ev.EngineStarted, 4243)
    assert story.snapshot.due(ev.RestartDue) is not None
    assert reading(story) is None


def test_what_was_given_up() -> None:
    story = started().happens(ev.EngineExited, 1, Finding.of(FULL.reason, permanent=True))
    assert story.snapshot.failed
    assert reading(story) is None


def test_a_late_start_has_its_weights_before_it() -> None:
    story = started().fires(ev.DeadlinePassed)
    assert story.snapshot.failed
    assert reading(story) == ONE


def test_no_model_and_the_end() -> None:
    assert reading(ready().happens(ev.WantedChanged, None)) is None
    assert reading(ready().happens(ev.StopRequested)) is None
    assert reading(started().happens(ev.StopRequested)) is None
