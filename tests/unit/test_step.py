"""The promises about states, one story each."""

from dataclasses import replace

import pytest

from support.story import CRASH, FULL, HUB_DOWN, KEY, MISSED, OTHER_KEY, TAKEN, WRONG, Story, target
from vllm_fsm.core import effects as fx
from vllm_fsm.core import events as ev
from vllm_fsm.core.machine import step
from vllm_fsm.core.snapshot import Finding, Message, Progress, Secret, Stretch
from vllm_fsm.core.states import Download, Engine, Phase

# --- from nothing to Ready ---------------------------------------------------------------------------------------


def test_nothing_is_wanted_at_first():
    story = Story()
    assert story.state == "NoModel"
    assert story.wants(None).effects == ()


def test_a_cached_model_is_started_and_proven():
    story = Story().wants(target())
    assert story.state == "Loading"
    assert story.the(fx.CheckWeights).target == target()
    assert story.happens(ev.WeightsComplete).the(fx.StartEngine) == fx.StartEngine(1, target())
    story.happens(ev.EngineStarted, 77)
    assert story.the(fx.StartProbes) == fx.StartProbes(1, target(), 77, story.now + 2100.0)
    story.wait(20).happens(ev.ProbePassed)
    assert story.state == "Ready"
    assert story.the(fx.WatchLiveness).epoch == 1
    assert story.snapshot.timers == ()


def test_missing_weights_are_downloaded_before_the_start():
    story = Story().wants(target()).happens(ev.WeightsMissing)
    assert story.state == "Downloading"
    assert story.does(fx.StartDownload)
    half = Progress("org/one", 50, 100)
    assert story.happens(ev.DownloadProgressed, half).snapshot.progress == half
    assert story.happens(ev.WeightsComplete).does(fx.StartEngine)
    assert story.state == "Loading"
    assert story.snapshot.progress is None


def test_phases_are_noted_until_ready():
    story = Story().loading()
    began = story.now
    story.wait(5.0).happens(ev.PhaseEntered, Phase.WEIGHTS, Message.of("PhaseWeights"))
    story.wait(1.0).happens(ev.PhaseEntered, Phase.WEIGHTS, Message.of("Weights", done=3, total=8))
    assert story.snapshot.phase == Stretch(Phase.WEIGHTS, began + 5.0, Message.of("Weights", done=3, total=8))
    story.happens(ev.PhaseEntered, Phase.CONFIGURATION, Message.of("PhaseConfiguration"))
    assert story.snapshot.phase.phase is Phase.WEIGHTS, "a slower process is not followed"
    story.wait(2.0).happens(ev.ProbePassed)
    assert story.snapshot.phase is None
    assert [stretch.phase for stretch in story.snapshot.phases] == [Phase.IMPORTS, Phase.WEIGHTS, Phase.READY]
    before = story.snapshot
    assert story.happens(ev.PhaseEntered, Phase.LISTENING, Message.of("PhaseListening")).snapshot is before


def test_a_second_notice_of_the_start_changes_nothing():
    story = Story().loading()
    before = story.snapshot
    assert story.happens(ev.EngineStarted, 77).snapshot is before


# --- what is wanted changes --------------------------------------------------------------------------------------


def test_the_same_again_restarts_nothing():
    story = Story().ready()
    before = story.snapshot
    assert story.wants(target()).snapshot is before
    assert story.effects == ()


def test_other_arguments_stop_the_engine_first():
    story = Story().ready().wants(target("org/one", "--seed", "1"))
    assert story.state == "Ready"
    story.happens(ev.WeightsComplete)
    assert story.state == "Loading"
    assert story.does(fx.TerminateEngine)
    assert not story.does(fx.StartEngine)
    story.happens(ev.EngineExited, 0, CRASH)
    assert story.does(fx.ConfirmVacancy)
    assert not story.does(fx.StartEngine)
    story.happens(ev.EngineVacated)
    assert story.the(fx.StartEngine).target.arguments == ("org/one", "--seed", "1")
    assert story.snapshot.crashes == ()


def test_a_new_key_restarts_the_running_model_at_once():
    story = Story().ready().wants(target(key=OTHER_KEY))
    assert story.state == "Loading"
    assert story.does(fx.TerminateEngine)
    assert not story.does(fx.CheckWeights)
    story.happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated)
    assert story.the(fx.StartEngine).target.key == OTHER_KEY


def test_a_new_key_while_the_next_model_downloads_keeps_the_download():
    story = Story().swapping().wants(target("org/two", key=OTHER_KEY))
    assert story.state == "Downloading"
    assert story.snapshot.download is Download.RUNNING
    assert not story.does(fx.CancelDownload)
    story.happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated)
    assert story.the(fx.StartEngine).target == target("org/one", key=OTHER_KEY)
    assert story.happens(ev.EngineStarted, 78).happens(ev.ProbePassed).state == "Ready"


def test_a_new_key_with_another_model_replaces_both():
    story = Story().ready().wants(target("org/two", key=OTHER_KEY))
    assert story.state == "Loading"
    assert story.does(fx.TerminateEngine)
    assert story.does(fx.CheckWeights)
    story.happens(ev.WeightsComplete).happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated)
    assert story.the(fx.StartEngine).target == target("org/two", key=OTHER_KEY)


def test_back_to_what_runs_with_a_new_key_restarts_it_once_and_looks_for_nothing():
    story = Story().swapping().wants(target(key=OTHER_KEY))
    assert story.does(fx.CancelDownload)
    assert not story.does(fx.CheckWeights)
    assert story.snapshot.download is Download.IDLE
    assert not story.snapshot.pending
    story.happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated)
    assert story.the(fx.StartEngine).target == target(key=OTHER_KEY)


def test_a_new_key_while_loading_restarts_with_it():
    story = Story().loading().wants(target(key=OTHER_KEY))
    assert story.does(fx.TerminateEngine)
    story.happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated)
    assert story.the(fx.StartEngine).target.key == OTHER_KEY


def test_a_new_key_while_waiting_for_weights_is_used_by_the_start():
    story = Story().wants(target()).happens(ev.WeightsMissing).wants(target(key=OTHER_KEY))
    assert story.state == "Downloading"
    assert story.happens(ev.WeightsComplete).the(fx.StartEngine).target.key == OTHER_KEY


def test_the_old_model_serves_until_the_next_one_is_there():
    story = Story().swapping()
    assert story.state == "Ready"
    assert story.does(fx.StartDownload)
    assert not story.does(fx.TerminateEngine)
    assert story.happens(ev.WeightsComplete).does(fx.TerminateEngine)


def test_immediate_swap_stops_at_once():
    story = Story(swap_after_download=False).ready().wants(target("org/two"))
    assert story.state == "Loading"
    assert story.does(fx.TerminateEngine)
    assert story.does(fx.CheckWeights)


