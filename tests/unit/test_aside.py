"""Calls beside the event loop: what they return and raise, and that nothing is kept of them."""

import asyncio
import threading

import pytest

from support.wait import await_for
from vllm_fsm.adapters.aside import aside, within


def test_what_the_call_returns_and_raises_comes_back() -> None:
    assert asyncio.run(aside(divmod, 7, 2)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(aside(divmod, 7, 0))


def test_many_at_a_time_leave_no_thread() -> None:
    together = threading.Barrier(5, timeout=10.0)
    threads = set()

    def act() -> None:
        together.wait()
        threads.add(threading.current_thread())

    async def scenario() -> None:
        await asyncio.gather(*(aside(act) for _ in range(5)))

    asyncio.run(scenario())
    for thread in threads:
        thread.join(10.0)
    assert len(threads) == 5
    assert not threads & {*threading.enumerate()}


def test_nobody_waits_for_one_that_hangs() -> None:
    go_on = threading.Event()

    async def scenario() -> threading.Thread:
        began = asyncio.Event()
        loop = asyncio.get_running_loop()
        held: list[threading.Thread] = []

        def hang() -> None:
            held.append(threading.current_thread())
            loop.call_soon_threadsafe(began.set)
            go_on.wait()

        waiting = asyncio.create_task(aside(hang))
        await began.wait()
        assert await aside(int) == 0
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        return held[0]

    thread = asyncio.run(scenario())
    assert thread.is_alive()
    go_on.set()
    thread.join(10.0)
    assert not thread.is_alive()


def test_an_answer_that_nobody_waits_for_any_more_is_dropped() -> None:
    go_on, wrong = threading.Event(), []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: wrong.append(context))
        held: list[threading.Thread] = []

        def act() -> None:
            held.append(threading.current_thread())
            go_on.wait()

        waiting = asyncio.create_task(aside(act))
        await await_for(lambda: held, what="the thread")
        waiting.cancel()
        await asyncio.wait([waiting])
        go_on.set()
        held[0].join(10.0)
        assert await aside(int) == 0  # what the other one told was told before

    asyncio.run(scenario())
    assert wrong == []


def test_without_room_for_a_thread_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        asyncio.run(aside(int))


def test_what_no_future_takes_comes_back_as_another_error() -> None:
    def end() -> None:
        raise StopIteration("enough")

    with pytest.raises(RuntimeError, match="enough"):
        asyncio.run(aside(end))


def test_an_answer_within_the_time() -> None:
    assert within(10.0, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        within(10.0, divmod, 7, 0)


def test_no_answer_within_the_time() -> None:
    go_on = threading.Event()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.01 s"):
        within(0.01, go_on.wait)
    go_on.set()


def test_an_answer_that_says_that_something_took_too_long() -> None:
    def late() -> None:
        raise TimeoutError("the server")

    with pytest.raises(TimeoutError, match="the server"):
        within(10.0, late)
