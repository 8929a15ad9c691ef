"""Running commands: one channel each, output by callback, an exact end.

asyncssh's own `run` and `redirect` are not used: cancelling the first leaves its channel open, and the second is not safe
with pipes. What a command writes is taken as it arrives, so there are no tasks per stream and no buffers to bound.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import asyncssh

from pileus.errors import CommandError, ConfigError, ConnectError
from pileus.models import CommandResult
from pileus.remote import script
from pileus.remote.channel import PIECE, Session, Sink
from pileus.remote.connections import Lease, Pool
from pileus.remote.options import PACKET, WINDOW

OPENING_S = 10.0
"""A server that refuses one more session is asked again for so long."""


async def run(
    pool: Pool,
    command: str,
    *,
    check: bool,
    timeout: float | None,
    stdin: bytes | None,
    env: Mapping[str, str] | None,
    on_stdout: Sink | None,
    on_stderr: Sink | None,
    forward_stdin: asyncio.StreamReader | None,
) -> CommandResult:
    """Run a command to its end; see `Remote.run`."""
    loop = asyncio.get_running_loop()
    if stdin is not None and forward_stdin is not None:
        raise ConfigError("give either stdin or forward_stdin, not both", setting="stdin")
    text = script.with_environment(command, env)
    begun = loop.time()
    helpers: list[Session] = []
    feeder: asyncio.Task[None] | None = None
    session: Session | None = None
    try:
        async with asyncio.timeout(None) as limit:
            if forward_stdin is not None:
                session = await _open_streaming(pool, text, on_stdout, on_stderr, helpers)
                feeder = loop.create_task(_forward(session, forward_stdin))
            elif stdin:
                session = await open_session(pool, script.fed_command_line(text, len(stdin)), on_stdout, on_stderr)
                feeder = loop.create_task(session.write(stdin))
            else:
                session = await open_session(pool, script.command_line(text), on_stdout, on_stderr)
            if timeout is not None:
                limit.reschedule(loop.time() + timeout)
            await session.ended
    except TimeoutError as problem:
        if session is None or not limit.expired():
            raise
        raise _timed_out(pool, command, session, loop.time() - begun, timeout or 0.0) from problem
    finally:
        if feeder is not None:
            feeder.cancel()
        for channel in (session, *helpers):
            if channel is not None:
                channel.abort()
    return judge(pool, command, session, loop.time() - begun, check)


def judge(pool: Pool, command: str, session: Session, duration_s: float, check: bool) -> CommandResult:
    """Tell what the end of a channel means.

    Raises:
        ConnectError: the connection was lost: asyncssh then shows neither status nor signal, and raises nothing.
        CommandError: `check`, and the command did not exit with 0.
    """
    if session.lost is not None or (session.exit_status is None and session.exit_signal is None):
        raise lost(pool, f"while {shorten(command)} ran; how it ended is not known") from session.lost
    result = CommandResult(
        command=command,
        stdout_bytes=bytes(session.output[0]),
        stderr_bytes=bytes(session.output[1]),
        exit_status=None if session.exit_signal else session.exit_status,
        exit_signal=session.exit_signal,
        duration_s=duration_s,
    )
    if check and not result.ok:
        how = f"was ended by signal {result.exit_signal}" if result.exit_signal else f"exited with {result.exit_status}"
        raise CommandError(
            f"{shorten(command)} on {pool.name} {how}{tail(result.stderr)}", result=result, host=pool.host
        )
    return result


def _timed_out(pool: Pool, command: str, session: Session, duration_s: float, timeout: float) -> CommandError:
    result = CommandResult(
        command=command,
        stdout_bytes=bytes(session.output[0]),
        stderr_bytes=bytes(session.output[1]),
        exit_status=None,
        exit_signal=None,
        duration_s=duration_s,
    )
    message = f"{shorten(command)} on {pool.name} timed out after {timeout:g} s and was stopped{tail(result.stderr)}"
    return CommandError(message, result=result, host=pool.host)


async def start_job(pool: Pool, command: str, *, timeout: float | None, env: Mapping[str, str] | None) -> CommandResult:
    """Start a command that outlives the connection; see `Remote.run`."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    job_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
    session = await open_session(pool, script.job_line(script.with_environment(command, env), job_id), None, None)
    try:
        async with asyncio.timeout(timeout):
            await session.ended
    except TimeoutError as problem:
        raise _timed_out(pool, command, session, loop.time() - begun, timeout or 0.0) from problem
    finally:
        session.abort()
    launched = judge(pool, command, session, loop.time() - begun, check=False)
    if not launched.ok:
        message = f"{shorten(command)} could not be started in the background on {pool.name}{tail(launched.stderr)}"
        raise CommandError(message, result=launched, host=pool.host)
    return CommandResult(command=command, exit_status=None, duration_s=launched.duration_s, job_id=job_id)


async def open_session(pool: Pool, line: str, on_stdout: Sink | None, on_stderr: Sink | None) -> Session:
    """Start a line on some connection.

    A connection that turns out to be gone before the command was sent is replaced, silently: nothing has run.
    """
    for _ in range(3):
        lease = await pool.acquire()
        session = await _open_on(pool, lease, line, on_stdout, on_stderr)
        if session is not None:
            return session
    raise lost(pool, "as often as a command was to be started")


