"""Lines that a reader may or may not take."""

import io
import os
import threading

import pytest

from support.wait import wait_for
from vllm_fsm.adapters import log_stream
from vllm_fsm.adapters.log_stream import LogStream


def test_lines_come_in_order():
    stream = io.StringIO()
    lines = LogStream(stream)
    for number in range(1000):
        lines.msg(str(number))
    lines.close()
    assert stream.getvalue().split() == [str(number) for number in range(1000)]


def test_a_reader_that_stands_still_stops_nobody(monkeypatch):
    monkeypatch.setattr(log_stream, "LIMIT", 10)
    monkeypatch.setattr(log_stream, "CLOSE_LIMIT", 0.1)
    reading, writing = os.pipe()
    with open(writing, "w") as stream:
        lines = LogStream(stream)
        for _ in range(200):
            lines.msg("x" * 100_000)
        lines.close()
        assert lines._thread.is_alive()
        with open(reading) as reader:
            found = threading.Thread(target=lambda: texts.append(reader.read()))
            texts: list[str] = []
            found.start()
            wait_for(lambda: lines._queue.empty(), 5.0, "the lines are taken")
            lines.close()
            stream.close()
            found.join(5.0)
    assert "log-lines-lost" in texts[0]


@pytest.mark.parametrize("error", [BrokenPipeError, OSError, ValueError])
def test_a_stream_that_fails_takes_no_more(error):
    class Gone(io.StringIO):
        def write(self, text):
            raise error

    lines = LogStream(Gone())
    lines.msg("first")
    wait_for(lambda: not lines._thread.is_alive(), 5.0, "it gives up")
    for _ in range(log_stream.LIMIT + 1):
        lines.msg("more")
    lines.close()
