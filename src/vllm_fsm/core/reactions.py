"""What rows do: small pure changes of the turn. The service machine's first, then the engine's and the download's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vllm_fsm.core import effects, events, policy
from vllm_fsm.core.snapshot import Finding, Message, Start, Stretch
from vllm_fsm.core.states import Engine, Phase
from vllm_fsm.core.turn import Command

if TYPE_CHECKING:
    from vllm_fsm.core.turn import Turn

# --- the service: the files ask for something --------------------------------------------------------------------


def clear(turn: Turn) -> None:
    """Nothing is wanted: end what runs."""
    _drop_active(turn)
    turn.set(target=None, failed=False, finding=None, next_problem=None, last_good=None)
    turn.tell(Command.CANCEL, Command.STOP)


def refuse(turn: Turn) -> None:
    """The arguments must not be started, and nothing serves: say so."""
    target = turn.event.target
    _drop_active(turn)
    turn.set(target=target, failed=True, finding=target.problem, next_problem=None)
    turn.tell(Command.CANCEL, Command.STOP)


def recheck(turn: Turn) -> None:
    """Begin anew with the target: whatever runs is stopped, the record is clean."""
    if isinstance(turn.event, events.WantedChanged):
        turn.set(target=turn.event.target)
    _drop_active(turn)
    turn.set(failed=False, finding=None, next_problem=None)
    turn.tell(Command.STOP, Command.CHECK)


def follow(turn: Turn) -> None:
    """Another target while an engine runs: it goes on, with the key now in force, until the weights are there."""
    old, target = turn.snapshot.target, turn.event.target
    assert old is not None
    same = old.same_but_key(target)
    turn.set(target=target)
    if not same:
        turn.cancel(events.NextDue)
        turn.set(fallen_back=turn.snapshot.fallen_back and target.problem is not None)
    active = turn.snapshot.active
    if active is not None and active.key != target.key:
        turn.cancel(events.RestartDue)
        turn.set(active=replace(active, key=target.key), crashes=(), resting=False)
        turn.tell(Command.STOP, Command.START)
    if target.problem is not None:
        turn.set(next_problem=target.problem)
        turn.tell(Command.CANCEL)
    elif not turn.snapshot.pending:
        turn.set(next_problem=None)
        turn.tell(Command.CANCEL)
    elif not same:
        turn.set(next_problem=None)
        turn.tell(Command.CHECK)


def rekey(turn: Turn) -> None:
    """Only the key changed: what is active starts again with it, the download goes on."""
    active, key = turn.snapshot.active, turn.event.target.key
    turn.set(target=turn.event.target)
    if active is not None:
        turn.cancel(events.RestartDue)
        turn.set(active=replace(active, key=key), failed=False, crashes=(), resting=False)
        turn.tell(Command.STOP, Command.START)


def revert(turn: Turn) -> None:
    """The files ask again for what is active: forget the other."""
    follow(turn)


def fetch_again(turn: Turn) -> None:
    """Try once more to get the weights of the chosen model while another one runs."""
    turn.cancel(events.NextDue)
    turn.set(next_problem=None, fallen_back=False)
    turn.tell(Command.CHECK)


def adopt(turn: Turn) -> None:
    """The target can start: it takes the engine over."""
    turn.cancel(events.RestartDue, events.NextDue)
    event = turn.event
    turn.set(active=turn.snapshot.target, offline=event.offline, note=event.note)
    turn.set(failed=False, finding=None, next_problem=None, fallen_back=False, crashes=(), resting=False)
    turn.tell(Command.STOP, Command.START)


def hurry(turn: Turn) -> None:
    """Do not wait for the next try."""
    turn.cancel(events.RestartDue)
    turn.tell(Command.START)


def resume_download(turn: Turn) -> None:
    """Do not wait for the next download attempt."""
    turn.tell(Command.RESUME)


def halt(turn: Turn) -> None:
    """The controller ends: first the engine."""
    _drop_active(turn)
    finding = turn.snapshot.finding
    if turn.snapshot.target is not None:
        finding = Finding.of("Stopping")
    turn.set(stopping=True, failed=True, finding=finding)
    turn.tell(Command.CANCEL, Command.STOP)


def kill(turn: Turn) -> None:
    """Wait no longer for the engine's own end."""
    turn.tell(Command.KILL)


