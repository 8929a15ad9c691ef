"""`SSHClient`: an SSH connection to a server, for code that blocks."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar, overload

from pileus.errors import CommandError, ConnectError
from pileus.models import CommandResult, Duration, seconds

if TYPE_CHECKING:
    import asyncssh

    from pileus.blocking.portal import Portal

T = TypeVar("T")
P = ParamSpec("P")


class SSHClient:
    """One connection of a server's pool, verified and logged in; `Server.ssh_client` and `Server.ssh_session` give it.

    It stays the pool's: there is nothing to close. `run` does what most want; `call` reaches all the rest of asyncssh.
    """

    def __init__(self, connection: asyncssh.SSHClientConnection, portal: Portal) -> None:
        self._connection = connection
        self._portal = portal

    @property
    def connection(self) -> asyncssh.SSHClientConnection:
        """The asyncssh connection. It lives on another thread's event loop: use its methods through `call` only."""
        return self._connection

    def run(
        self, command: str, *, check: bool = True, timeout: Duration | None = None, stdin: bytes = b""
    ) -> CommandResult:
        """Run a command by the login shell, in a plain SSH session, and wait for its end.

        `Server.run_cmd` does more: it ends the remote process when the connection breaks, and keeps the server from being idle.

        Args:
            command: as the login shell takes it.
            check: raise when it fails.
            timeout: after which the session is closed.
            stdin: what it can read.

        Raises:
            CommandError: it ended with another status than 0 or by a signal (unless `check=False`), or its time was up.
            ConnectError: the connection was lost; whether it ran to its end is not known.
        """
        limit = None if timeout is None else seconds(timeout, setting="timeout")
        return self._portal.run(lambda: _run(self._connection, command, check, limit, stdin), "SSHClient.run")

    @overload
    def call(self, function: Callable[P, Awaitable[T]], *arguments: P.args, **keywords: P.kwargs) -> T: ...

    @overload
    def call(self, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T: ...

    def call(self, function: Callable[P, object], *arguments: P.args, **keywords: P.kwargs) -> object:
        """Call a method of the connection, or of something that it gave, on the event loop, and wait for its result.

        Coroutine functions are awaited: `process = client.call(client.connection.create_process, "cat")`. Errors are asyncssh's own.
        """

        async def work() -> object:
            result = function(*arguments, **keywords)
            return await result if inspect.isawaitable(result) else result

        return self._portal.run(work, "SSHClient.call")

    def __repr__(self) -> str:
        peer = self._connection.get_extra_info("peername") or ("closed",)
        return f"<SSHClient {':'.join(str(part) for part in peer[:2])}>"


async def _run(
    connection: asyncssh.SSHClientConnection, command: str, check: bool, limit: float | None, stdin: bytes
) -> CommandResult:
    import asyncssh

    host = ":".join(str(part) for part in (connection.get_extra_info("peername") or ("", ""))[:2])
    begun = time.monotonic()
    try:
        process = await connection.create_process(command, encoding=None)
        try:
            async with asyncio.timeout(limit):
                stdout, stderr = await process.communicate(stdin)
        finally:
            process.close()
    except TimeoutError:
        result = CommandResult(command, exit_status=None, duration_s=time.monotonic() - begun)
        raise CommandError(f"{command!r} did not end within {limit:g} s", result=result, host=host) from None
    except (asyncssh.Error, OSError) as error:
        raise ConnectError(f"{command!r} could not be run: {error}", host=host) from error
    if process.exit_status is None:  # asyncssh gives a lost connection the look of a result
        raise ConnectError(f"the connection was lost while {command!r} ran", host=host)
    result = CommandResult(
        command,
        stdout_bytes=stdout or b"",
        stderr_bytes=stderr or b"",
        exit_status=None if process.exit_signal else process.exit_status,
        exit_signal=process.exit_signal[0] if process.exit_signal else None,
        duration_s=time.monotonic() - begun,
    )
    if check and not result.ok:
        ending = f"signal {result.exit_signal}" if result.exit_signal else f"exit status {result.exit_status}"
        raise CommandError(f"{command!r} ended with {ending}: {result.stderr[-2000:]}", result=result, host=host)
    return result
