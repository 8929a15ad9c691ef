"""Carries a remote command's output to our own standard output and error: bytes as they are, at once, in order.

Writing happens on a thread of its own. A reader that pauses (`| less`) would otherwise hold up the event loop, and with it what keeps the
server alive.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable

MOST_WAITING = 256
"""Pieces that may wait for a slow reader before we wait too; a piece is at most some tens of kB."""


class Outlet:
    """Writes pieces of output to file descriptors, on one thread.

    Args:
        on_closed: called once, on that thread, when a reader went away; what comes later is dropped.
    """

    def __init__(self, on_closed: Callable[[], None]) -> None:
        self._on_closed = on_closed
        self._pieces: queue.Queue[tuple[int, bytes] | None] = queue.Queue(MOST_WAITING)
        self.closed = False
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="pileus-output", daemon=True)
        self._thread.start()

    def write(self, descriptor: int, piece: bytes) -> None:
        """Have a piece written; waits only when very much is waiting already."""
        if piece and not self.closed:
            self._pieces.put((descriptor, piece))

    def finished(self) -> bool:
        """Ask for the end, after which nothing can be written, and tell whether everything is written; does not wait."""
        if not self._ending:
            try:
                self._pieces.put_nowait(None)
            except queue.Full:
                return False
            self._ending = True
        return not self._thread.is_alive()

    async def wait(self) -> None:
        """Wait until everything is written, for as long as it takes. Cancelled, it leaves the rest unwritten.

        It looks again and again, and joins in no thread: a reader may have paused for ever, and leaving a loop waits for its threads.
        """
        while not self.finished():  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    def give_up(self, timeout: float) -> None:
        """Wait until everything is written, but not longer than `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not self.finished() and time.monotonic() < deadline:
            time.sleep(0.005)

    def _run(self) -> None:
        while (item := self._pieces.get()) is not None:
            if self.closed:
                continue
            try:
                _write_all(*item)
            except OSError:  # nobody reads any more, or the disk is full: either way the output is lost
                self.closed = True
                self._on_closed()


class Lines:
    """Puts a prefix before each line, and passes on whole lines only, so that those of several servers do not mix."""

    def __init__(self, prefix: str, write: Callable[[bytes], None]) -> None:
        self._prefix = prefix.encode()
        self._write = write
        self._rest = b""

    def feed(self, piece: bytes) -> None:
        """Take a piece of output, cut anywhere."""
        *whole, self._rest = (self._rest + piece).split(b"\n")
        if whole:
            self._write(b"".join(self._prefix + line + b"\n" for line in whole))

    def end(self) -> None:
        """Pass on a last line that has no end."""
        if self._rest:
            self._write(self._prefix + self._rest + b"\n")
            self._rest = b""


def _write_all(descriptor: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(descriptor, view) :]