# --- the service: what became of it ------------------------------------------------------------------------------


def start(turn: Turn) -> None:
    """Start what is active, now or as soon as nothing of the last engine is left."""
    turn.set(failed=False)
    turn.tell(Command.START)


def prove(turn: Turn) -> None:
    """The engine is ready."""
    snapshot, now = turn.snapshot, turn.event.at
    assert snapshot.active is not None
    turn.cancel(events.DeadlinePassed, events.RestartDue, events.PulseDue)
    turn.set(proven=True, proven_at=now, failed=False, finding=None, strikes=0)
    turn.set(phases=(*snapshot.phases, Stretch(Phase.READY, now, Message.of("Ready"))))
    turn.set(last_good=Start(snapshot.active, snapshot.offline))
    watch(turn)


def trust(turn: Turn) -> None:
    """An engine that had been called unresponsive answers again."""
    turn.cancel(events.UnresponsiveDue)
    turn.set(proven=True, proven_at=turn.event.at, failed=False, finding=None, strikes=0)


def absolve(turn: Turn) -> None:
    """The engine answers: no strike stands against it."""
    turn.set(strikes=0)


def strike(turn: Turn) -> None:
    """One canary request went unanswered."""
    turn.set(strikes=turn.snapshot.strikes + 1)


def doubt(turn: Turn) -> None:
    """The engine generates nothing: call it unresponsive and give it a last while to answer."""
    settings = turn.snapshot.settings
    strike(turn)
    turn.set(
        proven=False,
        failed=True,
        finding=Finding.of("EngineUnresponsive", restart_seconds=round(settings.unresponsive_restart)),
    )
    turn.arm(events.UnresponsiveDue, settings.unresponsive_restart)


def overdue(turn: Turn) -> None:
    """The start-up time is over; the engine is left to go on."""
    minutes = policy.minutes(turn.snapshot.settings.startup_timeout)
    turn.set(failed=True, finding=Finding.of("StartupTimeout", minutes=minutes))


def restart(turn: Turn) -> None:
    """The engine failed or ended unasked and is started again by the policy, or given up for now."""
    _apply_policy(turn, turn.event.finding)
    if isinstance(turn.event, events.EngineDead):
        turn.tell(Command.KILL)


def restart_hung(turn: Turn) -> None:
    """The starting engine does nothing: end it, then as with any failure."""
    finding = _hang(turn)
    turn.tell(Command.KILL)
    _apply_policy(turn, finding)


def explain(turn: Turn) -> None:
    """Why the dead engine died is known by now. If that has ended it before, it is not started again after all."""
    snapshot = turn.snapshot
    finding = policy.explained(snapshot, turn.event.at, turn.event.finding)
    turn.set(finding=finding, causes=(*snapshot.causes[:-1], finding.reason))
    if finding.permanent:
        turn.cancel(events.RestartDue)
        turn.set(failed=True, last_good=None)


def fall_back(turn: Turn) -> None:
    """The target's engine failed for good: what was ready last takes over, until the files change."""
    _fall_back(turn, policy.judged(turn.snapshot, turn.event.at, turn.event.finding))


def fall_back_from_download(turn: Turn) -> None:
    """The target's weights cannot be had: what was ready last takes over, until the files change."""
    _fall_back(turn, turn.event.finding)


def fall_back_from_refused(turn: Turn) -> None:
    """The target must not be started: what was ready last takes over, until the files change."""
    target = turn.event.target
    turn.set(target=target)
    turn.tell(Command.CANCEL)
    _fall_back(turn, target.problem)


def fall_back_from_hung(turn: Turn) -> None:
    """The target's engine hangs again and again: what was ready last takes over, until the files change."""
    turn.tell(Command.KILL)
    _fall_back(turn, policy.judged(turn.snapshot, turn.event.at, _hang(turn)))


