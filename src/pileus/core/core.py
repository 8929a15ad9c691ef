"""The parts of one open deployment, and what they share."""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import socket
import weakref
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pileus.clock import Clock
from pileus.core.clearing import Clearing
from pileus.core.cloud import Cloud
from pileus.core.idle import Idle
from pileus.core.journal import Journal
from pileus.core.link import Link
from pileus.core.spawning import Spawner
from pileus.core.uses import Uses
from pileus.core.watcher import Watcher
from pileus.drivers.base import Driver
from pileus.state import AsyncStore, ServerRow, boot_id

if TYPE_CHECKING:
    from pileus.provider import AsyncProvider
    from pileus.server import AsyncServer

T = TypeVar("T")
log = logging.getLogger("pileus")


class Core:
    """One open deployment: its cloud, its state, and everything that goes on for it in this process."""

    def __init__(self, driver: Driver, store: AsyncStore, path: Path, resource_name: str, clock: Clock) -> None:
        self.clock = clock
        self.cloud = Cloud(driver, clock)
        self.journal = Journal(store, path, self.cloud, resource_name, owner(), boot_id())
        self.watcher = Watcher(self.cloud, clock, lambda: self.journal.deployment_id)
        self.clearing = Clearing(self.cloud, self.journal, self.watcher)
        self.spawner = Spawner(self.cloud, self.journal, self.watcher, self.destroy)
        self.uses = Uses(self)
        self.idle = Idle(self)
        self.not_working: set[str] = set()
        self._servers: weakref.WeakValueDictionary[str, AsyncServer] = weakref.WeakValueDictionary()
        self._holding: dict[str, tuple[AsyncServer, int]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    # --- servers as objects ---

    def server(self, provider: AsyncProvider, row: ServerRow, *, fresh: bool = True) -> AsyncServer:
        """The one object for this server in this process.

        Args:
            fresh: the row was just read; else the object may know a newer one.
        """
        from pileus.server import AsyncServer

        known = self._servers.get(row.id)
        if known is None:
            known = self._servers[row.id] = AsyncServer(provider, row)
        elif fresh:
            known._take(row)
        return known

    def forget_server(self, server_id: str) -> None:
        """It is destroyed: its object says so from now on."""
        known = self._servers.get(server_id)
        self._holding.pop(server_id, None)
        if known is not None:
            known._gone()

    def allocated(self, server: AsyncServer, change: int) -> None:
        """Count this process's allocations on a server: while there are any, its lease is kept."""
        _, count = self._holding.pop(server.id, (server, 0))
        if count + change > 0:
            self._holding[server.id] = (server, count + change)
        self.idle.look()

    def held(self, server_id: str) -> Link | None:
        """The link to a server that this process holds: it has room allocated there, or an open connection."""
        known = self._servers.get(server_id)
        if known is None or not (known.id in self._holding or known._link.connected):
            return None
        return known._link

    async def destroy(self, server_id: str) -> None:
        """Destroy a server, and have its object say so."""
        self.forget_server(server_id)
        await self.clearing.destroy(server_id)

    # --- life ---

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Do something in the background; `aclose` waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something to its end even when whoever awaits it is cancelled meanwhile."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task in the background failed", exc_info=task.exception())

    async def aclose(self) -> None:
        """Close connections and files, and let threads go. Destroys nothing, but ends what it had begun to destroy."""
        await self.idle.aclose()
        await self.spawner.aclose()
        for server in list(self._servers.values()):
            await server._link.aclose()
        while self._tasks:
            await asyncio.gather(*list(self._tasks), return_exceptions=True)
        await self.uses.flush()
        await self.watcher.aclose()
        await self.journal.close()
        self.cloud.close()


def owner() -> str:
    """Who we are, as `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
