"""What happens on an SSH channel to a server: a command, a shell on a terminal, or the SFTP subsystem.

Behaves as OpenSSH's server does where that is observable: separate pipes for the three streams with back-pressure, end of
file in both directions, exact exit status and signal, `signal` requests to the process group; a channel that closes
closes the pipes and kills nothing, unless there is a terminal, whose hang-up the kernel sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import asyncssh
from asyncssh.channel import SSHChannel
from asyncssh.stream import SSHServerStreamSession

if TYPE_CHECKING:
    from pileus.drivers.local.machine import Machine

_CHUNK = 128 * 1024
_STDIN_LIMIT = 512 * 1024
_LOOK_S = 0.5

Channel = asyncssh.SSHServerChannel[bytes]


class Output:
    """Moves what a process writes from one descriptor to the channel, no faster than the client takes it."""

    def __init__(self, descriptor: int, write: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._write = write
        self._on_end = on_end
        self.open = True
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)

    def pause(self) -> None:
        """Read no more for now: the process blocks when its pipe is full."""
        if self.open:
            self._loop.remove_reader(self._descriptor)

    def resume(self) -> None:
        """Read again."""
        if self.open:
            self._loop.add_reader(self._descriptor, self._read)

    def drain(self) -> None:
        """Read what is there now, without waiting for more."""
        while self.open and self._read():
            pass

    def close(self) -> None:
        """Close our end: the process gets an error when it writes."""
        if self.open:
            self.open = False
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)

    def _read(self) -> bool:
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # a terminal whose last process is gone
            data = b""
        if data:
            try:
                self._write(data)
            except OSError:  # the channel has closed
                self.close()
                return False
            return True
        self.close()
        self._on_end()
        return False


class Input:
    """Moves what the client sends to a process, holding the client back while the process does not read."""

    def __init__(self, descriptor: int, channel: Channel, *, keep_open: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._channel = channel
        self._keep_open = keep_open  # a terminal's descriptor is the output's, too
        self._pending = bytearray()
        self._paused = False
        self._ending = False
        self.open = True
        os.set_blocking(descriptor, False)

    def write(self, data: bytes) -> None:
        """Pass data on, keeping what does not fit."""
        if not self.open:
            return
        if not self._pending:
            data = data[self._push(data) :]
            if not data or not self.open:
                return
            self._loop.add_writer(self._descriptor, self._flush)
        self._pending += data
        if len(self._pending) > _STDIN_LIMIT and not self._paused:
            self._paused = True
            self._channel.pause_reading()
            self._loop.call_later(_LOOK_S, self._look)

    def end(self) -> None:
        """The client sends no more: close once all is passed on."""
        self._ending = True
        if not self._pending:
            self.close()

    def close(self) -> None:
        """Close at once, dropping what is pending."""
        if not self.open:
            return
        self.open = False
        if self._pending:
            self._loop.remove_writer(self._descriptor)
            self._pending.clear()
        if not self._keep_open:
            os.close(self._descriptor)
        self._resume()

    def _push(self, data: bytes | bytearray) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0
        except OSError:  # the process has closed its standard input
            self.close()
            return len(data)

    def _flush(self) -> None:
        written = self._push(self._pending)
        if not self.open:
            return
        del self._pending[:written]
        if not self._pending:
            self._loop.remove_writer(self._descriptor)
            self._resume()  # which may bring more at once, and the end
            if self._ending and not self._pending:
                self.close()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._channel.resume_reading()

    def _look(self) -> None:
        """A channel that is paused does not tell that the client has closed it."""
        if not self._paused:
            return
        if self._channel.is_closing():
            self.close()
        else:
            self._loop.call_later(_LOOK_S, self._look)


class Session(asyncssh.SSHServerSession[bytes]):
    """One channel of one client."""

    def __init__(self, machine: Machine, connection: asyncssh.SSHServerConnection) -> None:
        self._machine = machine
        self._connection = connection
        self._command: str | None = None
        self._terminal = False
        self._master = -1
        self._files: SSHServerStreamSession[bytes] | None = None
        self._input: Input | None = None
        self._outputs: list[Output] = []
        self._pid = 0
        self._status: int | None = None

    # --- what the client asks for ---

    def connection_made(self, chan: Channel) -> None:
        """The channel is open."""
        self._channel = chan

    def pty_requested(self, term_type: str, term_size: Any, term_modes: Any) -> bool:
        """A terminal is granted."""
        self._terminal = True
        return True

    def shell_requested(self) -> bool:
        """So is a login shell."""
        return True

    def exec_requested(self, command: str) -> bool:
        """And a command."""
        self._command = command
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        """The only subsystem is SFTP."""
        if subsystem != "sftp":
            return False
        self._files = SSHServerStreamSession(None, _sftp_server, 3)
        self._files.connection_made(self._channel)
        return True

    def session_started(self) -> None:
        """All is agreed on: start."""
        if self._files is not None:
            self._files.session_started()
            return
        try:
            if self._terminal:
                self._start_on_terminal()
            else:
                self._start_on_pipes()
        except OSError as problem:
            with contextlib.suppress(OSError):
                self._channel.write_stderr(f"cannot be started: {problem}\n".encode())
            self._channel.exit(126)

    def _argv(self) -> list[str]:
        if self._command is not None:
            return ["/bin/sh", "-c", self._command]
        return [self._machine.shell, "-l"]

    def _environment(self, extra: dict[str, str] | None = None) -> dict[bytes, bytes]:
        environment = dict(self._channel.get_environment_bytes())
        host, port = self._connection.get_extra_info("peername")[:2]
        here, here_port = self._connection.get_extra_info("sockname")[:2]
        own = {
            "SSH_CLIENT": f"{host} {port} {here_port}",
            "SSH_CONNECTION": f"{host} {port} {here} {here_port}",
            **(extra or {}),
        }
        environment.update((key.encode(), value.encode()) for key, value in own.items())
        return self._machine.environment(environment)

    def _start_on_pipes(self) -> None:
        opened: list[int] = []
        try:
            for _ in range(3):
                opened += os.pipe()
            stdin, our_stdin, our_stdout, stdout, our_stderr, stderr = opened
            actions = [(os.POSIX_SPAWN_DUP2, theirs, number) for number, theirs in enumerate((stdin, stdout, stderr))]
            self._pid = self._machine.children.start(self._argv(), self._environment(), actions, self._exited)
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        for descriptor in (stdin, stdout, stderr):
            os.close(descriptor)
        self._input = Input(our_stdin, self._channel)
        self._outputs = [
            Output(our_stdout, self._channel.write, self._finish),
            Output(our_stderr, self._channel.write_stderr, self._finish),
        ]

    def _start_on_terminal(self) -> None:
        master, slave = os.openpty()
        name = os.ttyname(slave)
        try:
            self._master = master
            _apply_modes(slave, self._channel.get_terminal_modes())
            self.terminal_size_changed(*self._channel.get_terminal_size())
            # A session's leader that opens a terminal gets it as its controlling one: setsid comes before this.
            actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, name, os.O_RDWR, 0)]
            actions += [(os.POSIX_SPAWN_DUP2, 0, number) for number in (1, 2)]
            environment = self._environment({"TERM": self._channel.get_terminal_type() or "dumb", "SSH_TTY": name})
            self._pid = self._machine.children.start(self._argv(), environment, actions, self._exited)
        except OSError:
            self._master = -1
            os.close(master)
            raise
        finally:
            os.close(slave)
        self._input = Input(master, self._channel, keep_open=True)
        self._outputs = [Output(master, self._channel.write, self._finish)]

    # --- what comes and goes ---

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """The client sends standard input."""
        if self._files is not None:
            self._files.data_received(data, datatype)
        elif self._input is not None:
            self._input.write(data)

    def eof_received(self) -> bool:
        """The client sends no more; our side stays open."""
        if self._files is not None:
            return bool(self._files.eof_received())
        if self._input is not None and not self._terminal:
            self._input.end()
        return True

    def pause_writing(self) -> None:
        """The client does not keep up."""
        if self._files is not None:
            self._files.pause_writing()
        for output in self._outputs:
            output.pause()

    def resume_writing(self) -> None:
        """It does again."""
        if self._files is not None:
            self._files.resume_writing()
        for output in self._outputs:
            output.resume()

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        """The window has another size."""
        if self._master >= 0 and (self._outputs == [] or self._outputs[0].open):
            with contextlib.suppress(OSError, struct.error):
                fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, pixwidth, pixheight))

    def signal_received(self, signal: str) -> None:
        """Pass a signal on to the command and what it started in its group."""
        self._signal(signal)

    def break_received(self, msec: int) -> bool:
        """A break is what the interrupt key does."""
        self._signal("INT")
        return True

    def _signal(self, name: str) -> None:
        number = getattr(signal, "SIG" + name, None)
        if number is not None and self._machine.children.runs(self._pid):
            with contextlib.suppress(OSError):
                os.killpg(self._pid, number)

    # --- the end ---

    def _exited(self, status: int) -> None:
        self._status = status
        if self._terminal:
            # What the command left running may keep the terminal open for ever; nobody waits for that.
            for output in self._outputs:
                output.drain()
        self._finish()

    def _finish(self) -> None:
        """Tell how it ended, once it has and all it wrote is on its way."""
        if self._status is None or (not self._terminal and any(output.open for output in self._outputs)):
            return
        code = os.waitstatus_to_exitcode(self._status)
        with contextlib.suppress(OSError):
            if code >= 0:
                self._channel.exit(code)
            else:
                name = signal.Signals(-code).name.removeprefix("SIG")
                self._channel.exit_with_signal(name, os.WCOREDUMP(self._status))
        self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is closed, by whichever side."""
        if self._files is not None:
            self._files.connection_lost(exc)
        self._close()

    def _close(self) -> None:
        if self._input is not None:
            self._input.close()
        for output in self._outputs:
            output.close()
        self._master = -1