def restart_unresponsive(turn: Turn) -> None:
    """The unresponsive engine did not come back: end it, then as with any failure."""
    finding = turn.snapshot.finding
    assert finding is not None
    turn.tell(Command.STOP)
    _apply_policy(turn, finding)


def yield_port(turn: Turn) -> None:
    """A stranger listens on our port: end the engine that nobody can reach, look at the port now and then."""
    turn.set(crashes=policy.recent(turn.snapshot, turn.event.at))
    turn.tell(Command.STOP)
    wait_for_port(turn)


def wait_for_port(turn: Turn) -> None:
    """Look at the taken port again in a while."""
    turn.set(failed=True, finding=turn.event.finding)
    look_later(turn)


def look_later(turn: Turn) -> None:
    """Look at the port again in a while."""
    turn.arm(events.RestartDue, turn.snapshot.settings.port_retry)


def look_at_port(turn: Turn) -> None:
    """See whether the port is free by now."""
    turn.emit(effects.CheckPort(turn.snapshot.epoch))


def note_download_problem(turn: Turn) -> None:
    """The weights of the next model cannot be had; an earlier model goes on, and they are looked for again later."""
    finding = turn.event.finding
    turn.set(next_problem=finding)
    if not finding.permanent:
        turn.arm(events.NextDue, _slow_retry(turn))


def give_up_download(turn: Turn) -> None:
    """The weights cannot be had, and nothing else is to run."""
    finding = turn.event.finding
    _drop_active(turn)
    turn.set(failed=True, finding=finding)
    if not finding.permanent:
        turn.arm(events.RestartDue, _slow_retry(turn))


def _slow_retry(turn: Turn) -> float:
    """Seconds until a download that was given up is tried again: never sooner than the hub asked."""
    asked: float = turn.event.retry_after
    return max(turn.snapshot.settings.slow_retry, asked)


def _drop_active(turn: Turn) -> None:
    turn.cancel(events.RestartDue, events.NextDue)
    turn.set(active=None, offline=False, note=None, fallen_back=False, crashes=(), resting=False)


def _fall_back(turn: Turn, problem: Finding) -> None:
    good, target = turn.snapshot.last_good, turn.snapshot.target
    assert good is not None
    assert target is not None
    active = replace(good.target, key=target.key)
    under_way = active == turn.snapshot.active and not turn.snapshot.failed
    turn.cancel(events.NextDue)
    turn.set(next_problem=problem, fallen_back=True)
    if under_way:
        return
    turn.cancel(events.RestartDue)
    turn.set(active=active, offline=good.offline, note=None, failed=False, finding=None, crashes=(), resting=False)
    turn.tell(Command.STOP, Command.START)


def _hang(turn: Turn) -> Finding:
    finding = policy.hang(turn.snapshot, turn.event)
    assert finding is not None
    return finding


def _apply_policy(turn: Turn, finding: Finding) -> None:
    now = turn.event.at
    decision = policy.after_failure(turn.snapshot, now, finding)
    turn.cancel(events.RestartDue)
    crashes, causes = policy.recent(turn.snapshot, now), turn.snapshot.causes
    if finding.reason != policy.PORT_TAKEN:
        crashes, causes = (*crashes, now), (*causes, finding.reason)
    finding = policy.judged(turn.snapshot, now, finding)
    good = turn.snapshot.last_good
    active = turn.snapshot.active
    if good is not None and active is not None and good.target.same_but_key(active):
        online = isinstance(decision, policy.Again) and decision.online
        turn.set(last_good=None if finding.permanent else replace(good, offline=good.offline and not online))
    turn.set(
        finding=finding,
        crashes=crashes,
        causes=causes[-len(crashes) :] if crashes else (),
        failed=isinstance(decision, policy.Rest),
        resting=isinstance(decision, policy.Rest) and decision.resting,
    )
    if isinstance(decision, policy.Again) and decision.online:
        turn.set(offline=False)
    if decision.delay is None:
        return
    if decision.delay > 0.0:
        turn.arm(events.RestartDue, decision.delay)
    else:
        turn.tell(Command.START)


