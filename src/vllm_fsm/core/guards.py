"""The questions that rows ask. Each is a pure predicate of the turn: the snapshot before this event, and the event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_fsm.core import policy
from vllm_fsm.core.events import GraceExpired, RestartDue
from vllm_fsm.core.states import Download, Engine, Phase

if TYPE_CHECKING:
    from vllm_fsm.core.snapshot import Finding
    from vllm_fsm.core.turn import Turn

# --- about a change of the files ---------------------------------------------------------------------------------


def unchanged(turn: Turn) -> bool:
    """The same target as before."""
    return bool(turn.event.target == turn.snapshot.target)


def nothing_wanted(turn: Turn) -> bool:
    """No model is selected."""
    return turn.event.target is None


def unusable(turn: Turn) -> bool:
    """The arguments must not be started."""
    return turn.event.target.problem is not None


def reverted(turn: Turn) -> bool:
    """The files ask again for what is active, and it has not been given up."""
    return bool(turn.event.target == turn.snapshot.active) and not turn.snapshot.failed


def rekeyed(turn: Turn) -> bool:
    """There is an active engine and its key is no longer the one in force."""
    active = turn.snapshot.active
    return active is not None and turn.event.target.key != active.key


def key_alone(turn: Turn) -> bool:
    """Only the key differs from the last target."""
    old = turn.snapshot.target
    return old is not None and old.same_but_key(turn.event.target)


def key_alone_while_downloading(turn: Turn) -> bool:
    """Only the key differs, and a download runs beside the engine."""
    return rekeyed(turn) and key_alone(turn) and downloading(turn)


def swap_at_once(turn: Turn) -> bool:
    """The setting asks for a plain stop and start."""
    return not turn.snapshot.settings.swap_after_download


# --- about the download ------------------------------------------------------------------------------------------


def downloading(turn: Turn) -> bool:
    """A download runs or waits for its next try."""
    return turn.snapshot.download in (Download.RUNNING, Download.WAITING)


def download_waits(turn: Turn) -> bool:
    """A download waits for its next try."""
    return turn.snapshot.download is Download.WAITING


def download_goes_on(turn: Turn) -> bool:
    """The failed attempt is followed by another."""
    return policy.download_goes_on(turn.snapshot, turn.event.finding, turn.event.moved)


def next_not_fetched(turn: Turn) -> bool:
    """Another model was chosen, can be started, and nothing is under way for it."""
    snapshot = turn.snapshot
    target = snapshot.target
    return snapshot.pending and target is not None and target.problem is None and snapshot.download is Download.IDLE


# --- about the engine --------------------------------------------------------------------------------------------


def alive(turn: Turn) -> bool:
    """An engine process was asked to start and not to stop."""
    return turn.snapshot.engine is Engine.ALIVE


def asked(turn: Turn) -> bool:
    """The engine ends because we asked it to."""
    return turn.snapshot.engine is Engine.TERMINATING


def executed(turn: Turn) -> bool:
    """The engine's process exists."""
    return turn.snapshot.pid is not None


def leader_gone(turn: Turn) -> bool:
    """The leader of the stopping engine is reaped: no rung of the stop ladder is ahead."""
    snapshot = turn.snapshot
    return snapshot.pid is not None and snapshot.due(GraceExpired) is None


def proven(turn: Turn) -> bool:
    """The engine is ready."""
    return turn.snapshot.proven


def served(turn: Turn) -> bool:
    """The engine has been ready: its start is over."""
    return turn.snapshot.proven_at is not None


def behind(turn: Turn) -> bool:
    """The start has come to a later phase already."""
    order = list(Phase)
    phases = turn.snapshot.phases
    return bool(phases) and order.index(turn.event.phase) < order.index(phases[-1].phase)


def may_start(turn: Turn) -> bool:
    """Something is to run and nothing else than the last engine was in its way."""
    return policy.may_start(turn.snapshot)


def has_active(turn: Turn) -> bool:
    """There is something to start or to start again."""
    return turn.snapshot.active is not None


def active_goes_on(turn: Turn) -> bool:
    """Besides the chosen model, an earlier one runs or will be tried again."""
    return turn.snapshot.pending and not turn.snapshot.failed


def earlier_goes_on(turn: Turn) -> bool:
    """An earlier model runs or will be tried again, and the setting lets it serve until the next one is there."""
    return active_goes_on(turn) and not swap_at_once(turn)


