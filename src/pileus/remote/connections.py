"""The pool: few connections, many commands.

A connection carries at most `max_sessions` sessions at once. sshd allows 10, but frees a place only when it has handled the
close, so that with 10 many opens are refused, and with 5 none, at the same rate. Who finds no place waits in line; when the
line stands still, another connection is opened. A connection that breaks is dropped, and the next to ask gets a new one.

One event loop, no locks: what is looked at and changed between two awaits cannot be changed by others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque

import asyncssh

from pileus.errors import ConnectError, PileusError, UsageError
from pileus.remote.dial import Dialer

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 8
STANDSTILL_S = 0.05
"""How long the first in line waits before another connection is opened: short commands are through by then."""
IDLE_S = 30.0
"""An extra connection without work is closed after that."""
RECONNECT_S = 10.0
REFUSED_S = 2.0
"""A server that was reachable and now refuses gets that long to come back: sshd does so when it reads its keys anew."""
CLOSING_S = 2.0


class Link:
    """One connection and how many of its places are taken."""

    def __init__(self, connection: asyncssh.SSHClientConnection, now: float) -> None:
        self.connection = connection
        self.used = 0
        self.idle_since = now
        self.sftp: asyncio.Task[asyncssh.SFTPClient] | None = None


class Lease:
    """Places on a connection, to be given back by `release` (once is enough, more do no harm)."""

    def __init__(self, pool: Pool, link: Link, places: int) -> None:
        self._pool = pool
        self._places = places
        self.link = link

    @property
    def connection(self) -> asyncssh.SSHClientConnection:
        """The connection they are on."""
        return self.link.connection

    def split(self) -> Lease:
        """Hand one of the places to a lease of its own."""
        self._places -= 1
        return Lease(self._pool, self.link, 1)

    def release(self) -> None:
        """Give the places back."""
        places, self._places = self._places, 0
        if places:
            self._pool.give_back(self.link, places)


class _Waiter:
    """Somebody in line."""

    def __init__(self, places: int, future: asyncio.Future[Lease]) -> None:
        self.places = places
        self.future = future


class Pool:
    """The connections to one endpoint."""

    def __init__(self, dialer: Dialer, *, max_sessions: int = 5, max_connections: int = MAX_CONNECTIONS) -> None:
        self._dialer = dialer
        self._max_sessions = max_sessions
        self._max_connections = max_connections
        self._links: list[Link] = []
        self._line: deque[_Waiter] = deque()
        self._openers: set[asyncio.Task[None]] = set()
        self._closers: set[asyncio.Task[None]] = set()
        self._growth: asyncio.TimerHandle | None = None
        self._growth_pause_s = STANDSTILL_S
        self._sweep: asyncio.TimerHandle | None = None
        self._connecting = asyncio.Lock()
        self._closed = False

    @property
    def name(self) -> str:
        """What messages call the server."""
        return self._dialer.endpoint.name

    @property
    def host(self) -> str:
        """The server's address, for errors."""
        return self._dialer.endpoint.address

    @property
    def connected(self) -> bool:
        """Whether a connection is open, as far as is known without asking."""
        return bool(self._links)

    async def connect(self, timeout: float, *, booting: bool = False) -> None:
        """Have at least one connection; see `Remote.connect`."""
        self._check_open()
        if self._links:
            return
        await self._dial_alone(timeout, booting=booting)

    async def primary(self) -> Link:
        """The oldest connection, opened if there is none. It is not closed for idleness."""
        self._check_open()
        while not self._links:
            await self._dial_alone(RECONNECT_S, refused_s=REFUSED_S)
        return self._links[0]

    async def acquire(self, places: int = 1) -> Lease:
        """Take places on one connection, in the order of asking.

        Raises:
            ConnectError, HostKeyError: there is no connection, and none could be opened.
        """
        self._check_open()
        if not self._line:
            lease = self._take(places)
            if lease is not None:
                return lease
        waiter = _Waiter(places, asyncio.get_running_loop().create_future())
        self._line.append(waiter)
        self._grow_soon()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            self._leave(waiter)
            raise

    def give_back(self, link: Link, places: int) -> None:
        """Places are free again."""
        link.used -= places
        link.idle_since = asyncio.get_running_loop().time()
        self._serve()
        if len(self._links) > 1 and self._sweep is None and not self._closed:
            self._sweep = asyncio.get_running_loop().call_later(IDLE_S, self._close_idle)

    def drop(self, link: Link) -> None:
        """A connection is broken, or about to be: nobody gets a place on it any more."""
        if link in self._links:
            self._links.remove(link)
            link.connection.abort()
            if self._line:
                self._grow_soon()

    def reset(self) -> None:
        """Break all connections at once. What runs on them ends with `ConnectError`; what comes next opens new ones."""
        for link in list(self._links):
            self.drop(link)

    async def sftp(self) -> tuple[Link, asyncssh.SFTPClient]:
        """The SFTP client that all share, started on first use and again when its connection is lost."""
        link = await self.primary()
        if link.sftp is None or (link.sftp.done() and (link.sftp.cancelled() or link.sftp.exception())):
            link.sftp = asyncio.get_running_loop().create_task(_start_sftp(link.connection))
        return link, await asyncio.shield(link.sftp)

    async def aclose(self) -> None:
        """Close everything; those in line get a `UsageError`. Safe to repeat, and never slower than about two seconds."""
        self._closed = True
        for timer in (self._growth, self._sweep):
            if timer is not None:
                timer.cancel()
        self._growth = self._sweep = None
        self._fail_line(UsageError(f"the connection to {self.name} was closed"))
        tasks: list[asyncio.Task[None]] = [*self._openers]
        for task in tasks:
            task.cancel()
        loop = asyncio.get_running_loop()
        for link in self._links:
            if link.sftp is not None:
                link.sftp.cancel()
            tasks.append(loop.create_task(_close(link)))
        self._links.clear()
        await asyncio.gather(*tasks, *self._closers, return_exceptions=True)

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"the connection to {self.name} was closed")

    def _take(self, places: int) -> Lease | None:
        for link in self._links:
            if link.used + places <= self._max_sessions:
                link.used += places
                return Lease(self, link, places)
        return None

    def _serve(self) -> None:
        while self._line:
            waiter = self._line[0]
            if waiter.future.done():
                self._line.popleft()
                continue
            lease = self._take(waiter.places)
            if lease is None:
                return
            self._line.popleft()
            waiter.future.set_result(lease)

    def _leave(self, waiter: _Waiter) -> None:
        if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
            waiter.future.result().release()
        elif waiter in self._line:
            self._line.remove(waiter)
            self._serve()  # a wide request at the head may have held up narrow ones

    def _fail_line(self, error: PileusError) -> None:
        while self._line:
            waiter = self._line.popleft()
            if not waiter.future.done():
                waiter.future.set_exception(_again(error))

    async def _dial_alone(self, timeout: float, *, booting: bool = False, refused_s: float | None = None) -> None:
        """Open a connection if there is none; several who want that wait for the same."""
        try:
            async with self._connecting:
                if not self._links:
                    await self._dial(timeout, booting=booting, refused_s=refused_s)
        finally:
            self._grow_soon()  # those in line have been relying on us

    async def _dial(self, timeout: float, *, booting: bool = False, refused_s: float | None = None) -> None:
        links: list[Link] = []

        def lost() -> None:
            for link in links:
                self.drop(link)

        connection = await self._dialer.dial(timeout, lost, booting=booting, refused_s=refused_s)
        link = Link(connection, asyncio.get_running_loop().time())
        if connection.is_closed():
            raise ConnectError(f"{self._dialer.endpoint.label} closed the connection at once", host=self.host)
        if self._closed:
            connection.abort()
            self._check_open()
        links.append(link)
        self._links.append(link)
        self._serve()

    def _grow_soon(self) -> None:
        if self._closed or not self._line:
            return
        if not self._links:
            if not self._openers and not self._connecting.locked():
                self._grow(1)
        elif self._growth is None:
            self._growth = asyncio.get_running_loop().call_later(self._growth_pause_s, self._stood_still)

    def _stood_still(self) -> None:
        self._growth = None
        self._serve()
        if self._links:
            wanted = -(-sum(waiter.places for waiter in self._line) // self._max_sessions) - len(self._openers)
            self._grow(min(wanted, self._max_connections - len(self._links) - len(self._openers)))
        self._grow_soon()

    def _grow(self, count: int) -> None:
        for _ in range(count):
            task = asyncio.get_running_loop().create_task(self._open_another())
            self._openers.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, opener: asyncio.Task[None]) -> None:
        self._openers.discard(opener)
        self._grow_soon()

    async def _open_another(self) -> None:
        try:
            await self._dial(RECONNECT_S, refused_s=REFUSED_S)
            self._growth_pause_s = STANDSTILL_S
        except PileusError as error:
            if self._links:
                # those in line are served by the connections that there are; sshd may have enough of them for now
                self._growth_pause_s = min(self._growth_pause_s * 2, 5.0)
                logger.debug("%s: no further connection: %s", self.name, error.message)
            elif len(self._openers) <= 1:
                self._fail_line(error)

    def _close_idle(self) -> None:
        self._sweep = None
        loop = asyncio.get_running_loop()
        for link in self._links[1:]:
            if not link.used and link.sftp is None and loop.time() - link.idle_since >= IDLE_S * 0.9:
                self._links.remove(link)
                task = loop.create_task(_close(link))
                self._closers.add(task)
                task.add_done_callback(self._closers.discard)
        if len(self._links) > 1:
            self._sweep = loop.call_later(IDLE_S, self._close_idle)


async def _start_sftp(connection: asyncssh.SSHClientConnection) -> asyncssh.SFTPClient:
    pause = 0.01
    while True:
        try:
            return await connection.start_sftp_client()
        except asyncssh.ChannelOpenError:
            if pause > 1 or connection.is_closed():
                raise
            await asyncio.sleep(pause)
            pause *= 2


async def _close(link: Link) -> None:
    link.connection.close()
    try:
        async with asyncio.timeout(CLOSING_S):
            await link.connection.wait_closed()
    except TimeoutError:
        link.connection.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_S):
                await link.connection.wait_closed()


def _again(error: PileusError) -> PileusError:
    """A copy for one of several who get the same error: a raised one grows a traceback, and is annotated by its catcher."""
    if isinstance(error, ConnectError):
        copy: PileusError = ConnectError(error.message, hint=error.hint, host=error.host)
    else:
        copy = type(error)(error.message, hint=error.hint)
    copy.__cause__ = error
    return copy