def test_a_change_of_mind_and_back_restarts_nothing():
    story = Story().swapping().wants(target())
    assert story.state == "Ready"
    assert story.does(fx.CancelDownload)
    assert not story.does(fx.TerminateEngine)


def test_a_second_change_of_mind_cancels_the_first_download():
    story = Story().swapping().wants(target("org/three"))
    assert story.state == "Ready"
    assert story.does(fx.CancelDownload)
    assert story.the(fx.CheckWeights).target.model == "org/three"


def test_clearing_the_selection_is_seen_at_once():
    story = Story().ready().wants(None)
    assert story.state == "NoModel"
    assert story.does(fx.TerminateEngine)
    assert story.snapshot.engine is Engine.TERMINATING
    story.happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated)
    assert story.snapshot.engine is Engine.ABSENT
    assert not story.does(fx.StartEngine)


def test_unusable_arguments_are_refused():
    story = Story().wants(target(problem=WRONG))
    assert story.state == "Failed"
    assert story.snapshot.finding == WRONG
    assert story.effects == ()
    assert story.happens(ev.RetryRequested).state == "Failed"


def test_unusable_arguments_keep_what_serves():
    story = Story().ready().wants(target("--oops", problem=WRONG))
    assert story.state == "Ready"
    assert story.snapshot.next_problem == WRONG
    assert not story.does(fx.TerminateEngine)
    assert story.wants(target()).snapshot.next_problem is None


def test_changes_during_a_stop_leave_only_the_last():
    story = Story().ready()
    for number in range(5):
        story.wants(target("org/one", "--seed", str(number))).happens(ev.WeightsComplete)
    story.happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated)
    assert story.the(fx.StartEngine).target.arguments == ("org/one", "--seed", "4")
    assert story.snapshot.epoch == 2


def test_a_change_while_the_engine_is_being_executed_ends_it_at_birth():
    story = Story().wants(target()).happens(ev.WeightsComplete).wants(target("org/two"))
    assert not story.does(fx.TerminateEngine)
    story.happens(ev.WeightsComplete).happens(ev.EngineStarted, 77)
    assert story.does(fx.KillSession)
    assert not story.does(fx.StartProbes)


def test_a_change_while_a_start_fails_begins_the_next():
    story = Story().wants(target()).happens(ev.WeightsComplete).wants(target("org/two")).happens(ev.WeightsComplete)
    story.happens(ev.StartFailed, CRASH)
    assert story.the(fx.StartEngine).target.model == "org/two"


# --- failures ----------------------------------------------------------------------------------------------------


def test_an_engine_that_ends_after_ready_is_restarted_at_once_even_with_code_0():
    story = Story().ready().wait(30).happens(ev.EngineExited, 0, CRASH)
    assert story.state == "Loading"
    assert story.does(fx.ConfirmVacancy)
    assert not story.does(fx.StartEngine)
    assert story.happens(ev.EngineVacated).does(fx.StartEngine)


def test_later_crashes_wait_and_then_rest():
    story = Story().loading()
    story.crashes()
    for _ in range(4):
        story.happens(ev.EngineStarted, 78).crashes()
        assert story.state == "Loading"
        assert not story.does(fx.StartEngine)
        story.fires(ev.RestartDue)
        assert story.does(fx.StartEngine)
    story.happens(ev.EngineStarted, 79).crashes()
    assert story.state == "Failed"
    due = story.snapshot.due(ev.RestartDue)
    assert due == story.now + 900.0
    assert story.fires(ev.RestartDue).does(fx.StartEngine)
    assert story.state == "Loading"
    assert story.happens(ev.EngineStarted, 80).crashes().state == "Failed"


def test_a_permanent_failure_waits_for_the_user():
    story = Story().loading().crashes(WRONG)
    assert story.state == "Failed"
    assert story.snapshot.timers == ()
    story.happens(ev.RetryRequested).happens(ev.WeightsComplete)
    assert story.does(fx.StartEngine)


def test_a_failure_that_is_worth_one_more_try_gets_one():
    story = Story().loading().crashes(FULL)
    assert story.does(fx.StartEngine)
    assert not story.snapshot.finding.permanent
    story.happens(ev.EngineStarted, 78).crashes(FULL)
    assert story.state == "Failed"
    assert story.snapshot.finding.permanent
    assert story.snapshot.timers == ()
    story.happens(ev.RetryRequested).happens(ev.WeightsComplete)
    assert story.the(fx.StartEngine).epoch == 3
    story.happens(ev.EngineStarted, 79).crashes(FULL)
    assert story.does(fx.StartEngine)


def test_one_more_try_is_given_again_after_another_choice_and_to_what_has_served():
    story = Story().loading().crashes(FULL).wants(target("org/two")).happens(ev.WeightsComplete)
    story.happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated).happens(ev.EngineStarted, 78).crashes(FULL)
    assert story.does(fx.StartEngine)
    story.happens(ev.EngineStarted, 79).happens(ev.ProbePassed).crashes(FULL)
    assert story.state == "Loading"


def test_a_retry_does_not_wait_for_the_delay():
    story = Story().loading().crashes().happens(ev.EngineStarted, 78).crashes()
    assert story.happens(ev.RetryRequested).does(fx.StartEngine)
    assert story.happens(ev.RetryRequested).effects == ()


def test_the_deadline_is_failed_but_the_engine_may_still_come():
    story = Story().loading().fires(ev.DeadlinePassed)
    assert story.state == "Failed"
    assert story.snapshot.finding == Finding.of("StartupTimeout", minutes=35)
    assert story.snapshot.engine is Engine.ALIVE
    assert not story.does(fx.StopProbes)
    assert story.wait(3600).happens(ev.ProbePassed).state == "Ready"


def test_the_deadline_is_told_as_it_was_set():
    assert dict(Story(startup_timeout=90.0).loading().fires(ev.DeadlinePassed).snapshot.finding.message.params) == {
        "minutes": 1.5
    }


def test_a_retry_after_the_deadline_stops_the_late_engine_first():
    story = Story().loading().fires(ev.DeadlinePassed).happens(ev.RetryRequested)
    assert story.state == "Loading"
    assert story.does(fx.TerminateEngine)


def test_a_late_engine_that_ends_is_tried_again():
    story = Story().loading().fires(ev.DeadlinePassed).crashes()
    assert story.state == "Loading"
    assert story.does(fx.StartEngine)


def test_a_dead_engine_behind_a_living_server_is_killed_and_restarted():
    story = Story().ready().happens(ev.EngineDead, Finding.of("EngineDead"))
    assert story.state == "Loading"
    assert story.does(fx.KillSession)
    story.happens(ev.EngineExited, -9, CRASH)
    assert len(story.snapshot.crashes) == 1
    assert story.happens(ev.EngineVacated).does(fx.StartEngine)


