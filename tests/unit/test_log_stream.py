"""Lines that a reader may or may not take."""

import os
import threading

import pytest

from support.wait import wait_for
from vllm_fsm.adapters import log_stream
from vllm_fsm.adapters.log_stream import LogStream


@pytest.fixture
def pipe():
    """A pipe as two descriptors; the test may close either."""
    ends = list(os.pipe())
    yield ends
    for end in ends:
        if end is not None:
            os.close(end)


def read_all(descriptor):
    with open(descriptor, "rb", closefd=False) as reader:
        return reader.read()


def shut(pipe, index):
    os.close(pipe[index])
    pipe[index] = None


def test_lines_come_in_order(pipe):
    lines = LogStream(pipe[1])
    for number in range(1000):
        lines.msg(str(number))
    lines.close()
    shut(pipe, 1)
    assert read_all(pipe[0]).split() == [b"%d" % number for number in range(1000)]


def test_what_is_no_text_is_written_all_the_same(pipe):
    lines = LogStream(pipe[1])
    lines.msg("→ \udcff")
    lines.close()
    shut(pipe, 1)
    assert read_all(pipe[0]) == "→ \\udcff\n".encode()


def test_a_reader_that_stands_still_stops_nobody_and_what_is_lost_is_counted(pipe, monkeypatch):
    monkeypatch.setattr(log_stream, "LIMIT", 1_000_000)
    monkeypatch.setattr(log_stream, "CLOSE_LIMIT", 0.1)
    lines = LogStream(pipe[1])
    for _ in range(30):
        lines.msg("x" * 99_999)
    assert lines.lost >= 20
    lines.close()
    assert lines._thread.is_alive()
    texts: list[bytes] = []
    reader = threading.Thread(target=lambda: texts.append(read_all(pipe[0])))
    reader.start()
    lines._thread.join(5.0)
    shut(pipe, 1)
    reader.join(5.0)
    assert len(texts[0]) == (30 - lines.lost) * 100_000


def test_a_stream_that_takes_nothing_for_a_moment_is_tried_again(pipe, monkeypatch):
    monkeypatch.setattr(log_stream, "PAUSE", 0.001)
    os.set_blocking(pipe[1], False)
    lines = LogStream(pipe[1])
    for _ in range(20):
        lines.msg("x" * 9_999)
    texts: list[bytes] = []
    reader = threading.Thread(target=lambda: texts.append(read_all(pipe[0])))
    reader.start()
    wait_for(lambda: not lines._lines and not lines._waiting, 5.0, "all is written")
    lines.close()
    shut(pipe, 1)
    reader.join(5.0)
    assert len(texts[0]) == 200_000
    assert lines.lost == 0


def test_when_nobody_reads_any_more_it_takes_no_more(pipe):
    lines = LogStream(pipe[1])
    shut(pipe, 0)
    lines.msg("first")
    wait_for(lambda: not lines._thread.is_alive(), 5.0, "it gives up")
    lines.msg("more")
    assert lines._waiting <= len("first\n")
    lines.close()


def test_a_burst_goes_out_in_pieces(monkeypatch, pipe):
    room, sizes = threading.Event(), []

    def write(_, data):
        room.wait()
        sizes.append(len(data))
        return len(data)

    monkeypatch.setattr(log_stream.os, "write", write)
    lines = LogStream(pipe[1])
    for _ in range(10_000):
        lines.msg("x" * 99)
    room.set()
    lines.close()
    assert sum(sizes) == 1_000_000
    assert max(sizes) <= log_stream.PIECE
    assert len(sizes) < 100