# --- the engine --------------------------------------------------------------------------------------------------


def launch(turn: Turn) -> None:
    """Start number `epoch`."""
    active = turn.snapshot.active
    assert active is not None
    epoch = turn.snapshot.epoch + 1
    needed = policy.memory_needed(turn.snapshot)
    wait = 0.0 if needed is None else turn.snapshot.settings.memory_wait
    turn.set(epoch=epoch, pid=None, phases=(), proven=False, proven_at=None, strikes=0)
    turn.emit(effects.StartEngine(epoch, active, turn.snapshot.offline, needed, wait))


def attend(turn: Turn) -> None:
    """The process exists: give it the start-up time and probe it."""
    now, settings = turn.event.at, turn.snapshot.settings
    turn.set(pid=turn.event.pid, moved_at=now)
    told = turn.snapshot.phases
    began = told[0].since if told else now
    turn.set(phases=(Stretch(Phase.IMPORTS, began, Message.of("PhaseImports")), *told))
    turn.arm(events.DeadlinePassed, settings.startup_timeout)
    turn.arm(events.PulseDue, settings.pulse)
    probe(turn)


def probe(turn: Turn) -> None:
    """Probe the engine until it is proven; after the deadline too."""
    snapshot = turn.snapshot
    assert snapshot.active is not None
    assert snapshot.pid is not None
    deadline = snapshot.due(events.DeadlinePassed) or turn.event.at
    turn.emit(effects.StartProbes(snapshot.epoch, snapshot.active, snapshot.pid, deadline))


def watch(turn: Turn) -> None:
    """See that the proven engine lives and steps."""
    turn.emit(effects.WatchLiveness(turn.snapshot.epoch))


def note_phase(turn: Turn) -> None:
    """Remember what the starting engine does: a phase is entered once, and then it gets on."""
    event, phases = turn.event, turn.snapshot.phases
    if phases and phases[-1].phase is event.phase:
        now = replace(phases[-1], message=event.message)
        turn.set(phases=(*phases[:-1], now))
    else:
        turn.set(phases=(*phases, Stretch(event.phase, event.at, event.message)))


def take_pulse(turn: Turn) -> None:
    """See whether the starting engine moves. Time in which nobody looked, since we stood still too, does not count."""
    snapshot, event = turn.snapshot, turn.event
    late = event.at - event.due
    if late > snapshot.settings.pulse:
        turn.set(moved_at=min(event.at, snapshot.moved_at + late))
    turn.emit(effects.TakePulse(snapshot.epoch))


def note_pulse(turn: Turn) -> None:
    """Remember whether it moves, and look again in a while."""
    if turn.event.moved:
        turn.set(moved_at=turn.event.at)
    turn.arm(events.PulseDue, turn.snapshot.settings.pulse)


def terminate(turn: Turn) -> None:
    """First rung of the stop ladder: SIGTERM; a second one soon if the engine was not ready."""
    ready = turn.snapshot.proven
    _leave(turn)
    turn.emit(effects.TerminateEngine(turn.snapshot.epoch))
    if not ready:
        turn.arm(events.NudgeDue, turn.snapshot.settings.nudge_after)
    turn.arm(events.GraceExpired, turn.snapshot.settings.stop_timeout)


def abandon(turn: Turn) -> None:
    """The engine is being executed: give that up; what becomes of it all the same is ended as soon as it is known."""
    _leave(turn)
    turn.emit(effects.KillSession(turn.snapshot.epoch))


def nudge(turn: Turn) -> None:
    """SIGTERM once more."""
    turn.emit(effects.TerminateEngine(turn.snapshot.epoch))


def kill_session(turn: Turn) -> None:
    """Last rung: SIGKILL to the whole session, and again while it does not end."""
    _leave(turn)
    turn.cancel(events.NudgeDue)
    turn.emit(effects.KillSession(turn.snapshot.epoch))
    turn.arm(events.GraceExpired, turn.snapshot.settings.kill_again)