def test_an_unresponsive_engine_gets_a_last_chance():
    story = Story().ready().happens(ev.EngineStuck)
    assert story.state == "Ready"
    story.happens(ev.EngineStuck)
    assert story.state == "Failed"
    assert story.snapshot.finding.reason == "EngineUnresponsive"
    assert story.snapshot.engine is Engine.ALIVE
    assert story.happens(ev.EngineStuck).state == "Failed"
    assert story.happens(ev.EngineStepped).state == "Ready"
    assert story.snapshot.timers == ()


def test_an_unresponsive_engine_is_restarted_after_that():
    story = Story().ready().happens(ev.EngineStuck).happens(ev.EngineStuck).fires(ev.UnresponsiveDue)
    assert story.state == "Loading"
    assert story.does(fx.TerminateEngine)
    story.happens(ev.EngineExited, 0, CRASH)
    assert story.happens(ev.EngineVacated).does(fx.StartEngine)


def test_one_strike_is_forgotten_when_the_engine_answers():
    story = Story().ready().happens(ev.EngineStuck).happens(ev.EngineStepped).happens(ev.EngineStuck)
    assert story.state == "Ready"


def test_a_taken_port_is_named_and_watched():
    story = Story().wants(target()).happens(ev.WeightsComplete).happens(ev.StartFailed, TAKEN)
    assert story.state == "Failed"
    assert story.snapshot.finding == TAKEN
    assert story.fires(ev.RestartDue).does(fx.CheckPort)
    story.happens(ev.PortTaken, TAKEN)
    assert story.state == "Failed"
    assert story.fires(ev.RestartDue).happens(ev.PortFree).does(fx.StartEngine)
    assert story.state == "Loading"
    assert story.snapshot.crashes == ()


def test_a_stolen_port_is_never_ready():
    story = Story().ready().happens(ev.PortTaken, TAKEN)
    assert story.state == "Failed"
    assert story.does(fx.TerminateEngine)
    story.happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated)
    assert not story.does(fx.StartEngine)
    assert story.fires(ev.RestartDue).does(fx.CheckPort)


# --- the stop ladder ---------------------------------------------------------------------------------------------


def test_an_engine_that_was_not_ready_is_asked_twice_and_then_killed():
    story = Story().loading().wants(None)
    assert story.does(fx.TerminateEngine)
    assert story.fires(ev.NudgeDue).does(fx.TerminateEngine)
    assert story.fires(ev.GraceExpired).does(fx.KillSession)
    assert story.fires(ev.GraceExpired).does(fx.KillSession)
    story.happens(ev.EngineExited, -9, CRASH)
    assert story.snapshot.timers == ()


def test_a_ready_engine_is_asked_once():
    assert Story().ready().wants(None).snapshot.due(ev.NudgeDue) is None


def test_vacancy_is_confirmed_again_when_an_effect_fails():
    story = Story().ready().wants(None).happens(ev.EngineExited, 0, CRASH)
    story.happens(ev.EffectFailed, story.the(fx.ConfirmVacancy), CRASH)
    assert story.fires(ev.RepeatDue).does(fx.ConfirmVacancy)


def test_probing_begins_anew_when_it_failed_in_itself():
    story = Story().loading()
    story.happens(ev.EffectFailed, fx.StartProbes(1, target(), 77, 0.0), CRASH).fires(ev.RepeatDue)
    assert story.the(fx.StartProbes).deadline == 1000.0 + 2100.0
    story.happens(ev.ProbePassed).happens(ev.EffectFailed, fx.WatchLiveness(1), CRASH)
    assert story.fires(ev.RepeatDue).does(fx.WatchLiveness)


def test_a_failed_effect_before_the_process_exists_is_left_to_its_start():
    story = Story().wants(target()).happens(ev.WeightsComplete).happens(ev.EffectFailed, fx.StopProbes(1), CRASH)
    assert story.fires(ev.RepeatDue).effects == ()


def test_nothing_starts_while_the_last_engine_is_terminating():
    story = Story().ready().wants(None).wants(target("org/two")).happens(ev.WeightsComplete)
    assert story.state == "Loading"
    assert not story.does(fx.StartEngine)
    story.happens(ev.EngineExited, 0, CRASH)
    assert not story.does(fx.StartEngine)
    assert story.happens(ev.EngineVacated).does(fx.StartEngine)


# --- downloads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        (ev.WeightsComplete, ()),
        (ev.WeightsMissing, ()),
        (ev.DownloadFailed, (HUB_DOWN,)),
        (ev.DownloadFailed, (Finding.of("DiskFull", permanent=True),)),
    ],
)
def test_that_a_look_takes_long_is_told_while_it_lasts(event, fields):
    story = Story().wants(target())
    assert story.snapshot.due(ev.LookOverdue) == story.now + story.snapshot.settings.look
    assert story.happens(event, *fields).snapshot.due(ev.LookOverdue) is None
    story = Story().wants(target()).fires(ev.LookOverdue)
    assert story.state == "Loading"
    assert story.wants(None).snapshot.due(ev.LookOverdue) is None


def test_a_failed_attempt_is_repeated_as_the_hub_asks():
    story = Story().wants(target()).happens(ev.WeightsMissing).happens(ev.DownloadFailed, HUB_DOWN, 120.0)
    assert story.state == "Downloading"
    assert story.snapshot.due(ev.DownloadRetryDue) == story.now + 120.0
    assert story.fires(ev.DownloadRetryDue).does(fx.StartDownload)


def test_a_retry_does_not_wait_for_the_next_attempt():
    story = Story().wants(target()).happens(ev.WeightsMissing).happens(ev.DownloadFailed, HUB_DOWN)
    assert story.happens(ev.RetryRequested).does(fx.StartDownload)
    assert story.happens(ev.RetryRequested).effects == ()


def test_a_download_is_given_up_after_many_attempts_and_tried_slowly():
    story = Story().wants(target()).happens(ev.WeightsMissing)
    for _ in range(9):
        story.happens(ev.DownloadFailed, HUB_DOWN).fires(ev.DownloadRetryDue)
    story.happens(ev.DownloadFailed, HUB_DOWN)
    assert story.state == "Failed"
    assert story.snapshot.finding == HUB_DOWN
    assert story.fires(ev.RestartDue).does(fx.CheckWeights)
    assert story.state == "Loading"


def test_a_download_that_cannot_succeed_waits_for_the_user():
    story = Story().wants(target()).happens(ev.WeightsMissing).happens(ev.DownloadFailed, WRONG)
    assert story.state == "Failed"
    assert story.snapshot.timers == ()


def test_bytes_renew_the_patience():
    story = Story().wants(target()).happens(ev.WeightsMissing)
    for _ in range(30):
        story.happens(ev.DownloadFailed, HUB_DOWN, 0.0, True).fires(ev.DownloadRetryDue)
    assert story.state == "Downloading"


