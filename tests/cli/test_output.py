from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pileus.cli.output import MOST_WAITING, Lines, Outlet, Pending


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(descriptor)


async def test_pieces_are_written_in_order_as_they_are(pipe: tuple[int, int]) -> None:
    outlet = Outlet(lambda: None)
    for piece in (b"a\xff", b"", b"\0b"):
        outlet.write(pipe[1], piece)
    await outlet.wait()
    assert os.read(pipe[0], 100) == b"a\xff\0b"


async def test_a_reader_that_left_is_told_once_and_the_rest_is_dropped(pipe: tuple[int, int]) -> None:
    told: list[None] = []
    outlet = Outlet(lambda: told.append(None))
    os.close(pipe[0])
    for _ in range(1000):
        outlet.write(pipe[1], b"x")
    await outlet.wait()
    assert told == [None]


async def test_a_reader_that_paused_holds_up_whoever_writes_and_nobody_else(pipe: tuple[int, int]) -> None:
    outlet = Outlet(lambda: None)
    waiting: list[Pending] = []
    while not waiting:
        pending = outlet.write(pipe[1], b"x" * 100_000)
        if pending is not None:
            waiting.append(pending)
    held_up = asyncio.ensure_future(waiting[0])
    await asyncio.sleep(0.05)
    assert not held_up.done()
    outlet.give_up(0.05)
    assert not outlet.finished()
    reading = asyncio.get_running_loop().run_in_executor(None, _read_all, pipe[0])
    await held_up
    await outlet.wait()
    os.close(pipe[1])
    assert await reading > MOST_WAITING


def _read_all(descriptor: int) -> int:
    total = 0
    while piece := os.read(descriptor, 1 << 16):
        total += len(piece)
    return total


@given(st.lists(st.binary(max_size=12)))
def test_lines_get_their_prefix_however_they_are_cut(pieces: list[bytes]) -> None:
    written: list[bytes] = []
    lines = Lines("s | ", written.append)
    for piece in pieces:
        lines.feed(piece)
    lines.end()
    whole = b"".join(pieces)
    expected = whole.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert b"".join(written) == b"".join(b"s | " + line + b"\n" for line in expected)
    assert all(piece.endswith(b"\n") for piece in written)
