"""One server's SSH: connections, commands and files joined."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import timezone
from pathlib import Path

import asyncssh

from pileus.errors import ConfigError, ConnectError
from pileus.models import CommandResult
from pileus.remote import commands, dialogue
from pileus.remote.channel import Sink
from pileus.remote.connections import Lease, Pool
from pileus.remote.dial import Dialer, with_host_keys
from pileus.remote.endpoint import Endpoint
from pileus.remote.files import Files, Progress

SESSION_S = 5.0
"""How long `Remote.session` waits for a place: the source document's bound."""


class Remote:
    """Commands and files on one server, over few connections that are opened when they are needed.

    For one event loop. Many coroutines may use it at once: they are served in the order in which they ask. Any call may be
    cancelled; what it began on the server is then ended, and its place on the connection given back.

    Errors are `ConnectError`, `HostKeyError`, `CommandError`, `TransferError`, `ConfigError`, and `UsageError` after `aclose`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        keepalive_interval_s: float = 5.0,
        keepalive_count: int = 3,
        max_sessions: int = 5,
        on_activity: Callable[[int], None] | None = None,
        via: Remote | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            endpoint: the server, and how it is known.
            keepalive_interval_s: seconds of silence after which the server is asked for a sign of life.
            keepalive_count: so many of those without an answer, and the connection is lost: with the defaults a server that
                hangs is noticed within 20 s.
            max_sessions: sessions at once on one connection, besides the one of SFTP. sshd's own limit is 10, reached at
                8 or so.
            on_activity: called with +1 when a command, transfer or leased session begins, and with -1 when it ends.
            via: reaches the server through this other one, which may carry many. Without it `endpoint.jump`, if there is
                one, gets a connection of our own.

        Raises:
            ConfigError: the private key cannot be used.
        """
        self._on_activity = on_activity
        self._jump: Remote | None = None
        if via is None and endpoint.jump is not None:
            via = self._jump = Remote(
                endpoint.jump, keepalive_interval_s=keepalive_interval_s, keepalive_count=keepalive_count
            )
        self._via = via
        self._dialer = Dialer(
            endpoint,
            keepalive_interval=keepalive_interval_s,
            keepalive_count=keepalive_count,
            tunnel=via.client if via is not None else None,
        )
        self._pool = Pool(self._dialer, max_sessions=max_sessions)
        self._files = Files(self._pool)

    @property
    def endpoint(self) -> Endpoint:
        """Where the server is, with the host keys that are trusted now."""
        return self._dialer.endpoint

    @property
    def connected(self) -> bool:
        """Whether a connection is open, as far as is known without asking."""
        return self._pool.connected

    def trust(self, host_keys: Sequence[str]) -> None:
        """Accept these host keys, and no others, from the next connection on; open connections stay.

        Raises:
            ConfigError: one of them is no public line.
        """
        self._dialer.endpoint = with_host_keys(self._dialer.endpoint, tuple(host_keys))

    async def connect(self, timeout: float, *, booting: bool = False) -> None:
        """Open the first connection; returns at once when there is one.

        A server that refuses, resets, is silent or talks nonsense is tried again, after pauses that grow from 10 ms to half
        a second, until the timeout.

        Args:
            timeout: seconds, for all attempts together; one attempt takes at most 10 s.
            booting: the server has not been reached before: an unknown host key, or a refusal of our key, then means "not
                ready yet" and is tried again too. Nothing is ever sent to a server with an unknown key.

        Raises:
            HostKeyError: the server shows a key that is not known (not with `booting`).
            ConnectError: no connection in time, or our key is refused; says what the last problem was.
        """
        await self._pool.connect(timeout, booting=booting)

    def reset(self) -> None:
        """Break all connections at once; the next call opens new ones. What runs ends with `ConnectError`."""
        self._pool.reset()
        if self._jump is not None:
            self._jump.reset()

    async def aclose(self) -> None:
        """Close all connections; running commands end, on the server too. Takes two seconds at most; safe to repeat."""
        await self._pool.aclose()
        if self._jump is not None:
            await self._jump.aclose()

    async def __aenter__(self) -> Remote:
        """Nothing is opened yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await self.aclose()

    async def run(
        self,
        command: str,
        *,
        check: bool = True,
        timeout: float | None = None,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        on_stdout: Sink | None = None,
        on_stderr: Sink | None = None,
        background: bool = False,
        forward_stdin: asyncio.StreamReader | None = None,
    ) -> CommandResult:
        """Run a command in the server's `/bin/sh`, in the home directory, whatever the user's login shell is.

        When this call is cancelled or timed out, or the connection breaks, or this process dies, everything in the
        command's session on the server gets SIGTERM, and two seconds later SIGKILL. A command that ends by itself may leave
        processes behind; if they keep its standard output open, the call waits for them, as ssh does.

        Args:
            command: at most some 90 KB of shell; may have newlines, quotes and any bytes but NUL.
            check: raise `CommandError` for an exit status other than 0.
            timeout: seconds from the command's start; None for no limit. Not counted: waiting for a free place.
            stdin: the command's whole standard input, which it gets when all has arrived (it is a file in the server's
                temporary directory until then). None is an empty one.
            env: variables to export before the command.
            on_stdout: gets standard output as it comes, in pieces as the network cuts them; the result has none then.
            on_stderr: likewise for standard error.
            background: start it, and return. It lives on without us, with `pid`, `command`, `stdout`, `stderr` and, at its
                end, `status` (128 + n for signal n) in `~/.pileus/jobs/<job_id>`; `pid` is there on return.
            forward_stdin: the command's standard input, sent as it comes, up to its end. Takes two places.

        Returns:
            What happened. `exit_status` and `exit_signal` are those of the shell that ran the command; a shell that outlives
            a child which a signal killed exits with 128 + n by itself.

        Raises:
            CommandError: `check` and it failed, or it was stopped at its timeout (then with neither status nor signal).
            ConnectError: the connection was lost; how the command ended is not known.
            ConfigError: the command cannot be sent, or the arguments contradict each other.
        """
        with self._active():
            if not background:
                return await commands.run(
                    self._pool,
                    command,
                    check=check,
                    timeout=timeout,
                    stdin=stdin,
                    env=env,
                    on_stdout=on_stdout,
                    on_stderr=on_stderr,
                    forward_stdin=forward_stdin,
                )
            if stdin is not None or forward_stdin is not None or on_stdout is not None or on_stderr is not None:
                raise ConfigError(
                    "a background command has no input and streams no output",
                    setting="background",
                    hint="put its input into a file, and read ~/.pileus/jobs/<job_id>/stdout later",
                )
            return await commands.start_job(self._pool, command, timeout=timeout, env=env)

    async def converse(
        self, command: str, answer: Callable[[str], Awaitable[str]], *, check: bool = True, timeout: float
    ) -> CommandResult:
        """Run a command that writes a line, reads one, and goes on; `answer` gives the one for the other.

        Nothing watches over it: when the connection breaks it meets the end of its input, and must end by that.

        Args:
            command: as for `run`.
            answer: called with the first line, without its newline; not at all if the command ends before it writes one.
            check: raise for an exit status other than 0.
            timeout: seconds for all of it, `answer` included.

        Raises:
            CommandError: `check` and it failed, or its time was up.
            ConnectError: the connection was lost.
        """
        with self._active():
            return await dialogue.converse(self._pool, command, answer, check=check, timeout=timeout)

    async def client(self) -> asyncssh.SSHClientConnection:
        """An open connection, ours to close and shared with all else.

        Sessions opened on it are not counted: with many, use `session`.
        """
        return (await self._pool.primary()).connection

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[asyncssh.SSHClientConnection]:
        """Take a place for one session, and give it back at the end.

        Gives the connection, on which one session may be opened (`create_process`, `create_session`); close it before
        the end of the block. Nothing watches over what is run so.

        Raises:
            ConnectError: no place within 5 s.
        """
        with self._active():
            lease = await self._lease(SESSION_S)
            try:
                yield lease.connection
            finally:
                lease.release()

    async def _lease(self, timeout: float) -> Lease:
        try:
            async with asyncio.timeout(timeout):
                return await self._pool.acquire()
        except TimeoutError as problem:
            raise ConnectError(
                f"no free session on {self._pool.name} within {timeout:g} s",
                hint="close sessions that are not used, or wait for running commands",
                host=self._pool.host,
            ) from problem

    @contextlib.contextmanager
    def _active(self) -> Iterator[None]:
        if self._on_activity is None:
            yield
            return
        self._on_activity(1)
        try:
            yield
        finally:
            self._on_activity(-1)

    # --- files ---

    async def upload_file(self, source: Path | str, dest: str, *, progress: Progress | None = None) -> None:
        """Copy a local file or directory to the server, with mode and modification time; the parents are made.

        Each file appears under its name whole or not at all; what was there before stays until then. A directory's
        content is put into `dest`, together with what is there; symbolic links in it are made anew as links.

        Args:
            source: a local path; `~/` is the local home.
            dest: relative to the remote home, which `~/` is too. With a `/` at its end: a directory to put the source into.
            progress: called with the bytes done and in total.

        Raises:
            TransferError: it could not be read, or written; says why.
        """
        with self._active():
            await self._files.upload(source, dest, progress=progress)

    async def download_file(self, source: str, dest: Path | str, *, progress: Progress | None = None) -> None:
        """Copy a file or directory from the server, with mode and modification time.

        Args:
            source: a remote path, as in `upload_file`.
            dest: a local path, whose directory must exist. With a `/` at its end: a directory to put the source into.
            progress: called with the bytes done and in total.

        Raises:
            TransferError: the local directory does not exist (nothing is asked of the server then), or the file could not
                be read, or written.
        """
        with self._active():
            await self._files.download(source, dest, progress=progress)

    async def create_file(self, content: str | bytes, dest: str, *, mode: int | None = None) -> None:
        """Make a file with that content, whole or not at all; the parents are made, a file that was there is replaced.

        Args:
            content: text is written as UTF-8.
            dest: a remote path, as in `upload_file`.
            mode: its permissions; None for those of the file that was there, or the server's default.

        Raises:
            TransferError: it could not be written; says why.
        """
        with self._active():
            await self._files.create(content, dest, mode=mode)

    async def mkdir(self, dir: str) -> None:
        """Make a directory and its parents; one that exists is fine. `sudo` is tried only where plain rights do not do.

        A directory made with `sudo` is given to the user; its parents stay root's.

        Raises:
            TransferError: something in the way is not a directory.
            UnsupportedError: root is needed, and `sudo` is not there or wants a password.
        """
        with self._active():
            await self._files.mkdir(dir)

    async def copy_over(self, files: str) -> None:
        """Copy local files to the corresponding places on the server, with modes and modification times.

        Args:
            files: local paths, separated by commas. An absolute path is put at the same path, one that begins with `~/`
                into the remote home, a relative one likewise. `local:remote` says otherwise. A comma or colon that
                belongs to a name has a backslash before it. Directories are copied as trees. What does not exist
                here is left out silently.

        Raises:
            TransferError: a file that exists could not be copied.
            ConfigError: a remote path is not given, and does not follow from the local one.
        """
        with self._active():
            await self._files.copy_over(files)

    async def home_dir(self) -> str:
        """The user's home on the server; asked once."""
        with self._active():
            return await self._files.home_dir()

    async def time_zone(self) -> timezone:
        """The server's offset from UTC now, as a fixed time zone that is called `SER`."""
        with self._active():
            return await self._files.time_zone()