def test_bytes_shorten_the_delay_too():
    story = Story().wants(target()).happens(ev.WeightsMissing)
    for _ in range(6):
        story.happens(ev.DownloadFailed, HUB_DOWN).fires(ev.DownloadRetryDue)
    story.happens(ev.DownloadFailed, HUB_DOWN, 0.0, True)
    assert story.snapshot.due(ev.DownloadRetryDue) - story.now < 3.0


def test_what_serves_goes_on_when_the_next_cannot_be_had():
    story = Story().swapping().happens(ev.DownloadFailed, WRONG)
    assert story.state == "Ready"
    assert story.snapshot.next_problem == WRONG
    assert story.happens(ev.RetryRequested).does(fx.CheckWeights)
    assert story.snapshot.next_problem is None


def test_the_next_model_is_looked_for_again_while_the_earlier_one_serves():
    story = Story().swapping()
    for _ in range(10):
        story.happens(ev.DownloadFailed, HUB_DOWN)
        if story.snapshot.due(ev.DownloadRetryDue):
            story.fires(ev.DownloadRetryDue)
    assert story.snapshot.next_problem == HUB_DOWN
    story.fires(ev.NextDue)
    assert story.state == "Ready"
    assert story.does(fx.CheckWeights)
    assert story.wants(target()).snapshot.timers == ()


def test_the_next_model_is_looked_for_again_while_the_earlier_one_is_restarted():
    story = Story().swapping()
    for _ in range(10):
        story.happens(ev.DownloadFailed, HUB_DOWN)
        if story.snapshot.due(ev.DownloadRetryDue):
            story.fires(ev.DownloadRetryDue)
    story.crashes()
    assert story.state == "Loading"
    assert story.fires(ev.NextDue).does(fx.CheckWeights)
    story.happens(ev.EngineStarted, 78).crashes(WRONG)
    assert story.state == "Failed"
    assert story.happens(ev.WeightsComplete).the(fx.StartEngine).target == target("org/two")


@pytest.mark.parametrize(
    ("story", "timer"),
    [(Story().swapping(), ev.NextDue), (Story().wants(target()).happens(ev.WeightsMissing), ev.RestartDue)],
)
def test_a_hub_that_asks_for_more_time_gets_it_when_the_download_is_given_up_too(story, timer):
    for _ in range(9):
        story.happens(ev.DownloadFailed, HUB_DOWN).fires(ev.DownloadRetryDue)
    story.happens(ev.DownloadFailed, HUB_DOWN, 3600.0)
    assert story.snapshot.due(timer) == story.now + 3600.0


def test_a_failed_attempt_says_nothing_about_the_engine():
    story = Story().swapping().happens(ev.PortTaken, TAKEN).happens(ev.EngineExited, 0, CRASH)
    story.happens(ev.EngineVacated).fires(ev.RestartDue).happens(ev.DownloadFailed, HUB_DOWN)
    assert story.snapshot.finding == TAKEN
    assert story.snapshot.fetch_finding == HUB_DOWN
    assert story.happens(ev.PortFree).does(fx.StartEngine)


def test_the_port_is_not_looked_at_while_our_own_engine_may_hold_it():
    for story in (Story().ready(), Story().swapping()):
        story.happens(ev.PortTaken, TAKEN).fires(ev.RestartDue)
        assert story.effects == (fx.ArmTimer(ev.RestartDue, story.now + 5.0),)


def test_an_immediate_swap_waits_for_no_restart_either():
    story = Story(swap_after_download=False).ready().wants(target("--oops", problem=WRONG)).crashes()
    assert story.state == "Loading"
    assert story.wants(target("org/two")).snapshot.active is None


def test_a_second_unusable_edit_spares_the_engine_as_the_first_did():
    story = Story().ready().wants(target("--oops", problem=WRONG)).crashes()
    story.wants(target("--worse", problem=WRONG))
    assert story.state == "Loading"
    assert story.happens(ev.EngineStarted, 78).happens(ev.ProbePassed).state == "Ready"


def test_a_waiting_download_of_the_next_model_can_be_hurried():
    story = Story().swapping().happens(ev.DownloadFailed, HUB_DOWN)
    assert story.state == "Ready"
    assert story.happens(ev.RetryRequested).does(fx.StartDownload)
    assert story.happens(ev.RetryRequested).effects == ()


def test_a_crash_beside_a_download_restarts_what_served():
    story = Story().swapping().happens(ev.EngineExited, 1, CRASH)
    assert story.state == "Downloading"
    story.happens(ev.EngineVacated)
    assert story.the(fx.StartEngine).target == target()
    assert story.happens(ev.EngineStarted, 78).happens(ev.ProbePassed).state == "Ready"


def test_a_second_crash_beside_a_download_waits_and_starts_again():
    story = Story().swapping().crashes().happens(ev.EngineStarted, 78).crashes()
    assert story.state == "Downloading"
    assert not story.does(fx.StartEngine)
    assert story.fires(ev.RestartDue).the(fx.StartEngine).target == target()
    assert story.state == "Downloading"


def test_when_the_download_fails_meanwhile_the_earlier_model_goes_on():
    story = Story().swapping().crashes().happens(ev.DownloadFailed, WRONG)
    assert story.state == "Loading"
    assert story.happens(ev.EngineStarted, 78).happens(ev.ProbePassed).state == "Ready"
    assert story.snapshot.next_problem == WRONG


@pytest.mark.parametrize("problem", [HUB_DOWN, WRONG])
def test_an_earlier_model_that_waits_for_the_port_comes_back_when_the_download_is_given_up(problem):
    story = Story(download_tries=1).swapping().happens(ev.PortTaken, TAKEN).happens(ev.EngineExited, 0, CRASH)
    story.happens(ev.EngineVacated).fires(ev.RestartDue).happens(ev.PortTaken, TAKEN)
    assert story.happens(ev.DownloadFailed, problem).state == "Failed"
    assert (story.snapshot.finding, story.snapshot.next_problem) == (TAKEN, problem)
    story.fires(ev.RestartDue).happens(ev.PortFree)
    assert story.the(fx.StartEngine).target == target()
    assert story.happens(ev.EngineStarted, 78).happens(ev.ProbePassed).state == "Ready"
    assert story.snapshot.next_problem == problem


def test_an_earlier_model_whose_port_is_being_looked_at_comes_back_when_the_download_is_given_up():
    story = Story().swapping().happens(ev.PortTaken, TAKEN).happens(ev.EngineExited, 0, CRASH)
    assert story.happens(ev.EngineVacated).fires(ev.RestartDue).does(fx.CheckPort)
    assert story.happens(ev.DownloadFailed, WRONG).state == "Failed"
    assert story.happens(ev.PortFree).the(fx.StartEngine).target == target()


def test_an_earlier_model_that_rests_is_tried_again_when_the_download_is_given_up():
    story = Story(restart_intensity=1).swapping().crashes().happens(ev.EngineStarted, 78).crashes()
    assert story.snapshot.resting
    assert story.happens(ev.DownloadFailed, WRONG).state == "Failed"
    assert story.fires(ev.RestartDue).the(fx.StartEngine).target == target()


