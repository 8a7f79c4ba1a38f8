"""Reading a pipe that may hold anything."""

import asyncio
import os
import tracemalloc

import pytest

from support.wait import await_for
from vllm_fsm.adapters.process.output import LONGEST_LINE, Output

KEY = "kSecretKey0123456789ab"


def relayed(*parts: bytes, key: str = KEY) -> list[str]:
    """What is handed on of these parts, each written for itself."""
    lines: list[str] = []

    def write(writing: int) -> None:
        with open(writing, "wb", buffering=0) as pipe:
            for part in parts:
                rest = memoryview(part)
                while rest:
                    rest = rest[pipe.write(rest) :]

    async def scenario() -> None:
        reading, writing = os.pipe()
        output = Output(reading, relay=lines.append, secret=key)
        await asyncio.to_thread(write, writing)
        await await_for(lambda: not output.open, what="the end of the pipe")

    asyncio.run(scenario())
    return lines


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"\r10%\r20%\r30%\n", ["10%", "20%", "30%"]),
        (b"\n\n a \n\n", [" a "]),
        (b"no end", ["no end"]),
        (b"", []),
        (b"caf\xc3\xa9 \xff\n", ["café �"]),
        (b"nul \0 and \x1b[31mred\n", ["nul \0 and \x1b[31mred"]),
    ],
)
def test_lines_end_with_newline_or_return(written: bytes, lines: list[str]) -> None:
    assert relayed(written) == lines


def test_a_line_is_whole_however_it_is_written() -> None:
    text = "one line é in pieces".encode()
    assert relayed(*(text[index : index + 1] for index in range(len(text))), b"\n") == ["one line é in pieces"]


def test_a_line_at_the_limit_is_whole_and_one_byte_more_is_not() -> None:
    whole, longer = b"x" * LONGEST_LINE, b"y" * (LONGEST_LINE + 1)
    first, second = relayed(whole + b"\n" + longer + b"\n")
    assert first == whole.decode()
    assert second == "y" * LONGEST_LINE + " … [1 bytes more]"


def test_what_is_cut_is_counted() -> None:
    (line,) = relayed(b"z" * 5_000_000 + b"\n")
    assert line == "z" * LONGEST_LINE + f" … [{5_000_000 - LONGEST_LINE} bytes more]"


@pytest.mark.parametrize("blanks", [True, False])
def test_no_piece_of_the_key_is_ever_left_over(blanks: bool) -> None:
    """Whoever redacts looks for the whole key: wherever it stands, a line holds all of it or nothing."""
    filling = b"- " if blanks else b"--"
    written = []
    for offset in range(-len(KEY) - 2, 3):
        before = (filling * LONGEST_LINE)[: LONGEST_LINE + offset]
        written.append(before + KEY.encode() + b" more of it\n")
    for line in relayed(*written):
        assert "kS" not in line.replace(KEY, "")
        assert len(line) <= LONGEST_LINE + 40


def test_a_flood_is_read_in_bounded_memory() -> None:
    async def scenario() -> int:
        reading, writing = os.pipe()
        lines = 0

        def count(line: str) -> None:
            nonlocal lines
            lines += 1

        output = Output(reading, relay=count, secret=KEY)
        tracemalloc.start()
        flood = asyncio.create_task(asyncio.to_thread(pour, writing))
        await await_for(lambda: not output.open, 60, "the end of the flood")
        await flood
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert lines == 50_001
        return peak

    def pour(writing: int) -> None:
        with open(writing, "wb", buffering=0) as pipe:
            pipe.writelines(b"x" * 65536 for _ in range(800))
            pipe.write(b"\n")
            pipe.writelines(b"a line of the flood\n" * 100 for _ in range(500))

    assert asyncio.run(scenario()) < 2_000_000


def test_draining_reads_what_is_there_and_does_not_wait_for_more() -> None:
    async def scenario() -> None:
        reading, writing = os.pipe()
        lines: list[str] = []
        output = Output(reading, relay=lines.append, secret=KEY)
        os.write(writing, b"one\ntwo\nthree")
        output.drain()
        assert lines == ["one", "two", "three"]
        output.drain()
        assert lines == ["one", "two", "three"]
        output.close()
        output.drain()
        os.close(writing)

    asyncio.run(scenario())
