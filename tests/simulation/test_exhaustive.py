"""Every situation within a few events of the start: the invariants hold in it, and it ends as the files ask.

`make situations` goes on until nothing new is found.
"""

from dataclasses import dataclass, replace

import pytest

from support import faults, invariants
from support.search import AGAIN, CELLS, SMALL, Life, Outside, Search, Situation, contents_of, settling, unmet
from support.story import CRASH, OTHER_KEY, WRONG, Story, target
from support.world import Broken
from vllm_fsm.core import effects as fx
from vllm_fsm.core import events as ev
from vllm_fsm.core.snapshot import Progress
from vllm_fsm.core.states import Download, Engine, Service

DEPTH = 7
EVERY = 25
"""One of so many situations is settled here."""


@pytest.fixture(scope="module", params=[True, False], ids=["after download", "at once, with a fallback"])
def search(request):
    depth = DEPTH if request.param else DEPTH - 1
    return Search(replace(SMALL, swap_after_download=request.param, fallback=not request.param), depth=depth).run()


def test_every_situation_within_some_events_keeps_the_invariants(search, capsys):
    assert {s.snapshot.state for s in search.situations} == set(Service)
    assert {s.snapshot.engine for s in search.situations} == set(Engine)
    assert {s.snapshot.download for s in search.situations} == set(Download)
    with capsys.disabled():
        print(f" {search}; {len(CELLS) - len(unmet(search))} of {len(CELLS)} cells of the service table met", end="")


def test_every_kind_of_bad_news_comes(search):
    told = {fault.partition(":")[0] for fault, _ in search.faults}
    too_far = {faults.BY_KIND[ev.UnresponsiveDue]} if search.depth < DEPTH else set()
    assert told == {*faults.BY_KIND.values(), faults.LATE, AGAIN} - too_far


def test_when_the_faults_end_it_settles_as_the_files_ask(search):
    for index in range(0, len(search.situations), EVERY):
        search.settle(index)


# --- that it can fail --------------------------------------------------------------------------------------------


READY = Story().ready().snapshot
STARTING = Story().loading().snapshot
CHANGED = ev.WantedChanged(READY.since, target("org/two"))
START = fx.StartEngine(READY.epoch, target())
COUNTEREXAMPLES = {
    invariants.named: {"after": replace(READY, state=Service.LOADING)},
    invariants.single: {"living": 2},
    invariants.proven: {"passed": False},
    invariants.living: {"after": replace(READY, engine=Engine.TERMINATING)},
    invariants.active: {"serving": target("org/two")},
    invariants.owned: {"after": replace(READY, active=None)},
    invariants.vacant: {"after": replace(READY, engine=Engine.ABSENT)},
    invariants.underway: {"after": replace(READY, engine=Engine.ABSENT)},
    invariants.explained: {"after": replace(READY, state=Service.FAILED)},
    invariants.final: {"after": replace(READY, failed=True, finding=WRONG, timers=((ev.RestartDue, 1.0),))},
    invariants.content: {"after": replace(READY, finding=CRASH)},
    invariants.moderate: {"after": replace(READY, crashes=(1.0,) * 9)},
    invariants.punctual: {"timers": {ev.RestartDue: 1.0}},
    invariants.one_start: {"effects": (START, START)},
    invariants.measured: {"after": replace(READY, progress=Progress("org/one", 11, 10))},
    invariants.spared: {"event": CHANGED, "effects": (fx.TerminateEngine(READY.epoch),)},
    invariants.keyed: {"effects": (replace(START, target=target(key=OTHER_KEY)),)},
    invariants.apart: {"after": replace(READY, download=Download.CHECKING)},
    invariants.ending: {"after": replace(READY, stopping=True), "effects": (START,)},
    invariants.justified: {"after": replace(READY, fallen_back=True)},
    invariants.moving: {
        "event": ev.PulseTaken(STARTING.since + 1000.0, STARTING.epoch, False),
        "after": STARTING,
    },
    invariants.past: {"event": ev.EngineStepped(READY.since, READY.epoch - 1)},
}


@pytest.mark.parametrize("invariant", invariants.INVARIANTS, ids=lambda one: one.__name__)
def test_each_invariant_says_no_to_what_it_is_about(invariant):
    stepped = ev.EngineStepped(READY.since, READY.epoch)
    seen = invariants.Seen(READY, stepped, READY, (), living=1, serving=target(), passed=True, timers={})
    assert invariants.broken(seen) is None
    assert invariant(seen)
    assert not invariant(replace(seen, **COUNTEREXAMPLES[invariant]))


def test_the_search_names_the_broken_promise_and_the_way_to_it(monkeypatch):
    monkeypatch.setattr(invariants, "INVARIANTS", [lambda seen: not invariants.proven(seen) or not seen.after.proven])
    way = r"(?s)WantedChanged.*WeightsComplete.*EngineStarted.*ProbePassed"
    with pytest.raises(Broken, match=way):
        Search(depth=5).run()


def test_a_situation_that_nothing_leads_out_of_is_named():
    """Nobody looks whether the engine is gone."""
    story = Story().ready().happens(ev.EngineExited, 1, CRASH)
    looked_at = Outside(Life.LEFT, target(), confirming=True)
    assert settling(Situation(story.snapshot, looked_at, story.now)) < 60.0
    with pytest.raises(Broken, match="does not settle"):
        settling(Situation(story.snapshot, replace(looked_at, confirming=False), story.now))


def test_an_event_that_may_say_something_unknown_is_named():
    @dataclass(frozen=True)
    class Told(ev.Event):
        what: "bytes"

    with pytest.raises(LookupError, match=r"bytes may be: Told\.what"):
        contents_of(Told)