def test_a_late_earlier_engine_stays_when_the_download_is_given_up():
    story = Story().swapping().crashes().happens(ev.EngineStarted, 78).fires(ev.DeadlinePassed)
    assert story.state == "Downloading"
    assert story.happens(ev.DownloadFailed, WRONG).state == "Failed"
    assert story.snapshot.finding.reason == "StartupTimeout"
    assert story.happens(ev.ProbePassed).state == "Ready"


def test_an_unresponsive_engine_beside_a_download():
    story = Story().swapping().happens(ev.EngineStuck).happens(ev.EngineStuck)
    assert story.state == "Downloading"
    assert story.happens(ev.EngineStepped).state == "Ready"
    story.happens(ev.EngineStuck).happens(ev.EngineStuck).fires(ev.UnresponsiveDue)
    assert story.state == "Downloading"
    story.happens(ev.EngineExited, 0, CRASH)
    assert story.happens(ev.EngineVacated).does(fx.StartEngine)


def test_back_to_an_unresponsive_engine_beside_a_download_begins_anew():
    story = Story().swapping().happens(ev.EngineStuck).happens(ev.EngineStuck).wants(target())
    assert story.state == "Loading"
    assert story.does(fx.TerminateEngine)
    assert story.does(fx.CheckWeights)


def test_a_taken_port_beside_a_download():
    story = Story().swapping().happens(ev.PortTaken, TAKEN)
    assert story.state == "Downloading"
    story.happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated)
    assert story.fires(ev.RestartDue).does(fx.CheckPort)
    assert story.happens(ev.PortTaken, TAKEN).state == "Downloading"
    assert story.fires(ev.RestartDue).happens(ev.PortFree).does(fx.StartEngine)


def test_a_third_choice_while_the_first_restarts_beside_a_download():
    story = Story().swapping().crashes().wants(target("org/three"))
    assert story.state == "Loading"
    assert story.the(fx.CheckWeights).target.model == "org/three"
    assert not story.does(fx.TerminateEngine)
    assert story.happens(ev.WeightsMissing).state == "Downloading"
    assert story.wants(target()).state == "Loading"
    assert story.snapshot.download is Download.IDLE


# --- the hub switched off ---------------------------------------------------------------------------------------


def test_a_complete_cache_starts_the_engine_with_the_hub_switched_off():
    story = Story().wants(target()).happens(ev.WeightsComplete, True)
    assert story.the(fx.StartEngine) == fx.StartEngine(1, target(), offline=True)


def test_a_file_that_was_missed_is_looked_for_with_the_hub_once():
    story = Story().wants(target()).happens(ev.WeightsComplete, True).happens(ev.EngineStarted, 77)
    story.happens(ev.EngineExited, 1, MISSED)
    assert story.state == "Loading"
    assert story.happens(ev.EngineVacated).the(fx.StartEngine) == fx.StartEngine(2, target(), offline=False)
    story.happens(ev.EngineStarted, 78).happens(ev.EngineExited, 1, MISSED).happens(ev.EngineVacated)
    assert story.snapshot.due(ev.RestartDue) is not None, "the second time it is a failure like any other"


def test_later_starts_of_the_same_keep_to_what_worked():
    story = Story().wants(target()).happens(ev.WeightsComplete, True).happens(ev.EngineStarted, 77)
    story.happens(ev.EngineExited, 1, MISSED).happens(ev.EngineVacated).happens(ev.EngineStarted, 78)
    story.wait(20).happens(ev.ProbePassed).wait(700).crashes()
    assert story.the(fx.StartEngine).offline is False


def test_a_restart_after_a_crash_needs_no_hub_either():
    story = Story().wants(target()).happens(ev.WeightsComplete, True).happens(ev.EngineStarted, 77)
    assert story.wait(20).happens(ev.ProbePassed).crashes().the(fx.StartEngine).offline is True


def test_what_a_person_should_know_of_a_start_is_kept_with_it():
    note = Message.of("FetchedByEngine", model="org/one", what="s3://x")
    story = Story().wants(target()).happens(ev.WeightsComplete, False, note)
    assert story.snapshot.note == note
    assert story.wants(None).snapshot.note is None


def test_the_attempts_are_counted_for_the_message():
    story = Story(download_tries=3).wants(target()).happens(ev.WeightsMissing)
    for _ in range(2):
        story.happens(ev.DownloadFailed, HUB_DOWN).fires(ev.DownloadRetryDue)
    assert story.happens(ev.DownloadFailed, HUB_DOWN).state == "Failed"
    assert story.snapshot.fetch_tries == 3
    assert story.fires(ev.RestartDue).snapshot.fetch_tries == 0


def test_the_attempts_of_a_download_that_is_not_wanted_any_more_are_forgotten():
    story = Story().swapping()
    for _ in range(3):
        story.happens(ev.DownloadFailed, HUB_DOWN).fires(ev.DownloadRetryDue)
    assert story.wants(target()).snapshot.fetch_tries == 0
    given_up = Story(download_tries=2).swapping()
    given_up.happens(ev.DownloadFailed, HUB_DOWN).fires(ev.DownloadRetryDue).happens(ev.DownloadFailed, HUB_DOWN)
    assert given_up.snapshot.fetch_tries == 2
    assert given_up.wants(target()).snapshot.fetch_tries == 0


def test_an_end_that_is_told_twice_counts_once():
    story = Story(download_tries=2).wants(target()).happens(ev.WeightsMissing).happens(ev.DownloadFailed, HUB_DOWN)
    before = story.snapshot
    story.happens(ev.DownloadFailed, HUB_DOWN)
    assert story.state == "Downloading"
    assert story.snapshot.dropped == before.dropped + 1


# --- the end -----------------------------------------------------------------------------------------------------


def test_an_idle_controller_ends_at_once():
    assert Story().happens(ev.StopRequested).the(fx.Exit) == fx.Exit(0)


def test_a_controller_ends_when_nothing_of_the_engine_is_left():
    story = Story().ready().happens(ev.StopRequested)
    assert story.state == "Failed"
    assert story.snapshot.finding.reason == "Stopping"
    assert story.does(fx.TerminateEngine)
    assert not story.happens(ev.EngineExited, 0, CRASH).does(fx.Exit)
    assert story.wants(target("org/two")).effects == ()
    assert story.happens(ev.EngineVacated).the(fx.Exit) == fx.Exit(0)


def test_asked_twice_it_waits_no_longer():
    story = Story().ready().happens(ev.StopRequested).happens(ev.StopRequested)
    assert story.does(fx.KillSession)


def test_asked_twice_while_the_engine_is_being_executed():
    story = Story().wants(target()).happens(ev.WeightsComplete).happens(ev.StopRequested).happens(ev.StopRequested)
    assert story.does(fx.KillSession)
    assert story.happens(ev.EngineStarted, 77).does(fx.KillSession)