def end_unwanted(turn: Turn) -> None:
    """The process of an abandoned start exists now: it has nothing to lose."""
    turn.set(pid=turn.event.pid)
    kill_session(turn)


def vacate(turn: Turn) -> None:
    """The leader is reaped: see that nothing of it stays."""
    _leave(turn)
    turn.cancel(events.NudgeDue, events.GraceExpired)
    confirm(turn)


def repeat(turn: Turn) -> None:
    """Something about the engine could not be done: once more in a moment."""
    turn.arm(events.RepeatDue, turn.snapshot.settings.repeat_after)


def confirm(turn: Turn) -> None:
    """See that nothing of the engine is left; GPU memory matters only to a next start."""
    snapshot = turn.snapshot
    wait = 0.0 if snapshot.stopping else snapshot.settings.memory_wait
    turn.emit(effects.ConfirmVacancy(snapshot.epoch, wait))


def forget_engine(turn: Turn) -> None:
    """Nothing of the engine is left."""
    _leave(turn)
    turn.cancel(events.NudgeDue, events.GraceExpired, events.RepeatDue)
    turn.set(pid=None)


def _leave(turn: Turn) -> None:
    """An engine that was alive is not ready, not starting and not probed any more."""
    if turn.engine is not Engine.ALIVE:
        return
    turn.cancel(events.DeadlinePassed, events.PulseDue, events.UnresponsiveDue, events.RepeatDue)
    turn.set(proven=False, strikes=0)
    turn.emit(effects.StopProbes(turn.snapshot.epoch))


# --- the download ------------------------------------------------------------------------------------------------


def check(turn: Turn) -> None:
    """Look whether the target's weights are in the cache; what was under way ends."""
    target = turn.snapshot.target
    assert target is not None
    _end_fetch(turn)
    turn.emit(effects.CheckWeights(turn.snapshot.fetch, target))
    turn.arm(events.LookOverdue, turn.snapshot.settings.look)


def download(turn: Turn) -> None:
    """Fetch what is missing."""
    target = turn.snapshot.target
    assert target is not None
    turn.cancel(events.LookOverdue, events.DownloadRetryDue)
    turn.set(fetch=turn.snapshot.fetch + 1)
    turn.emit(effects.StartDownload(turn.snapshot.fetch, target))


def note_progress(turn: Turn) -> None:
    """Remember how far the download is."""
    turn.set(progress=turn.event.progress)


def wait_for_next_attempt(turn: Turn) -> None:
    """Try again after a growing, jittered delay."""
    event, snapshot = turn.event, turn.snapshot
    delay = policy.download_delay(snapshot, event.retry_after, event.moved)
    turn.cancel(events.LookOverdue)
    turn.set(fetch_tries=_tries(turn), fetch_finding=event.finding)
    turn.arm(events.DownloadRetryDue, delay)


def end_fetch(turn: Turn) -> None:
    """Nothing more is fetched or checked."""
    _end_fetch(turn)


def finish_fetch(turn: Turn) -> None:
    """Everything is there."""
    turn.cancel(events.LookOverdue)
    turn.set(progress=None, fetch_finding=None, fetch_tries=0)


def end_in_failure(turn: Turn) -> None:
    """No further attempt is made; how many there were is remembered."""
    turn.cancel(events.LookOverdue)
    turn.set(progress=None, fetch_finding=None, fetch_tries=_tries(turn))


def forget_tries(turn: Turn) -> None:
    """How often was tried in vain concerns nobody any more."""
    turn.set(fetch_tries=0)


def _tries(turn: Turn) -> int:
    """Count the attempts in a row that brought nothing, the one that has just failed too."""
    return 0 if turn.event.moved else turn.snapshot.fetch_tries + 1


def _end_fetch(turn: Turn) -> None:
    turn.cancel(events.LookOverdue, events.DownloadRetryDue)
    turn.emit(effects.CancelDownload(turn.snapshot.fetch))
    turn.set(fetch=turn.snapshot.fetch + 1, progress=None, fetch_finding=None, fetch_tries=0)
