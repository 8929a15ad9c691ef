"""Carries a remote command's output to our own standard output and error: bytes as they are, at once, in order.

Writing happens on a thread of its own. A reader that pauses (`| less`) would otherwise hold up the event loop, and with
it what keeps the server alive, and what answers to Ctrl-C. The command is held up instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections.abc import Awaitable, Callable

MOST_WAITING = 1 << 20
"""Bytes that may wait for a slow reader before the command has to."""

Pending = Awaitable[object] | None
"""Something to wait for before more output is fetched, or None to go on."""


class Outlet:
    """Writes pieces of output to file descriptors, on one thread. To be made and used on one event loop.

    Args:
        on_closed: called once, on the loop, when nothing can be written any more; what comes later is dropped.

    Attributes:
        problem: why, when it was not just that the reader went away.
    """

    def __init__(self, on_closed: Callable[[], None]) -> None:
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._pieces: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._room = asyncio.Event()
        self._room.set()
        self._ending = False
        self.closed = False
        self.problem: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="pileus-output", daemon=True)
        self._thread.start()

    def write(self, descriptor: int, piece: bytes) -> Pending:
        """Have a piece written; await what is returned before fetching more."""
        if not piece or self.closed:
            return None
        with self._lock:
            self._waiting += len(piece)
            if self._waiting > MOST_WAITING:
                self._room.clear()
        self._pieces.put((descriptor, piece))
        return None if self._room.is_set() else self._room.wait()

    def finished(self) -> bool:
        """Ask for the end, after which nothing can be written, and tell whether all is written; does not wait."""
        if not self._ending:
            self._ending = True
            self._pieces.put(None)
        return not self._thread.is_alive()

    async def wait(self) -> None:
        """Wait until everything is written, for as long as it takes. Cancelled, it leaves the rest unwritten.

        It looks again and again, and joins in no thread: a reader may have paused for ever, and leaving a loop waits
        for its threads.
        """
        while not self.finished():  # noqa: ASYNC110
            await asyncio.sleep(0.002)

    def give_up(self, timeout: float) -> None:
        """Wait until everything is written, but not longer than `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not self.finished() and time.monotonic() < deadline:
            time.sleep(0.002)

    def _run(self) -> None:
        while (item := self._pieces.get()) is not None:
            if not self.closed:
                try:
                    _write_all(*item)
                except OSError as problem:  # nobody reads any more, or the disk is full: either way the output is lost
                    self.closed = True
                    self.problem = None if isinstance(problem, BrokenPipeError) else problem
                    self._tell(self._on_closed)
            with self._lock:
                self._waiting -= len(item[1])
                go_on = not self._room.is_set() and self._waiting <= MOST_WAITING // 2
            if go_on:
                self._tell(self._reconsider)

    def _tell(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever wanted to know
            self._loop.call_soon_threadsafe(function)

    def _reconsider(self) -> None:
        with self._lock:
            if self._waiting <= MOST_WAITING // 2:
                self._room.set()


class Lines:
    """Puts a prefix before each line, and passes on whole lines only, so that those of several servers do not mix."""

    def __init__(self, prefix: str, write: Callable[[bytes], Pending]) -> None:
        self._prefix = prefix.encode()
        self._write = write
        self._rest = b""

    def feed(self, piece: bytes) -> Pending:
        """Take a piece of output, cut anywhere; await what is returned before giving more."""
        *whole, self._rest = (self._rest + piece).split(b"\n")
        return self._write(b"".join(self._prefix + line + b"\n" for line in whole)) if whole else None

    def end(self) -> None:
        """Pass on a last line that has no end."""
        if self._rest:
            self._write(self._prefix + self._rest + b"\n")
            self._rest = b""


def _write_all(descriptor: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(descriptor, view) :]