def test_a_stop_gives_up_an_execution_that_hangs():
    story = Story().wants(target()).happens(ev.WeightsComplete).happens(ev.StopRequested)
    assert story.does(fx.KillSession)
    assert story.happens(ev.StartFailed, CRASH).does(fx.Exit)


def test_a_stop_waits_for_no_gpu_memory():
    story = Story().ready().happens(ev.StopRequested).happens(ev.EngineExited, 0, CRASH)
    assert story.the(fx.ConfirmVacancy).memory_wait == 0.0
    waiting = Story().ready().wants(None).happens(ev.EngineExited, 0, CRASH)
    assert waiting.the(fx.ConfirmVacancy).memory_wait == 15.0
    waiting.happens(ev.StopRequested).happens(ev.StopRequested)
    assert waiting.the(fx.ConfirmVacancy).memory_wait == 0.0


def test_asked_twice_after_the_selection_was_cleared():
    story = Story().ready().wants(None).happens(ev.StopRequested)
    assert story.state == "NoModel"
    assert story.happens(ev.StopRequested).does(fx.KillSession)


# --- what comes too late -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        ev.ProbePassed(0.0, 1),
        ev.EngineExited(0.0, 1, 1, CRASH),
        ev.WeightsComplete(0.0, 1),
        ev.DeadlinePassed(0.0, 3100.0),
    ],
)
def test_what_belongs_to_the_past_is_dropped_and_counted(event):
    story = Story().ready().wants(None).happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated)
    story.loading(target("org/two"))
    before = story.snapshot
    story.feed(event)
    assert story.effects == ()
    assert story.snapshot.dropped == before.dropped + 1
    assert story.snapshot.state is before.state


def test_a_probe_that_passes_during_a_stop_is_no_readiness():
    story = Story().loading().wants(target("org/two")).happens(ev.ProbePassed)
    assert story.state == "Loading"
    assert story.snapshot.dropped == 1


def test_what_is_told_about_an_engine_that_is_gone_is_dropped():
    story = Story().ready().wants(None).happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated)
    assert story.happens(ev.EngineExited, 0, CRASH).snapshot.dropped == 1


# --- warnings and secrets ----------------------------------------------------------------------------------------


def test_warnings_change_no_state():
    warning = Message.of("FileEmpty", file="store.json")
    story = Story().ready().happens(ev.WarningsChanged, (warning,))
    assert story.state == "Ready"
    assert story.snapshot.warnings == (warning,)
    before = story.snapshot
    assert story.happens(ev.WarningsChanged, (warning,)).snapshot is before


def test_no_secret_is_shown():
    story = Story().ready()
    assert KEY.reveal() not in repr(story.snapshot) + repr(story.effects) + str(KEY) + f"{KEY}"
    assert len({KEY, Secret("a" * 22), OTHER_KEY}) == 2


def test_an_ignored_event_changes_nothing():
    story = Story().ready()
    snapshot, effects = step(story.snapshot, ev.PortFree(story.now, 1))
    assert snapshot is story.snapshot
    assert effects == ()


# --- a start that stands still -----------------------------------------------------------------------------------


def pulses(story: Story, moved: bool, times: int) -> Story:
    """Let the engine be looked at so many times."""
    for _ in range(times):
        story.fires(ev.PulseDue)
        assert story.does(fx.TakePulse)
        story.happens(ev.PulseTaken, moved, "the last line")
    return story


def test_a_start_that_moves_is_left_alone_however_long_it_takes():
    story = pulses(Story().loading(), True, 200)
    assert story.state == "Loading"
    assert story.snapshot.engine is Engine.ALIVE


def test_a_start_that_stands_still_is_ended_with_its_phase_and_tried_again():
    story = Story(silence=60.0).loading().happens(ev.PhaseEntered, Phase.WEIGHTS, Message.of("PhaseWeights"))
    pulses(story, True, 1)
    pulses(story, False, 3)
    assert story.snapshot.engine is Engine.ALIVE
    pulses(story, False, 1)
    assert story.does(fx.KillSession)
    assert story.state == "Loading"
    hung = Finding.of("EngineHung", evidence="the last line", phase="Weights", minutes=1)
    assert story.snapshot.finding == hung
    story.happens(ev.EngineExited, -9, CRASH).happens(ev.EngineVacated)
    assert story.the(fx.StartEngine).epoch == 2
    assert story.snapshot.finding == hung, "what ended it is not what made us end it"


def test_a_start_that_hangs_again_is_given_up():
    story = Story(silence=60.0)
    pulses(story.loading(), False, 4).happens(ev.EngineExited, -9, CRASH).happens(ev.EngineVacated)
    pulses(story.happens(ev.EngineStarted, 78), False, 4)
    assert story.state == "Failed"
    assert story.snapshot.finding.permanent
    assert story.does(fx.KillSession)
    assert story.snapshot.due(ev.RestartDue) is None


def test_a_hang_that_takes_longer_than_the_window_is_no_new_one():
    story = Story(silence=1000.0)
    pulses(story.loading(), False, 67).happens(ev.EngineExited, -9, CRASH).happens(ev.EngineVacated)
    assert pulses(story.happens(ev.EngineStarted, 78), False, 67).state == "Failed"


def test_a_compiler_may_be_silent_for_longer():
    story = Story(silence=60.0).loading()
    pulses(story.happens(ev.PhaseEntered, Phase.COMPILATION, Message.of("PhaseCompilation")), False, 11)
    assert story.snapshot.engine is Engine.ALIVE
    assert pulses(story, False, 1).snapshot.engine is Engine.TERMINATING


def test_after_the_deadline_a_start_may_go_on_but_not_stand_still():
    story = Story(silence=60.0).loading().fires(ev.DeadlinePassed)
    pulses(story, True, 1)
    assert story.state == "Failed"
    assert pulses(story, False, 4).state == "Loading"
    assert story.does(fx.KillSession)


def test_an_earlier_engine_that_stands_still_beside_a_download_is_started_again():
    story = Story(silence=60.0).swapping().crashes().happens(ev.EngineStarted, 78)
    assert story.state == "Downloading"
    assert pulses(story, False, 4).state == "Downloading"
    assert story.does(fx.KillSession)
    story.happens(ev.EngineExited, -9, CRASH).happens(ev.EngineVacated).fires(ev.RestartDue)
    assert story.the(fx.StartEngine).target == target()


def test_an_engine_that_serves_is_not_asked_whether_it_moves():
    story = Story(silence=60.0).loading().fires(ev.PulseDue).happens(ev.ProbePassed)
    before = story.snapshot
    assert story.happens(ev.PulseTaken, False).snapshot is before
    assert story.snapshot.due(ev.PulseDue) is None


