from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pileus.cli.output import Lines, Outlet


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


def test_a_reader_that_paused_is_not_waited_for_when_all_is_given_up(pipe: tuple[int, int]) -> None:
    outlet = Outlet(lambda: None)
    outlet.write(pipe[1], b"x" * 1_000_000)
    outlet.give_up(0.05)
    assert not outlet.finished()
    os.close(pipe[0])
    for thread in threading.enumerate():
        if thread.name == "pileus-output":
            thread.join(10)
    assert outlet.finished()


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