def unusable_but_active(turn: Turn) -> bool:
    """The arguments must not be started, and an earlier model runs or will be tried again."""
    return unusable(turn) and active_goes_on(turn)


def unusable_but_last_good(turn: Turn) -> bool:
    """The arguments must not be started, and what was ready last may take over."""
    return unusable(turn) and policy.falls_back(turn.snapshot, turn.event.target)


# --- about failures ----------------------------------------------------------------------------------------------


def again(turn: Turn) -> bool:
    """The policy starts the engine again by itself soon."""
    finding = turn.event.finding
    return isinstance(policy.after_failure(turn.snapshot, turn.event.at, finding), policy.Again)


def again_after_stuck(turn: Turn) -> bool:
    """The policy starts an unresponsive engine again soon."""
    finding = turn.snapshot.finding
    assert finding is not None
    return isinstance(policy.after_failure(turn.snapshot, turn.event.at, finding), policy.Again)


def last_good_helps(turn: Turn) -> bool:
    """The target's engine failed for good, and what was ready last may take over."""
    return _last_good_helps(turn, turn.event.finding)


def last_good_helps_download(turn: Turn) -> bool:
    """The target's weights cannot be had for good, and what was ready last may take over."""
    return bool(turn.event.finding.permanent) and policy.falls_back(turn.snapshot, turn.snapshot.target)


def _last_good_helps(turn: Turn, finding: Finding) -> bool:
    snapshot = turn.snapshot
    if snapshot.active != snapshot.target or not policy.falls_back(snapshot, snapshot.target):
        return False
    return policy.judged(snapshot, turn.event.at, finding).permanent


def hung(turn: Turn) -> bool:
    """The starting engine has done nothing for too long."""
    return policy.hang(turn.snapshot, turn.event) is not None


def hung_again(turn: Turn) -> bool:
    """It hangs, and the policy starts it again."""
    finding = policy.hang(turn.snapshot, turn.event)
    return finding is not None and isinstance(policy.after_failure(turn.snapshot, turn.event.at, finding), policy.Again)


def hung_but_last_good(turn: Turn) -> bool:
    """It hangs once more, and what was ready last may take over."""
    finding = policy.hang(turn.snapshot, turn.event)
    return finding is not None and _last_good_helps(turn, finding)


def dead_and_explained(turn: Turn) -> bool:
    """The engine was ended because it was dead, and its output says why it died."""
    snapshot = turn.snapshot
    return (
        asked(turn)
        and served(turn)
        and snapshot.finding is not None
        and snapshot.finding.reason == policy.ENGINE_DEAD
        and turn.event.finding.reason != policy.ENGINE_STOPPED
    )


def dead_for_good(turn: Turn) -> bool:
    """The same, and it has ended it before."""
    event = turn.event
    return dead_and_explained(turn) and policy.explained(turn.snapshot, event.at, event.finding).permanent


def waits_for_restart(turn: Turn) -> bool:
    """The next try has its time set."""
    return turn.snapshot.due(RestartDue) is not None


def port_was_taken(turn: Turn) -> bool:
    """Somebody else held the port when last looked at."""
    finding = turn.snapshot.finding
    return has_active(turn) and finding is not None and finding.reason == policy.PORT_TAKEN


def port_still_ours(turn: Turn) -> bool:
    """The port was taken, and something of our last engine is left, which may be what holds it."""
    return port_was_taken(turn) and turn.snapshot.engine is not Engine.ABSENT


def comes_again(turn: Turn) -> bool:
    """The engine that failed is not given up: its next try has its time set, or the port is being looked at."""
    return waits_for_restart(turn) or port_was_taken(turn)


def first_strike(turn: Turn) -> bool:
    """The engine has not missed enough canary requests to be called unresponsive."""
    return turn.snapshot.strikes + 1 < turn.snapshot.settings.unresponsive_strikes


def struck(turn: Turn) -> bool:
    """The last canary request went unanswered."""
    return turn.snapshot.strikes > 0


def unresponsive(turn: Turn) -> bool:
    """The engine is alive and was called unresponsive."""
    snapshot = turn.snapshot
    return snapshot.failed and snapshot.strikes >= snapshot.settings.unresponsive_strikes


def target_unusable(turn: Turn) -> bool:
    """What the files ask for must not be started."""
    target = turn.snapshot.target
    return target is not None and target.problem is not None


def stopping(turn: Turn) -> bool:
    """The controller is already ending."""
    return turn.snapshot.stopping