# --- the last good engine ----------------------------------------------------------------------------------------


def last_good(**settings) -> Story:
    """`org/one` was ready; `org/two` was chosen since, and its engine is executed."""
    story = Story(fallback=True, **settings).ready().wants(target("org/two")).happens(ev.WeightsComplete)
    return story.happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated).happens(ev.EngineStarted, 78)


def test_without_the_setting_nothing_falls_back():
    story = Story().ready().wants(target("org/two")).happens(ev.WeightsComplete)
    story.happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated).happens(ev.EngineStarted, 78).crashes(WRONG)
    assert story.state == "Failed"


def test_what_was_ready_last_is_served_when_the_next_one_cannot_start():
    story = last_good().crashes(WRONG)
    assert story.state == "Loading"
    assert story.the(fx.StartEngine).target == target()
    assert story.snapshot.fallen_back
    story.happens(ev.EngineStarted, 79).happens(ev.ProbePassed)
    assert story.state == "Ready"
    assert story.snapshot.next_problem == WRONG
    assert story.snapshot.target == target("org/two"), "what is wanted stays what the files say"
    assert story.snapshot.timers == (), "a permanent failure is not tried again by itself"


def test_a_transient_failure_is_no_reason_to_fall_back():
    story = last_good().crashes()
    assert story.the(fx.StartEngine).target == target("org/two")
    assert not story.snapshot.fallen_back


def test_what_fails_once_more_falls_back_then():
    story = last_good().crashes(FULL)
    assert story.the(fx.StartEngine).target == target("org/two")
    assert story.happens(ev.EngineStarted, 79).crashes(FULL).the(fx.StartEngine).target == target()


def test_a_start_that_hangs_again_falls_back():
    story = pulses(last_good(silence=60.0), False, 4).happens(ev.EngineExited, -9, CRASH).happens(ev.EngineVacated)
    pulses(story.happens(ev.EngineStarted, 79), False, 4)
    assert story.does(fx.KillSession)
    assert story.happens(ev.EngineExited, -9, CRASH).happens(ev.EngineVacated).the(fx.StartEngine).target == target()


def test_weights_that_cannot_be_had_fall_back_when_nothing_serves():
    gone = Finding.of("ModelNotFound", permanent=True, repo="org/two")
    story = Story(fallback=True, swap_after_download=False).ready().wants(target("org/two"))
    story.happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated)
    assert story.happens(ev.WeightsMissing).state == "Downloading"
    assert story.happens(ev.DownloadFailed, gone).state == "Loading"
    assert story.the(fx.StartEngine).target == target()
    assert story.snapshot.next_problem == gone


def test_a_check_that_fails_for_good_falls_back_when_nothing_serves():
    gone = Finding.of("GatedRepo", permanent=True, repo="org/two")
    story = Story(fallback=True, swap_after_download=False).ready().wants(target("org/two"))
    story.happens(ev.DownloadFailed, gone).happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated)
    assert story.the(fx.StartEngine).target == target()


@pytest.mark.parametrize("state", ["Loading", "Downloading", "Failed"])
def test_unusable_arguments_fall_back_when_nothing_serves(state):
    story = Story(fallback=True, swap_after_download=False).ready().wants(target("org/two"))
    story.happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated)
    if state == "Downloading":
        story.happens(ev.WeightsMissing)
    elif state == "Failed":
        story.happens(ev.WeightsComplete).happens(ev.StartFailed, TAKEN)
    assert story.state == state
    story.wants(target("--oops", problem=WRONG))
    assert story.state == "Loading"
    assert story.snapshot.target.problem == WRONG
    assert story.the(fx.StartEngine).target == target()


def test_what_was_ready_last_is_not_started_twice():
    story = Story(fallback=True).ready().crashes().happens(ev.EngineStarted, 78)
    assert story.wants(target("--oops", problem=WRONG)).state == "Loading"
    assert story.snapshot.fallen_back
    assert not story.does(fx.TerminateEngine)
    assert story.happens(ev.ProbePassed).state == "Ready"


def test_a_late_engine_that_ends_for_good_falls_back():
    story = last_good().fires(ev.DeadlinePassed)
    assert story.state == "Failed"
    assert story.crashes(WRONG).the(fx.StartEngine).target == target()


def test_a_start_that_is_refused_for_good_falls_back():
    gone = Finding.of("EngineNotFound", permanent=True, command="vllm")
    story = Story(fallback=True).ready().wants(target("org/two")).happens(ev.WeightsComplete)
    story.happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated).happens(ev.StartFailed, gone)
    assert story.the(fx.StartEngine).target == target()


def test_a_late_engine_that_hangs_again_falls_back():
    story = pulses(last_good(silence=60.0, startup_timeout=90.0), False, 4)
    story.happens(ev.EngineExited, -9, CRASH).happens(ev.EngineVacated)
    story.happens(ev.EngineStarted, 79).fires(ev.DeadlinePassed)
    assert story.state == "Failed"
    assert pulses(pulses(story, True, 1), False, 4).state == "Loading"
    assert story.snapshot.fallen_back


def test_a_late_engine_that_hangs_again_is_given_up():
    story = pulses(Story(silence=60.0, startup_timeout=90.0).loading(), False, 4).happens(ev.EngineExited, -9, CRASH)
    story.happens(ev.EngineVacated).happens(ev.EngineStarted, 79).fires(ev.DeadlinePassed)
    assert pulses(pulses(story, True, 1), False, 4).state == "Failed"
    assert story.does(fx.KillSession)


def test_the_fallback_has_the_key_in_force():
    story = last_good().wants(target("org/two", key=OTHER_KEY)).happens(ev.EngineExited, 0, CRASH)
    story.happens(ev.EngineVacated).happens(ev.EngineStarted, 79).crashes(WRONG)
    assert story.the(fx.StartEngine).target == target(key=OTHER_KEY)


def test_a_fallback_that_fails_for_good_is_the_end():
    story = last_good().crashes(WRONG).happens(ev.EngineStarted, 79).crashes(WRONG)
    assert story.state == "Failed"
    assert story.snapshot.last_good is None
    assert story.wants(target("--oops", problem=WRONG)).state == "Failed"


def test_a_change_of_the_files_ends_the_fallback():
    story = last_good().crashes(WRONG).happens(ev.EngineStarted, 79).happens(ev.ProbePassed)
    story.wants(target("org/three"))
    assert story.state == "Ready"
    assert not story.snapshot.fallen_back
    assert story.happens(ev.WeightsComplete).snapshot.active == target("org/three")


def test_the_files_may_ask_for_what_the_fallback_serves():
    story = last_good().crashes(WRONG).happens(ev.EngineStarted, 79).happens(ev.ProbePassed).wants(target())
    assert story.state == "Ready"
    assert not story.snapshot.fallen_back
    assert story.snapshot.next_problem is None


