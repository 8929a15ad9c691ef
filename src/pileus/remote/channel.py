"""One channel of a connection: what comes out of it, what goes in, and how it ends."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

import asyncssh

from pileus.remote.connections import Lease

Sink = Callable[[bytes], Awaitable[None] | None]
"""Takes output as it comes. While what it returns is awaited, no more is asked of the server."""

PIECE = 256 * 1024


class Session(asyncssh.SSHClientSession[bytes]):
    """One channel: what came out of it, and how it ended.

    Attributes:
        output: what was written to standard output and error and has no sink.
        opened: whether the server may have got the command.
        ended: done when the channel is gone; an exception only if a sink raised one.
        lost: why the connection broke, if that is what ended it.
    """

    def __init__(self, on_stdout: Sink | None, on_stderr: Sink | None, lease: Lease) -> None:
        self.output = (bytearray(), bytearray())
        self.opened = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost: Exception | None = None
        self.exit_status: int | None = None
        self.exit_signal: str | None = None
        self._sinks = (on_stdout, on_stderr)
        self._lease = lease
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._sinking: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """The channel is there; the request to run the command goes out next."""
        self._channel = chan
        self.opened = True

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Keep it, or hand it on."""
        stream = 1 if datatype else 0
        sink = self._sinks[stream]
        if sink is None:
            self.output[stream].extend(data)
            return
        try:
            pending = sink(data)
        except Exception as problem:  # noqa: BLE001  (the caller's own code: its error is the caller's to get)
            self._fail(problem)
            return
        if inspect.isawaitable(pending) and self._channel is not None:
            self._channel.pause_reading()
            self._sinking = asyncio.ensure_future(pending)
            self._sinking.add_done_callback(self._sunk)

    def _sunk(self, sinking: asyncio.Future[None]) -> None:
        self._sinking = None
        problem = None if sinking.cancelled() else sinking.exception()
        if problem is not None:
            self._fail(problem)
        elif self._channel is not None:
            self._channel.resume_reading()
        elif not self.ended.done():
            self.ended.set_result(None)

    def _fail(self, problem: BaseException) -> None:
        if not self.ended.done():
            self.ended.set_exception(problem)
        self.abort()

    def eof_received(self) -> bool:
        """Leave our side open: its end is what tells the server's watcher that we are gone."""
        return True

    def exit_status_received(self, status: int) -> None:
        """The command has exited."""
        self.exit_status = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        """A signal has ended the command."""
        self.exit_signal = signal

    def pause_writing(self) -> None:
        """The server has enough input for now."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The server wants more input."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel, or all of the connection, is gone."""
        self.lost = exc
        self._channel = None
        self._writable.set()
        if self._sinking is None and not self.ended.done():
            self.ended.set_result(None)
        self._lease.release()

    async def write(self, data: bytes) -> None:
        """Send input, no faster than it is taken. What cannot be sent any more is dropped: the end tells why."""
        view = memoryview(data)
        for start in range(0, len(view), PIECE):
            await self._writable.wait()
            if self._channel is None or self._channel.is_closing():
                return
            try:
                self._channel.write(bytes(view[start : start + PIECE]))
            except (OSError, asyncssh.Error):
                return

    def write_eof(self) -> None:
        """End the command's input."""
        if self._channel is not None and not self._channel.is_closing():
            self._channel.write_eof()

    def abort(self) -> None:
        """Close the channel without waiting; the place is given back when the server has closed it too."""
        if self._sinking is not None:
            self._sinking.cancel()
        if self._channel is not None:
            # it is not `close`, which first sends what is still unsent: to a command that reads nothing, for ever
            self._channel.abort()