async def _open_on(
    pool: Pool, lease: Lease, line: str, on_stdout: Sink | None, on_stderr: Sink | None
) -> Session | None:
    """Start a line on one connection; None, and the lease released, if the connection was gone before."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + OPENING_S
    pause = 0.005
    while True:
        session = Session(on_stdout, on_stderr, lease)
        request = loop.create_task(_request(lease.connection, session, line))
        try:
            # shielded: asyncssh, cancelled while it opens a channel, forgets it, and the server does not
            await asyncio.shield(request)
            return session
        except asyncio.CancelledError:
            request.add_done_callback(partial(_unwanted, session, lease))
            raise
        except asyncssh.ChannelOpenError as problem:
            gone = lease.connection.is_closed()
            if gone and not session.opened:
                pool.drop(lease.link)
                lease.release()
                return None
            if gone or session.opened or loop.time() + pause > deadline:
                lease.release()
                what = (
                    "while a command was being started" if gone else f": it refuses to run commands: {problem.reason}"
                )
                raise lost(pool, what) from problem
        except (asyncssh.Error, OSError) as problem:
            lease.release()
            raise lost(pool, "while a command was being started; whether it began is not known") from problem
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.5)


async def _request(connection: asyncssh.SSHClientConnection, session: Session, line: str) -> None:
    await connection.create_session(lambda: session, line, encoding=None, window=WINDOW, max_pktsize=PACKET)


def _unwanted(session: Session, lease: Lease, request: asyncio.Task[None]) -> None:
    """Nobody waits for this channel any more: close it when it is there."""
    if request.cancelled() or request.exception() is not None:
        lease.release()
    else:
        session.abort()


class _MarkReader:
    """Takes the line with the process id out of standard error; what comes before (a shell's greeting) and after is passed on."""

    _LINE = re.compile(script.MARK.encode() + rb" (\d+)\n")

    def __init__(self, sink: Sink | None) -> None:
        self._sink = sink
        self._held: bytes | None = b""
        self.process_id: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.kept = bytearray()

    def __call__(self, data: bytes) -> Awaitable[None] | None:
        if self._held is not None:
            data = self._held + data
            found = self._LINE.search(data)
            if found is None:
                self._held = data
                return None
            self._held = None
            if not self.process_id.done():
                self.process_id.set_result(int(found[1]))
            data = data[: found.start()] + data[found.end() :]
        if not data:
            return None
        if self._sink is not None:
            return self._sink(data)
        self.kept.extend(data)
        return None


async def _open_streaming(
    pool: Pool, command: str, on_stdout: Sink | None, on_stderr: Sink | None, helpers: list[Session]
) -> Session:
    """Start a command that reads its input as it comes, and a watcher for it in a second channel.

    The command's input cannot be watched, since the command reads it. So it waits until a channel of its own watches.
    """
    for _ in range(3):
        # both places in one go: holding one while waiting for another, many could wait for each other for ever
        lease = await pool.acquire(2)
        other = lease.split()
        try:
            session = await _open_watched(pool, lease, other, command, on_stdout, on_stderr, helpers)
        except BaseException:
            other.release()
            raise
        if session is not None:
            return session
        other.release()
    raise lost(pool, "as often as a command was to be started")


async def _open_watched(
    pool: Pool,
    lease: Lease,
    other: Lease,
    command: str,
    on_stdout: Sink | None,
    on_stderr: Sink | None,
    helpers: list[Session],
) -> Session | None:
    reader = _MarkReader(on_stderr)
    session = await _open_on(pool, lease, script.streamed_command_line(command), on_stdout, reader)
    if session is None:
        return None
    helpers.append(session)
    session.output = (session.output[0], reader.kept)
    marks: set[asyncio.Future[Any]] = {session.ended, reader.process_id}
    await asyncio.wait(marks, return_when=asyncio.FIRST_COMPLETED)
    if not reader.process_id.done():
        raise lost(pool, f"before {shorten(command)} was started")
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def watching(data: bytes) -> None:
        if not ready.done():
            ready.set_result(None)

    guard = await _open_on(pool, other, script.watch_line(reader.process_id.result()), watching, None)
    if guard is None:
        raise lost(pool, f"before {shorten(command)} was started")
    helpers.append(guard)
    await asyncio.wait({guard.ended, session.ended, ready}, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        raise lost(pool, f"before {shorten(command)} was started")
    # without its watcher the command is being killed: then its channel has no more to say that can be trusted
    guard.ended.add_done_callback(lambda _: session.abort())
    await session.write(b"go\n")
    return session


async def _forward(session: Session, source: asyncio.StreamReader) -> None:
    while data := await source.read(PIECE):
        await session.write(data)
    session.write_eof()


def lost(pool: Pool, when: str) -> ConnectError:
    """The error for a connection that broke."""
    return ConnectError(f"lost the connection to {pool.name} ({pool.host}) {when}", host=pool.host)


def shorten(command: str) -> str:
    """A command for a message: one line, at most 120 characters, in backquotes."""
    line = " ".join(command.split())
    return f"`{line if len(line) <= 120 else line[:117] + '...'}`"


def tail(stderr: str) -> str:
    """The end of what was written to standard error, for a message, or nothing."""
    lines = [line for line in stderr.strip().splitlines() if line.strip()][-8:]
    return ":\n  " + "\n  ".join(line[-500:] for line in lines) if lines else ""