def test_a_retry_tries_what_is_wanted_beside_the_fallback():
    story = last_good().crashes(WRONG).happens(ev.EngineStarted, 79).happens(ev.ProbePassed)
    assert story.happens(ev.RetryRequested).the(fx.CheckWeights).target == target("org/two")


def test_a_cleared_selection_forgets_what_was_ready():
    story = Story(fallback=True).ready().wants(None)
    story.happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated)
    assert story.wants(target("--oops", problem=WRONG)).state == "Failed"
    story.loading(target("org/two")).crashes(WRONG)
    assert story.state == "Failed"
    assert not story.does(fx.StartEngine)


def test_what_was_ready_last_is_no_fallback_of_itself():
    story = Story(fallback=True).ready().crashes(WRONG).happens(ev.EngineStarted, 78).crashes(WRONG)
    assert story.state == "Failed"
    assert not story.does(fx.StartEngine)
    assert not story.snapshot.fallen_back


def test_what_was_ready_with_another_key_is_no_fallback_of_itself():
    story = Story(fallback=True).ready().wants(target(key=OTHER_KEY)).happens(ev.EngineExited, 0, CRASH)
    story.happens(ev.EngineVacated).happens(ev.EngineStarted, 78).crashes(WRONG)
    assert story.state == "Failed"
    assert not story.does(fx.StartEngine)
    assert not story.snapshot.fallen_back


# --- a dead engine is explained by its output ----------------------------------------------------------------------


@pytest.mark.parametrize("state", ["Loading", "Downloading", "Failed"])
def test_why_an_engine_died_is_told_as_soon_as_it_is_known(state):
    dead = Finding.of("EngineDead")
    story = Story(restart_intensity=0 if state == "Failed" else 5).ready()
    if state == "Downloading":
        story.wants(target("org/two")).happens(ev.WeightsMissing)
    assert story.happens(ev.EngineDead, dead).state == state
    story.happens(ev.EngineExited, -9, replace(FULL, permanent=True))
    assert story.state == state
    assert story.snapshot.finding == FULL
    assert story.snapshot.causes == (FULL.reason,)


def test_a_dead_engine_that_said_nothing_stays_dead():
    story = Story().ready().happens(ev.EngineDead, Finding.of("EngineDead"))
    story.happens(ev.EngineExited, -9, Finding.of("EngineStopped"))
    assert story.snapshot.finding.reason == "EngineDead"


def test_an_engine_that_dies_of_the_same_cause_for_good_once_more_is_given_up():
    story = Story().ready().happens(ev.EngineDead, Finding.of("EngineDead")).happens(ev.EngineExited, -9, WRONG)
    assert story.state == "Loading"
    assert not story.snapshot.finding.permanent
    story.happens(ev.EngineVacated).happens(ev.EngineStarted, 78).happens(ev.ProbePassed)
    story.happens(ev.EngineDead, Finding.of("EngineDead")).happens(ev.EngineExited, -9, WRONG)
    assert story.state == "Failed"
    assert story.snapshot.finding == WRONG
    assert story.snapshot.due(ev.RestartDue) is None
    assert not story.happens(ev.EngineVacated).does(fx.StartEngine)


@pytest.mark.parametrize("needed", ["7.2.0", ".", "9" * 400, "-1", "nan"])
def test_nonsense_about_gpu_memory_is_waited_for_by_nobody(needed):
    busy = Finding.of("GpuBusy", free="3.21", total="23.65", needed=needed)
    assert Story().loading().crashes(busy).the(fx.StartEngine).memory_needed == 0.0


def test_a_hang_of_another_month_is_forgotten_when_the_key_was_changed_since():
    story = pulses(Story(silence=60.0).loading(), False, 4).happens(ev.EngineExited, -9, CRASH)
    story.happens(ev.EngineVacated).happens(ev.EngineStarted, 78).happens(ev.ProbePassed).wait(1e6)
    story.wants(target(key=OTHER_KEY)).happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated)
    pulses(story.happens(ev.EngineStarted, 79), False, 4)
    assert story.state == "Loading"
    assert not story.snapshot.finding.permanent


def test_a_hang_of_another_month_is_forgotten_when_the_port_was_taken_since():
    story = pulses(Story(silence=60.0).loading(), False, 4).happens(ev.EngineExited, -9, CRASH)
    story.happens(ev.EngineVacated).happens(ev.EngineStarted, 78).happens(ev.ProbePassed).wait(1e6)
    story.happens(ev.PortTaken, TAKEN).happens(ev.EngineExited, 0, CRASH).happens(ev.EngineVacated)
    story.fires(ev.RestartDue).happens(ev.PortFree)
    pulses(story.happens(ev.EngineStarted, 79), False, 4)
    assert story.state == "Loading"


def test_time_in_which_the_controller_stood_still_too_is_no_silence():
    story = pulses(Story(silence=60.0).loading(), True, 1)
    due = story.snapshot.due(ev.PulseDue)
    story.now = due + 400.0
    story.feed(ev.PulseDue(story.now, due)).happens(ev.PulseTaken, False)
    assert story.snapshot.engine is Engine.ALIVE
    assert pulses(story, False, 3).snapshot.engine is Engine.TERMINATING


def test_a_phase_that_is_told_before_the_start_is_known_keeps_the_order():
    story = Story().wants(target()).happens(ev.WeightsComplete)
    began = story.now
    story.happens(ev.PhaseEntered, Phase.WEIGHTS, Message.of("PhaseWeights")).wait(0.2).happens(ev.EngineStarted, 77)
    assert [(one.phase, one.since) for one in story.snapshot.phases] == [
        (Phase.IMPORTS, began),
        (Phase.WEIGHTS, began),
    ]


def test_an_unusable_edit_while_the_fallback_starts_keeps_it():
    story = last_good().crashes(WRONG).happens(ev.EngineStarted, 79)
    story.wants(target("--alas", problem=WRONG))
    assert story.state == "Loading"
    assert story.snapshot.fallen_back
    assert not story.does(fx.TerminateEngine)


def test_a_retry_while_the_fallback_starts_tries_what_is_wanted():
    story = last_good().crashes(WRONG).happens(ev.EngineStarted, 79)
    assert story.happens(ev.RetryRequested).the(fx.CheckWeights).target == target("org/two")


def test_gpu_memory_that_a_start_lacked_is_waited_for_before_the_next():
    busy = Finding.of("GpuBusy", free="3.21", total="23.65", needed="21.28")
    effect = Story().loading().crashes(busy).the(fx.StartEngine)
    assert (effect.memory_needed, effect.memory_wait) == (21.28, 15.0)
    effect = Story().loading().crashes(FULL).the(fx.StartEngine)
    assert (effect.memory_needed, effect.memory_wait) == (0.0, 15.0)
    effect = Story().loading().crashes().the(fx.StartEngine)
    assert (effect.memory_needed, effect.memory_wait) == (None, 0.0)
