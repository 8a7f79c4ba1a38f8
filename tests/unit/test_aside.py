"""Calls beside the event loop: what they return and raise, and that nothing is kept of them."""

import asyncio
import threading

import pytest

from vllm_fsm.adapters.aside import aside


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

    before = set(threading.enumerate())
    asyncio.run(scenario())
    for thread in threads:
        thread.join(10.0)
    assert len(threads) == 5
    assert set(threading.enumerate()) == before


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
    go_on = threading.Event()

    async def scenario() -> None:
        waiting = asyncio.create_task(aside(go_on.wait))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        go_on.set()
        assert await aside(int) == 0

    asyncio.run(scenario())


def test_without_room_for_a_thread_the_loop_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert asyncio.run(aside(threading.current_thread)) is threading.current_thread()