def _sftp_server(channel: SSHChannel[bytes]) -> asyncssh.SFTPServer:
    """Files as our own user sees them; relative paths start at the working directory, which is the server's home."""
    return _Files(cast(Channel, channel))


class _Files(asyncssh.SFTPServer):
    """SFTP that ends as a program does: clients such as `scp` fail when there is no exit status."""

    def exit(self) -> None:
        """Nothing more is asked for."""
        if not self.channel.is_closing():
            self.channel.exit(0)


_CHARACTERS = {
    1: termios.VINTR,
    2: termios.VQUIT,
    3: termios.VERASE,
    4: termios.VKILL,
    5: termios.VEOF,
    10: termios.VSUSP,
}
"""Control characters by their number in RFC 4254, section 8."""


def _apply_modes(terminal: int, modes: Any) -> None:
    """Give the terminal the control characters and the echo that the client asked for; the rest stays as usual."""
    attributes = termios.tcgetattr(terminal)
    for number, index in _CHARACTERS.items():
        if number in modes:
            attributes[6][index] = bytes([modes[number] & 0xFF])
    for number, flag in ((53, termios.ECHO), (51, termios.ICANON), (50, termios.ISIG)):
        if number in modes:
            attributes[3] = attributes[3] | flag if modes[number] else attributes[3] & ~flag
    termios.tcsetattr(terminal, termios.TCSANOW, attributes)
