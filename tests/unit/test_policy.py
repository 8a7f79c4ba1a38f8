"""When to try again."""

from hypothesis import given
from hypothesis import strategies as st

from vllm_fsm.core import policy
from vllm_fsm.core.policy import Again, Rest
from vllm_fsm.core.snapshot import Finding, Settings, Snapshot
from vllm_fsm.messages import ENGLISH

CRASH = Finding.of("EngineExited", status=1, line="nothing")
WRONG = Finding.of("BadArguments", permanent=True, detail="no")


def test_the_first_failure_is_repeated_at_once():
    assert policy.after_failure(Snapshot(), 100.0, CRASH) == Again(0.0)


def test_then_delays_grow_and_the_intensity_ends_them():
    crashes: tuple[float, ...] = ()
    delays = []
    for number in range(5):
        decision = policy.after_failure(Snapshot(crashes=crashes, epoch=number), 10.0, CRASH)
        assert isinstance(decision, Again)
        delays.append(decision.delay)
        crashes += (10.0,)
    assert delays[0] == 0.0
    for delay, base in zip(delays[1:], [1, 2, 4, 8], strict=True):
        assert 0.8 * base <= delay < 1.2 * base
    assert policy.after_failure(Snapshot(crashes=crashes), 10.0, CRASH) == Rest(900.0, resting=True)


def test_failures_outside_the_window_are_forgotten():
    assert policy.after_failure(Snapshot(crashes=(0.0, 1.0, 2.0, 3.0, 4.0)), 1000.0, CRASH) == Again(0.0)


def test_resting_goes_on_until_the_engine_was_ready_for_long():
    resting = Snapshot(resting=True, proven_at=1000.0)
    assert policy.after_failure(resting, 1500.0, CRASH) == Rest(900.0, resting=True)
    assert policy.after_failure(resting, 1600.0, CRASH) == Again(0.0)


def test_a_permanent_failure_waits_for_the_user():
    assert policy.after_failure(Snapshot(), 0.0, WRONG) == Rest(None)


def test_what_is_worth_one_more_try_is_permanent_when_it_repeats():
    full = Finding.of("GpuMemoryFullUnmeasured")
    assert policy.judged(Snapshot(), 10.0, full) is full
    assert policy.judged(Snapshot(crashes=(0.0,), causes=("EngineExited",)), 10.0, full) is full
    assert policy.judged(Snapshot(crashes=(0.0,), causes=(full.reason,)), 10.0, full).permanent
    both = Snapshot(crashes=(0.0, 1.0), causes=(full.reason, "EngineExited"))
    assert policy.judged(both, 10.0, full).permanent
    assert policy.judged(both, 900.5, full) is full
    assert policy.judged(Snapshot(causes=(full.reason,)), 10.0, full) is full


def test_what_may_always_pass_is_never_permanent_by_repeating():
    busy = Finding.of("GpuBusyUnmeasured")
    assert policy.judged(Snapshot(crashes=(0.0,), causes=(busy.reason,)), 10.0, busy) is busy
    assert policy.judged(Snapshot(crashes=(0.0,), causes=(WRONG.reason,)), 10.0, WRONG) is WRONG


def test_every_reason_that_is_tried_once_more_has_a_sentence():
    assert set(ENGLISH) >= policy.ONCE


def test_what_has_served_is_started_again_whatever_it_printed():
    assert policy.after_failure(Snapshot(proven_at=5.0), 6.0, WRONG) == Again(0.0)


def test_a_taken_port_is_looked_at_again():
    taken = Finding.of("PortTaken", port=8000, holder="x")
    assert policy.after_failure(Snapshot(crashes=(0.0,) * 9), 1.0, taken) == Rest(5.0)


@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_jitter_stays_in_its_bounds(seed, number):
    assert 0.8 <= policy.jitter(seed, number) < 1.2


@given(st.lists(st.floats(0, 1e6), max_size=30), st.integers(0, 1000))
def test_no_delay_is_longer_than_the_longest(crashes, epoch):
    settings = Settings(restart_intensity=100, restart_window=1e9)
    decision = policy.after_failure(Snapshot(settings=settings, crashes=tuple(crashes), epoch=epoch), 1e6, CRASH)
    assert isinstance(decision, Again)
    assert 0.0 <= decision.delay <= settings.restart_longest


@given(st.integers(0, 100), st.floats(0, 4000))
def test_a_download_waits_as_long_as_the_hub_asked(tries, asked):
    delay = policy.download_delay(Snapshot(fetch_tries=tries), asked)
    assert delay >= asked
    assert delay <= max(asked, 300.0 * 1.2)


def test_downloads_end_when_permanent_or_too_often_without_a_byte():
    hub = Finding.of("HubUnreachable")
    assert policy.download_goes_on(Snapshot(fetch_tries=8), hub, moved=False)
    assert not policy.download_goes_on(Snapshot(fetch_tries=9), hub, moved=False)
    assert policy.download_goes_on(Snapshot(fetch_tries=9), hub, moved=True)
    assert not policy.download_goes_on(Snapshot(), WRONG, moved=True)


def test_what_ends_an_engine_that_has_served_is_told_as_transient_unless_it_is_permanent_and_repeats():
    once = Finding.of("GpuMemoryFullUnmeasured")
    served = Snapshot(proven_at=0.0, crashes=(10.0,), causes=("GpuMemoryFullUnmeasured",))
    assert not policy.judged(served, 20.0, once).permanent
    assert not policy.judged(served, 20.0, WRONG).permanent
    again = Snapshot(proven_at=0.0, crashes=(10.0,), causes=(WRONG.reason,))
    assert policy.judged(again, 20.0, WRONG).permanent
    assert policy.after_failure(again, 20.0, WRONG) == policy.Rest(None)
    assert not policy.judged(again, 10.0 + again.settings.restart_window, WRONG).permanent
