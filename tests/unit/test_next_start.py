"""When the next start is prepared: while all is calm, or for one that comes soon."""

from __future__ import annotations

from support.story import CRASH, FULL, HUB_DOWN, WRONG, Story, target
from vllm_fsm.core import events as ev
from vllm_fsm.core.loading import loading
from vllm_fsm.core.next_start import calm, soon
from vllm_fsm.core.snapshot import Finding

ONE, TWO = target("org/one"), target("org/two")
ENDED = Finding.of("Ended")


def said(story: Story) -> tuple[bool, bool]:
    """Whether it is calm, and whether a start comes soon."""
    return calm(story.snapshot), soon(story.snapshot)


def test_it_is_calm_while_what_is_wanted_serves() -> None:
    story = Story()
    assert said(story) == (False, False)
    for event, fields in ((ev.WantedChanged, (ONE,)), (ev.WeightsComplete, ()), (ev.EngineStarted, (77,))):
        assert said(story.happens(event, *fields)) == (False, False)
    assert said(story.happens(ev.ProbePassed)) == (True, False)


def test_it_is_not_calm_while_another_model_is_on_its_way() -> None:
    story = Story(download_tries=1).ready(ONE)
    assert said(story.wants(TWO)) == (False, False)
    assert said(story.happens(ev.WeightsMissing)) == (False, False)
    assert said(story.happens(ev.DownloadFailed, HUB_DOWN)) == (False, False)
    assert said(story.wants(ONE)) == (True, False)


def test_it_is_not_calm_while_what_serves_is_not_what_is_wanted() -> None:
    assert said(Story().ready(ONE).wants(target("--oops", problem=WRONG))) == (False, False)


def test_an_engine_that_answers_nobody_is_no_calm() -> None:
    story = Story(unresponsive_strikes=1).ready().happens(ev.EngineStuck)
    assert said(story) == (False, False)
    assert said(story.happens(ev.EngineStepped)) == (True, False)


def test_a_start_comes_soon_while_the_last_engine_ends() -> None:
    story = Story().ready(ONE).wants(TWO).happens(ev.WeightsComplete)
    assert said(story) == (False, True)
    assert said(story.happens(ev.EngineExited, 0, ENDED)) == (False, True)
    assert said(story.happens(ev.EngineVacated)) == (False, False)


def test_a_crash_that_is_followed_by_a_start_at_once() -> None:
    assert said(Story().ready().happens(ev.EngineExited, 1, CRASH)) == (False, True)


def test_a_start_that_is_given_up_or_waits_for_its_time_does_not_come_soon() -> None:
    given_up = Finding.of(FULL.reason, permanent=True)
    assert said(Story().loading().happens(ev.EngineExited, 1, given_up)) == (False, False)
    later = Story().ready().crashes().happens(ev.EngineStarted, 78).happens(ev.EngineExited, 1, CRASH)
    assert later.snapshot.due(ev.RestartDue) is not None
    assert said(later) == (False, False)


def test_a_start_of_what_is_not_wanted_any_more_is_nothing_to_prepare_for() -> None:
    story = Story().swapping().happens(ev.EngineExited, 1, CRASH)
    assert loading(story.snapshot) == story.snapshot.active
    assert said(story) == (False, False)


def test_nothing_comes_after_the_end() -> None:
    assert said(Story().ready().happens(ev.StopRequested)) == (False, False)
    assert said(Story().ready().wants(None)) == (False, False)
