"""A person's terminal on a server: by the `ssh` of OpenSSH, or by the library."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pileus.cli import outcome
from pileus.errors import ConnectError

if TYPE_CHECKING:
    from pileus import AsyncServer

_CHUNK = 32768


async def open_ssh(arguments: Sequence[str]) -> int:
    """Run `ssh` on our own terminal, wait for its end, and give its exit status.

    It is our child and not our successor, since somebody must keep the server in use, and its lease renewed, for as
    long as the login lasts. Ctrl-C is the remote's affair: the terminal sends it to `ssh`, and we ignore it.
    """
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ValueError):
        loop.remove_signal_handler(signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = await asyncio.create_subprocess_exec(*arguments, preexec_fn=_default_interrupt)
    try:
        status = await process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    finally:
        signal.signal(signal.SIGINT, before)
    return status if status >= 0 else 128 - status


async def built_in(server: AsyncServer, command: str) -> int:
    """Log in, or run a command, over the library's own connection; our terminal, if any, becomes the server's.

    Raises:
        ConnectError: the connection was lost.
    """
    interactive = sys.stdin.isatty() and sys.stdout.isatty() and not command
    options: dict[str, Any] = {"encoding": None}
    if interactive:
        size = os.get_terminal_size()
        options |= {"term_type": os.environ.get("TERM", "xterm"), "term_size": (size.columns, size.lines)}
    async with server.ssh_session() as connection, connection.create_process(command or None, **options) as process:
        loop = asyncio.get_running_loop()
        if interactive:
            loop.add_signal_handler(signal.SIGWINCH, lambda: process.change_terminal_size(*os.get_terminal_size()))
        with _raw(interactive), _typing(process):
            await asyncio.gather(_pump(process.stdout, 1), _pump(process.stderr, 2))
            await process.wait_closed()
        if interactive:
            loop.remove_signal_handler(signal.SIGWINCH)
        if process.exit_status is None and process.exit_signal is None:
            raise ConnectError(f"the connection to {server.name} was lost", host=f"{server.ip}:{server.ssh_port}")
        exit_signal = process.exit_signal[0] if process.exit_signal else None
        return outcome.command_status(None if exit_signal else process.exit_status, exit_signal)


async def _pump(reader: Any, descriptor: int) -> None:
    while piece := await reader.read(_CHUNK):
        view = memoryview(piece)
        while view:
            view = view[os.write(descriptor, view) :]


@contextlib.contextmanager
def _typing(process: Any) -> Iterator[None]:
    """Send what arrives on our standard input, and its end."""
    loop = asyncio.get_running_loop()

    def send() -> None:
        piece = os.read(0, _CHUNK)
        if piece:
            process.stdin.write(piece)
        else:
            loop.remove_reader(0)
            process.stdin.write_eof()

    try:
        loop.add_reader(0, send)
    except PermissionError:  # a plain file cannot be watched (epoll refuses it), but read at once
        with open(0, "rb", closefd=False) as file:
            process.stdin.write(file.read())
        process.stdin.write_eof()
    try:
        yield
    finally:
        loop.remove_reader(0)


@contextlib.contextmanager
def _raw(interactive: bool) -> Iterator[None]:
    """Pass every key on as it is, Ctrl-C too, while this lasts."""
    if not interactive:
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _default_interrupt() -> None:
    """In the child: an ignored signal would stay ignored across exec."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
