"""THE rows: every state meets every event, and every cell says why.

An event goes to the service machine first, which decides on what was true before it and may command the other two;
then the engine's machine and the download's take the event; then they take the commands. Within a cell the first row
whose guard holds is taken; the last row of a cell has no guard. A row without a destination stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from vllm_fsm.core import events as ev
from vllm_fsm.core import guards as if_
from vllm_fsm.core import reactions as do
from vllm_fsm.core.states import Download, Engine, Service
from vllm_fsm.core.turn import Command, Turn

State = Service | Engine | Download
Trigger = type[ev.Event] | Command
Guard = Callable[[Turn], bool]
Reaction = Callable[[Turn], None]


@dataclass(frozen=True, slots=True)
class Row:
    """In `source`, on `trigger`, if `guard` holds: do `reaction`, go to `dest` (None: stay)."""

    source: State
    trigger: Trigger
    guard: Guard | None
    dest: State | None
    reaction: Reaction | None
    why: str


def trigger_name(trigger: Trigger) -> str:
    """Name a trigger as the table, the log and `transitions` do."""
    return trigger.value if isinstance(trigger, Command) else trigger.__name__


def row(
    source: State,
    trigger: Trigger,
    guard: Guard | None,
    dest: State | None,
    reaction: Reaction | None,
    why: str,
) -> Row:
    """Make one row."""
    return Row(source, trigger, guard, None if dest is source else dest, reaction, why)


def ignore(source: State, triggers: Iterable[Trigger], why: str) -> list[Row]:
    """Say no to `triggers`, with the reason."""
    return [Row(source, trigger, None, None, None, why) for trigger in triggers]


NO_MODEL, DOWNLOADING, LOADING, READY, FAILED = Service
ABSENT, ALIVE, TERMINATING = Engine
IDLE, CHECKING, RUNNING, WAITING = Download

SERVICE_TRIGGERS: Final[tuple[Trigger, ...]] = (
    ev.WantedChanged,
    ev.RetryRequested,
    ev.StopRequested,
    ev.WeightsComplete,
    ev.WeightsMissing,
    ev.DownloadFailed,
    ev.StartFailed,
    ev.EngineExited,
    ev.EngineVacated,
    ev.ProbePassed,
    ev.EngineDead,
    ev.EngineStuck,
    ev.EngineStepped,
    ev.PortFree,
    ev.PortTaken,
    ev.DeadlinePassed,
    ev.RestartDue,
    ev.NextDue,
    ev.UnresponsiveDue,
)
ENGINE_TRIGGERS: Final[tuple[Trigger, ...]] = (
    Command.START,
    Command.STOP,
    Command.KILL,
    ev.EngineStarted,
    ev.StartFailed,
    ev.PhaseEntered,
    ev.EngineExited,
    ev.EngineVacated,
    ev.EffectFailed,
    ev.NudgeDue,
    ev.GraceExpired,
    ev.RepeatDue,
)
DOWNLOAD_TRIGGERS: Final[tuple[Trigger, ...]] = (
    Command.CHECK,
    Command.RESUME,
    Command.CANCEL,
    ev.WeightsComplete,
    ev.WeightsMissing,
    ev.DownloadProgressed,
    ev.DownloadFailed,
    ev.DownloadRetryDue,
)

SERVICE: Final[list[Row]] = [
    # --- NoModel: nothing is wanted; the last engine may still be on its way out ---------------------------------
    row(NO_MODEL, ev.WantedChanged, if_.nothing_wanted, NO_MODEL, None, "still nothing is wanted"),
    row(NO_MODEL, ev.WantedChanged, if_.unusable, FAILED, do.refuse, "these arguments must not be started"),
    row(
        NO_MODEL,
        ev.WantedChanged,
        None,
        LOADING,
        do.recheck,
        "a model is wanted: first see what its start needs",
    ),
    row(NO_MODEL, ev.StopRequested, if_.stopping, NO_MODEL, do.kill, "asked twice: wait no longer"),
    row(NO_MODEL, ev.StopRequested, None, NO_MODEL, do.halt, "end, when the last engine is gone"),
    *ignore(NO_MODEL, [ev.RetryRequested], "there is nothing to try again"),
    *ignore(
        NO_MODEL,
        [ev.StartFailed, ev.EngineExited, ev.EngineVacated],
        "nothing is wanted: the engine's machine sees it out",
    ),
    *ignore(
        NO_MODEL,
        [ev.ProbePassed, ev.EngineDead, ev.EngineStuck, ev.EngineStepped, ev.PortFree, ev.PortTaken],
        "no engine is to serve",
    ),
    *ignore(NO_MODEL, [ev.WeightsComplete, ev.WeightsMissing, ev.DownloadFailed], "the download was cancelled"),
    *ignore(NO_MODEL, [ev.DeadlinePassed, ev.RestartDue, ev.NextDue, ev.UnresponsiveDue], "disarmed with the engine"),
    # --- Downloading: nothing serves; an earlier engine may be starting beside the download -----------------------
    row(DOWNLOADING, ev.WantedChanged, if_.unchanged, DOWNLOADING, None, "nothing effective changed"),
    row(DOWNLOADING, ev.WantedChanged, if_.nothing_wanted, NO_MODEL, do.clear, "the selection was cleared"),
    row(
        DOWNLOADING,
        ev.WantedChanged,
        if_.unusable_but_active,
        LOADING,
        do.follow,
        "the starting engine is better than nothing",
    ),
    row(DOWNLOADING, ev.WantedChanged, if_.unusable, FAILED, do.refuse, "these arguments must not be started"),
    row(DOWNLOADING, ev.WantedChanged, if_.key_alone, DOWNLOADING, do.rekey, "a new key needs no new download"),
    row(DOWNLOADING, ev.WantedChanged, if_.reverted, LOADING, do.revert, "back to the engine that is starting"),
    row(
        DOWNLOADING,
        ev.WantedChanged,
        if_.earlier_goes_on,
        LOADING,
        do.follow,
        "the starting engine is still the best",
    ),
    row(DOWNLOADING, ev.WantedChanged, None, LOADING, do.recheck, "another model: the download at hand ends"),
    row(DOWNLOADING, ev.RetryRequested, if_.download_waits, DOWNLOADING, do.resume_download, "try at once"),
    row(DOWNLOADING, ev.RetryRequested, None, DOWNLOADING, None, "the download is under way"),
    row(DOWNLOADING, ev.StopRequested, None, FAILED, do.halt, "end in order; what was fetched stays"),
    row(DOWNLOADING, ev.WeightsComplete, None, LOADING, do.adopt, "all is there: start"),
    row(
        DOWNLOADING,
        ev.DownloadFailed,
        if_.download_goes_on,
        DOWNLOADING,
        None,
        "it is tried again",
    ),
    row(
        DOWNLOADING,
        ev.DownloadFailed,
        if_.active_goes_on,
        LOADING,
        do.note_download_problem,
        "the earlier model goes on alone",
    ),
    row(
        DOWNLOADING,
        ev.DownloadFailed,
        if_.alive,
        FAILED,
        do.note_download_problem,
        "the late or silent earlier engine may still come",
    ),
    row(DOWNLOADING, ev.DownloadFailed, None, FAILED, do.give_up_download, "the weights cannot be had"),
    row(DOWNLOADING, ev.StartFailed, if_.asked, DOWNLOADING, do.hurry, "the stopped start left nothing"),
    row(DOWNLOADING, ev.StartFailed, None, DOWNLOADING, do.restart, "the policy decides on the earlier engine"),
    row(DOWNLOADING, ev.EngineExited, if_.asked, DOWNLOADING, None, "we asked it to end"),
    row(
        DOWNLOADING,
        ev.EngineExited,
        None,
        DOWNLOADING,
        do.restart,
        "the policy decides on the earlier engine",
    ),
    row(DOWNLOADING, ev.EngineVacated, if_.may_start, DOWNLOADING, do.start, "its place is free"),
    row(DOWNLOADING, ev.EngineVacated, None, DOWNLOADING, None, "nothing is to start yet"),
    row(
        DOWNLOADING,
        ev.ProbePassed,
        None,
        READY,
        do.prove,
        "the earlier engine serves while the next one downloads",
    ),
    row(DOWNLOADING, ev.EngineDead, None, DOWNLOADING, do.restart, "the policy decides on the earlier engine"),
    row(DOWNLOADING, ev.EngineStepped, if_.unresponsive, READY, do.trust, "it answers again"),
    row(DOWNLOADING, ev.EngineStepped, None, DOWNLOADING, None, "it is not proven yet"),
    row(DOWNLOADING, ev.PortTaken, if_.alive, DOWNLOADING, do.yield_port, "nobody can reach our engine"),
    row(DOWNLOADING, ev.PortTaken, if_.port_was_taken, DOWNLOADING, do.wait_for_port, "still taken"),
    row(DOWNLOADING, ev.PortTaken, None, DOWNLOADING, None, "nothing waits for the port"),
    row(DOWNLOADING, ev.PortFree, if_.port_was_taken, DOWNLOADING, do.start, "the port is free again"),
    row(DOWNLOADING, ev.PortFree, None, DOWNLOADING, None, "nothing waits for the port"),
    row(
        DOWNLOADING,
        ev.DeadlinePassed,
        None,
        DOWNLOADING,
        do.overdue,
        "the earlier engine is late; it goes on",
    ),
    row(
        DOWNLOADING, ev.RestartDue, if_.port_still_ours, DOWNLOADING, do.look_later, "our own engine may still hold it"
    ),
    row(DOWNLOADING, ev.RestartDue, if_.port_was_taken, DOWNLOADING, do.look_at_port, "see whether it is free"),
    row(DOWNLOADING, ev.RestartDue, None, DOWNLOADING, do.start, "the next try of the earlier engine"),
    row(DOWNLOADING, ev.UnresponsiveDue, None, DOWNLOADING, do.restart_unresponsive, "it did not come back"),
    *ignore(DOWNLOADING, [ev.NextDue], "it is being fetched"),
    *ignore(DOWNLOADING, [ev.WeightsMissing], "said by a check, before the download"),
    *ignore(DOWNLOADING, [ev.EngineStuck], "nothing is expected of an engine that is not proven"),
    # --- Loading: an engine is starting, being replaced, or waits for its next try --------------------------------
    row(LOADING, ev.WantedChanged, if_.unchanged, LOADING, None, "nothing effective changed"),
    row(LOADING, ev.WantedChanged, if_.nothing_wanted, NO_MODEL, do.clear, "the selection was cleared"),
    row(
        LOADING,
        ev.WantedChanged,
        if_.unusable_but_active,
        LOADING,
        do.follow,
        "the starting engine is better than nothing",
    ),
    row(LOADING, ev.WantedChanged, if_.unusable, FAILED, do.refuse, "these arguments must not be started"),
    row(
        LOADING,
        ev.WantedChanged,
        if_.key_alone,
        LOADING,
        do.rekey,
        "an engine must not come up with the old key",
    ),
    row(LOADING, ev.WantedChanged, if_.reverted, LOADING, do.revert, "back to the engine that is starting"),
    row(
        LOADING,
        ev.WantedChanged,
        if_.earlier_goes_on,
        LOADING,
        do.follow,
        "the starting engine is still the best",
    ),
    row(LOADING, ev.WantedChanged, None, LOADING, do.recheck, "replace what is starting"),
    row(LOADING, ev.RetryRequested, if_.waits_for_restart, LOADING, do.hurry, "try at once"),
    row(LOADING, ev.RetryRequested, None, LOADING, None, "a start is under way"),
    row(LOADING, ev.StopRequested, None, FAILED, do.halt, "end in order"),
    row(LOADING, ev.WeightsComplete, None, LOADING, do.adopt, "all is there: start"),
    row(LOADING, ev.WeightsMissing, None, DOWNLOADING, None, "something must be fetched first"),
    row(LOADING, ev.DownloadFailed, if_.download_goes_on, DOWNLOADING, None, "it is tried again"),
    row(
        LOADING,
        ev.DownloadFailed,
        if_.active_goes_on,
        LOADING,
        do.note_download_problem,
        "the earlier model goes on alone",
    ),
    row(LOADING, ev.DownloadFailed, None, FAILED, do.give_up_download, "the weights cannot be had"),
    row(
        LOADING,
        ev.StartFailed,
        if_.asked,
        LOADING,
        do.hurry,
        "the stopped start left nothing: start the next",
    ),
    row(LOADING, ev.StartFailed, if_.again, LOADING, do.restart, "worth another try"),
    row(LOADING, ev.StartFailed, None, FAILED, do.restart, "not worth another try now"),
    row(LOADING, ev.EngineExited, if_.asked, LOADING, None, "we asked it to end"),
    row(LOADING, ev.EngineExited, if_.again, LOADING, do.restart, "worth another try"),
    row(LOADING, ev.EngineExited, None, FAILED, do.restart, "not worth another try now"),
    row(LOADING, ev.EngineVacated, if_.may_start, LOADING, do.start, "its place is free"),
    row(LOADING, ev.EngineVacated, None, LOADING, None, "nothing is to start yet"),
    row(LOADING, ev.ProbePassed, None, READY, do.prove, "ours, listening, keyed, named and generating"),
    row(LOADING, ev.PortTaken, if_.alive, FAILED, do.yield_port, "nobody can reach our engine"),
    row(LOADING, ev.PortTaken, None, LOADING, None, "the start itself looks at the port"),
    row(
        LOADING,
        ev.DeadlinePassed,
        None,
        FAILED,
        do.overdue,
        "the start-up time is over; the engine may go on",
    ),
    row(LOADING, ev.RestartDue, None, LOADING, do.start, "the next try"),
    row(LOADING, ev.NextDue, if_.next_not_fetched, LOADING, do.fetch_again, "the slow retry of the download"),
    row(LOADING, ev.NextDue, None, LOADING, None, "it is being looked for"),
    *ignore(LOADING, [ev.PortFree], "the start itself looks at the port"),
    *ignore(
        LOADING,
        [ev.EngineDead, ev.EngineStuck, ev.EngineStepped, ev.UnresponsiveDue],
        "watched only once it is proven",
    ),
    # --- Ready: the engine is proven; a next model may be downloading beside it -----------------------------------
    row(READY, ev.WantedChanged, if_.unchanged, READY, None, "nothing effective changed"),
    row(READY, ev.WantedChanged, if_.nothing_wanted, NO_MODEL, do.clear, "the selection was cleared"),
    row(READY, ev.WantedChanged, if_.reverted, READY, do.revert, "what serves is wanted again"),
    row(
        READY,
        ev.WantedChanged,
        if_.key_alone_while_downloading,
        DOWNLOADING,
        do.rekey,
        "the old key must end now; the download goes on",
    ),
    row(READY, ev.WantedChanged, if_.rekeyed, LOADING, do.follow, "the old key must end now"),
    row(READY, ev.WantedChanged, if_.unusable, READY, do.follow, "what serves is better than nothing; say why"),
    row(READY, ev.WantedChanged, if_.swap_at_once, LOADING, do.recheck, "the setting asks for a plain swap"),
    row(READY, ev.WantedChanged, None, READY, do.follow, "it serves until the next one's weights are there"),
    row(READY, ev.RetryRequested, if_.next_not_fetched, READY, do.fetch_again, "look for the next model again"),
    row(READY, ev.RetryRequested, if_.download_waits, READY, do.resume_download, "try at once"),
    row(READY, ev.RetryRequested, None, READY, None, "what serves goes on; nothing else can be tried"),
    row(READY, ev.StopRequested, None, FAILED, do.halt, "end in order"),
    row(READY, ev.WeightsComplete, None, LOADING, do.adopt, "the next model can start: swap"),
    row(READY, ev.WeightsMissing, None, READY, None, "it is fetched while this one serves"),
    row(READY, ev.DownloadFailed, if_.download_goes_on, READY, None, "it is tried again"),
    row(READY, ev.DownloadFailed, None, READY, do.note_download_problem, "what serves goes on serving"),
    row(
        READY,
        ev.EngineExited,
        if_.downloading,
        DOWNLOADING,
        do.restart,
        "code 0 included: nobody asked it to end",
    ),
    row(READY, ev.EngineExited, if_.again, LOADING, do.restart, "code 0 included: nobody asked it to end"),
    row(READY, ev.EngineExited, None, FAILED, do.restart, "it ended too often"),
    row(
        READY,
        ev.EngineDead,
        if_.downloading,
        DOWNLOADING,
        do.restart,
        "the server stands, the engine is dead",
    ),
    row(READY, ev.EngineDead, if_.again, LOADING, do.restart, "the server stands, the engine is dead"),
    row(READY, ev.EngineDead, None, FAILED, do.restart, "it died too often"),
    row(READY, ev.EngineStuck, if_.first_strike, READY, do.strike, "once may be bad luck"),
    row(READY, ev.EngineStuck, if_.downloading, DOWNLOADING, do.doubt, "twice is not"),
    row(READY, ev.EngineStuck, None, FAILED, do.doubt, "twice is not"),
    row(READY, ev.EngineStepped, if_.struck, READY, do.absolve, "it answers"),
    row(READY, ev.EngineStepped, None, READY, None, "as expected"),
    row(READY, ev.PortTaken, if_.downloading, DOWNLOADING, do.yield_port, "nobody can reach our engine"),
    row(READY, ev.PortTaken, None, FAILED, do.yield_port, "nobody can reach our engine"),
    row(READY, ev.NextDue, if_.next_not_fetched, READY, do.fetch_again, "the slow retry of the download"),
    row(READY, ev.NextDue, None, READY, None, "it is being looked for"),
    *ignore(READY, [ev.StartFailed, ev.EngineVacated], "the living engine was started long ago"),
    *ignore(READY, [ev.ProbePassed], "known"),
    *ignore(READY, [ev.PortFree], "nobody waits for the port"),
    *ignore(READY, [ev.DeadlinePassed, ev.RestartDue, ev.UnresponsiveDue], "disarmed when it was proven"),
    # --- Failed: the service does not serve, and nothing is under way that could change it soon -------------------
    row(FAILED, ev.WantedChanged, if_.unchanged, FAILED, None, "nothing effective changed"),
    row(FAILED, ev.WantedChanged, if_.nothing_wanted, NO_MODEL, do.clear, "the selection was cleared"),
    row(
        FAILED,
        ev.WantedChanged,
        if_.unusable,
        FAILED,
        do.refuse,
        "these arguments must not be started either",
    ),
    row(FAILED, ev.WantedChanged, None, LOADING, do.recheck, "something else to try"),
    row(FAILED, ev.RetryRequested, if_.target_unusable, FAILED, None, "the arguments are as wrong as before"),
    row(FAILED, ev.RetryRequested, None, LOADING, do.recheck, "begin anew"),
    row(FAILED, ev.StopRequested, if_.stopping, FAILED, do.kill, "asked twice: wait no longer"),
    row(FAILED, ev.StopRequested, None, FAILED, do.halt, "end in order"),
    row(FAILED, ev.WeightsComplete, None, LOADING, do.adopt, "the next model can start"),
    row(FAILED, ev.WeightsMissing, None, DOWNLOADING, None, "the next model is fetched"),
    row(FAILED, ev.DownloadFailed, if_.download_goes_on, DOWNLOADING, None, "it is tried again"),
    row(FAILED, ev.DownloadFailed, None, FAILED, do.note_download_problem, "neither the one nor the other"),
    row(FAILED, ev.EngineExited, if_.asked, FAILED, None, "we asked it to end"),
    row(FAILED, ev.EngineExited, if_.again, LOADING, do.restart, "the late or silent engine ended: try again"),
    row(FAILED, ev.EngineExited, None, FAILED, do.restart, "not worth another try now"),
    row(FAILED, ev.EngineDead, if_.again, LOADING, do.restart, "the silent engine is dead: try again"),
    row(FAILED, ev.EngineDead, None, FAILED, do.restart, "not worth another try now"),
    row(FAILED, ev.ProbePassed, None, READY, do.prove, "late, but ready"),
    row(FAILED, ev.EngineStepped, if_.unresponsive, READY, do.trust, "it answers again"),
    row(FAILED, ev.EngineStepped, None, FAILED, None, "it is not proven yet"),
    row(FAILED, ev.PortTaken, if_.alive, FAILED, do.yield_port, "nobody can reach our engine"),
    row(FAILED, ev.PortTaken, if_.port_was_taken, FAILED, do.wait_for_port, "still taken"),
    row(FAILED, ev.PortTaken, None, FAILED, None, "nothing waits for the port"),
    row(FAILED, ev.PortFree, if_.port_was_taken, LOADING, do.start, "the port is free again"),
    row(FAILED, ev.PortFree, None, FAILED, None, "nothing waits for the port"),
    row(FAILED, ev.RestartDue, if_.port_still_ours, FAILED, do.look_later, "our own engine may still hold it"),
    row(FAILED, ev.RestartDue, if_.port_was_taken, FAILED, do.look_at_port, "see whether it is free"),
    row(FAILED, ev.RestartDue, if_.has_active, LOADING, do.start, "the slow retry"),
    row(FAILED, ev.RestartDue, None, LOADING, do.recheck, "the slow retry of the download"),
    row(
        FAILED,
        ev.UnresponsiveDue,
        if_.again_after_stuck,
        LOADING,
        do.restart_unresponsive,
        "it did not come back",
    ),
    row(FAILED, ev.UnresponsiveDue, None, FAILED, do.restart_unresponsive, "it did not come back, too often"),
    row(FAILED, ev.NextDue, if_.next_not_fetched, FAILED, do.fetch_again, "the slow retry of the download"),
    row(FAILED, ev.NextDue, None, FAILED, None, "it is being looked for"),
    *ignore(FAILED, [ev.StartFailed], "the stopped start left nothing"),
    *ignore(FAILED, [ev.EngineVacated], "what comes next has its time set, or waits for the user"),
    *ignore(FAILED, [ev.EngineStuck], "it is known to be unresponsive"),
    *ignore(FAILED, [ev.DeadlinePassed], "the verdict stands already"),
]

ENGINE: Final[list[Row]] = [
    row(ABSENT, Command.START, if_.has_active, ALIVE, do.launch, "its place is free"),
    row(ABSENT, Command.START, None, ABSENT, None, "what is to run is not known yet"),
    *ignore(ABSENT, [Command.STOP, Command.KILL], "nothing is left to stop"),
    *ignore(
        ABSENT,
        [ev.EngineStarted, ev.StartFailed, ev.PhaseEntered, ev.EngineExited, ev.EngineVacated],
        "dropped before: that start is over",
    ),
    *ignore(ABSENT, [ev.EffectFailed], "the effect's object is gone"),
    *ignore(ABSENT, [ev.NudgeDue, ev.GraceExpired, ev.RepeatDue], "disarmed when it was gone"),
    row(ALIVE, ev.EngineStarted, if_.executed, ALIVE, None, "known"),
    row(ALIVE, ev.EngineStarted, None, ALIVE, do.attend, "the start-up time runs from here"),
    row(ALIVE, ev.StartFailed, None, ABSENT, do.forget_engine, "no process came of it"),
    row(ALIVE, ev.PhaseEntered, None, ALIVE, do.note_phase, "shown in health"),
    row(ALIVE, ev.EngineExited, None, TERMINATING, do.vacate, "its session may outlive the leader"),
    row(ALIVE, Command.STOP, if_.executed, TERMINATING, do.terminate, "ask first"),
    row(ALIVE, Command.STOP, None, TERMINATING, do.abandon, "it is being executed this moment"),
    row(ALIVE, Command.KILL, if_.executed, TERMINATING, do.kill_session, "it has nothing to lose"),
    row(ALIVE, Command.KILL, None, TERMINATING, do.abandon, "it is being executed this moment"),
    *ignore(ALIVE, [Command.START], "it is started"),
    row(ALIVE, ev.EffectFailed, None, ALIVE, do.repeat, "an engine that nobody probes would never be Ready"),
    row(ALIVE, ev.RepeatDue, if_.proven, ALIVE, do.watch, "watch it again"),
    row(ALIVE, ev.RepeatDue, if_.executed, ALIVE, do.probe, "probe it again"),
    row(ALIVE, ev.RepeatDue, None, ALIVE, None, "it does not exist yet"),
    *ignore(ALIVE, [ev.EngineVacated, ev.NudgeDue, ev.GraceExpired], "belongs to a stop"),
    row(
        TERMINATING,
        ev.EngineStarted,
        None,
        TERMINATING,
        do.end_unwanted,
        "stopped while it was being executed",
    ),
    row(TERMINATING, ev.StartFailed, None, ABSENT, do.forget_engine, "no process came of it"),
    row(
        TERMINATING,
        ev.NudgeDue,
        None,
        TERMINATING,
        do.nudge,
        "vLLM loses a SIGTERM that comes while it starts",
    ),
    row(TERMINATING, ev.GraceExpired, None, TERMINATING, do.kill_session, "it had its time"),
    row(TERMINATING, ev.EngineExited, None, TERMINATING, do.vacate, "its session may outlive the leader"),
    row(TERMINATING, ev.EngineVacated, None, ABSENT, do.forget_engine, "reaped, and nothing is left"),
    row(TERMINATING, ev.EffectFailed, None, TERMINATING, do.repeat, "whatever failed: look again"),
    row(
        TERMINATING,
        ev.RepeatDue,
        None,
        TERMINATING,
        do.confirm,
        "an engine starts only when this is known",
    ),
    row(TERMINATING, Command.KILL, if_.leader_gone, TERMINATING, do.confirm, "its leader is gone: wait no longer"),
    row(TERMINATING, Command.KILL, None, TERMINATING, do.kill_session, "wait no longer"),
    *ignore(TERMINATING, [Command.START], "started when nothing of this one is left"),
    *ignore(TERMINATING, [Command.STOP], "asked already"),
    *ignore(TERMINATING, [ev.PhaseEntered], "dropped before: nothing is expected of it"),
]

DOWNLOAD: Final[list[Row]] = [
    row(IDLE, Command.CHECK, None, CHECKING, do.check, "another target"),
    row(IDLE, Command.CANCEL, None, IDLE, do.forget_tries, "not wanted any more: what was given up is forgotten"),
    *ignore(IDLE, [Command.RESUME], "nothing is under way"),
    *ignore(
        IDLE,
        [ev.WeightsComplete, ev.WeightsMissing, ev.DownloadProgressed, ev.DownloadFailed],
        "dropped before: that fetch is over",
    ),
    *ignore(IDLE, [ev.DownloadRetryDue], "disarmed when it ended"),
    row(CHECKING, Command.CHECK, None, CHECKING, do.check, "another target"),
    row(CHECKING, Command.CANCEL, None, IDLE, do.end_fetch, "no longer wanted"),
    row(CHECKING, ev.WeightsComplete, None, IDLE, do.finish_fetch, "nothing is to be fetched"),
    row(CHECKING, ev.WeightsMissing, None, RUNNING, do.download, "fetch it"),
    row(CHECKING, ev.DownloadFailed, if_.download_goes_on, WAITING, do.wait_for_next_attempt, "transient"),
    row(CHECKING, ev.DownloadFailed, None, IDLE, do.end_in_failure, "permanent, or too often"),
    *ignore(CHECKING, [Command.RESUME, ev.DownloadProgressed, ev.DownloadRetryDue], "nothing is downloaded yet"),
    row(RUNNING, Command.CHECK, None, CHECKING, do.check, "another target: what was fetched stays"),
    row(RUNNING, Command.CANCEL, None, IDLE, do.end_fetch, "no longer wanted: what was fetched stays"),
    row(RUNNING, ev.WeightsComplete, None, IDLE, do.finish_fetch, "all is there"),
    row(RUNNING, ev.DownloadProgressed, None, RUNNING, do.note_progress, "shown in health"),
    row(RUNNING, ev.DownloadFailed, if_.download_goes_on, WAITING, do.wait_for_next_attempt, "transient"),
    row(RUNNING, ev.DownloadFailed, None, IDLE, do.end_in_failure, "permanent, or too often"),
    *ignore(RUNNING, [Command.RESUME, ev.WeightsMissing, ev.DownloadRetryDue], "it runs"),
    row(WAITING, Command.CHECK, None, CHECKING, do.check, "another target"),
    row(WAITING, Command.CANCEL, None, IDLE, do.end_fetch, "no longer wanted"),
    row(WAITING, Command.RESUME, None, RUNNING, do.download, "somebody asked"),
    row(WAITING, ev.DownloadRetryDue, None, RUNNING, do.download, "the next attempt"),
    *ignore(
        WAITING,
        [ev.WeightsComplete, ev.WeightsMissing, ev.DownloadProgressed, ev.DownloadFailed],
        "dropped before: the last attempt is over",
    ),
]
