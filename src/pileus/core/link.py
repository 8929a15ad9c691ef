"""The way to one server: connect when needed, trust what may be trusted, make it ready on the first connection.

The host key that came by user-data can be read by others on the server, so it is good for one connection: over that, the server
makes itself a new one, which is recorded before it is put in force. In between both are trusted, and whoever comes next, here or in
another process, finishes the change.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pileus import boot
from pileus.core.watcher import unseen
from pileus.drivers.base import ServerRecord, ServerStatus
from pileus.errors import (
    ConnectError,
    HostKeyError,
    RemoteError,
    ServerFailedError,
    ServerGoneError,
    ServerTimeoutError,
)
from pileus.models import BootTarget
from pileus.state import ServerRow, Store

if TYPE_CHECKING:
    from pileus.core.core import Core
    from pileus.remote import Endpoint, Remote

log = logging.getLogger("pileus.link")

BOOT_WITHIN_S = 1200.0
CONNECT_WITHIN_S = 30.0
LOOK_AFTER_S = 2.0
"""After so long without a connection, the cloud is asked whether the server still is one."""


class Link:
    """One server's `Remote`, made when it is first needed.

    Args:
        row: gives the server's row as last known.
        take: is told of a newer row.
    """

    def __init__(self, core: Core, row: Callable[[], ServerRow], take: Callable[[ServerRow | None], None]) -> None:
        self._core = core
        self._row = row
        self._take = take
        self._lock = asyncio.Lock()
        self._remote: Remote | None = None
        self._ready = False
        self._rotating: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether there is an open connection."""
        return self._remote is not None and self._remote.connected

    async def ready(self, timeout: float | None = None, *, final: bool = False) -> Remote:
        """The server's `Remote`, once its boot is over and only its own host key is trusted.

        Args:
            timeout: seconds; a default for servers that boot, and for those that have, when None.
            final: nothing is left to do before the server is called ready.

        Raises:
            ServerFailedError: its boot failed.
            ServerTimeoutError: the boot is not over after `timeout` seconds.
            ConnectError: a server that was ready does not answer.
            HostKeyError: something else answers.
        """
        if self._ready and self._remote is not None:
            return self._remote
        async with self._lock:
            if self._ready and self._remote is not None:
                return self._remote
            row = await self._fresh()
            if row.boot_key:
                await self._boot(row, timeout or BOOT_WITHIN_S, final=final)
            else:
                await self._reconnect(row, timeout or CONNECT_WITHIN_S)
            self._ready = True
            assert self._remote is not None
            return self._remote

    async def run_if_open(self, command: str) -> bool:
        """Run a small command on the connection, opening it if need be; False when that did not work."""
        try:
            remote = await self.ready(20.0)
            return (await remote.run(command, check=False, timeout=20.0)).ok
        except (RemoteError, ServerFailedError, ServerTimeoutError, ServerGoneError):
            return False

    def target(self) -> BootTarget:
        """How the boot script finds its way there."""
        return self._core.cloud.driver.boot_target(self._row().intent_id)

    async def aclose(self) -> None:
        """Close its connections."""
        rotating, self._rotating = self._rotating, None
        if rotating is not None and not rotating.done():
            await asyncio.wait((rotating,), timeout=5.0)
            rotating.cancel()
        remote, self._remote, self._ready = self._remote, None, False
        if remote is not None:
            await remote.aclose()

    def drop(self) -> None:
        """Close its connections soon, without waiting."""
        if self._remote is not None:
            self._core.start(self.aclose())

    async def _fresh(self) -> ServerRow:
        """The row of the state: another process may have changed the host key."""
        server_id = self._row().id
        row = await self._core.journal.store.read(lambda s: s.server(server_id))
        self._take(row)
        row = row or self._row()
        if row.status in ("destroying", "destroyed"):
            raise ServerGoneError(f"server {row.name} was destroyed", server_id=row.id, server_name=row.name)
        if not row.host_keys or not self._core.journal.deployment.private_key:
            raise ServerFailedError(
                f"server {row.name} was found again without its keys: it can be listed and destroyed, not logged in to",
                server_id=row.id,
                server_name=row.name,
            )
        return row

    def _endpoint(self, row: ServerRow) -> Endpoint:
        from pileus.remote import Endpoint

        return Endpoint(
            host=row.ip,
            port=row.ssh_port,
            user_name=row.user_name,
            private_key=self._core.journal.deployment.private_key,
            host_keys=row.host_keys,
            name=row.name,
        )

    def _make(self, row: ServerRow) -> Remote:
        from pileus.remote import Remote

        if self._remote is None:
            self._remote = Remote(self._endpoint(row))
        return self._remote

    async def _reconnect(self, row: ServerRow, timeout: float) -> None:
        remote = self._make(row)
        try:
            await remote.connect(timeout)
        except HostKeyError:
            newer = await self._fresh()
            if newer.host_keys == row.host_keys:
                raise
            remote.trust(newer.host_keys)
            await remote.connect(timeout)

    async def _boot(self, row: ServerRow, timeout: float, *, final: bool) -> None:
        started = self._core.clock.monotonic()
        remote = self._make(row)
        named = {"server_id": row.id, "server_name": row.name}
        try:
            await self._reach(remote, row, timeout)
        except ConnectError as problem:
            console = await self._console(row)
            raise ServerTimeoutError(
                f"server {row.name} could not be reached by SSH within {timeout:.0f} s: {problem.args[0]}{console}",
                hint="look at its console; does the image run user-data and an SSH server?",
                **named,
            ) from problem
        left = max(1.0, timeout - (self._core.clock.monotonic() - started))
        recorded = asyncio.Event()
        self._rotating = asyncio.ensure_future(self._rotate(remote, row, left, recorded, final=final))
        recording = asyncio.ensure_future(recorded.wait())
        try:
            await asyncio.wait((self._rotating, recording), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._rotating.cancel()
            raise
        finally:
            recording.cancel()
        if self._rotating.done():
            self._rotating.result()
        else:
            # The server is ready; putting its new key in force takes a moment more, in which both are trusted.
            self._rotating.add_done_callback(self._rotated)

    async def _rotate(
        self, remote: Remote, row: ServerRow, timeout_s: float, recorded: asyncio.Event, *, final: bool
    ) -> None:
        """Wait for the end of the boot, have the server make itself a host key, record it, and put it in force."""
        said = ""
        done: dict[str, Any] = {"status": "ready"} if final else {}

        async def answer(line: str) -> str:
            nonlocal said
            said = line.strip()
            if not said.startswith("ssh-"):
                return "stop"
            await self._record(row, host_keys=(*row.host_keys, said), **done)
            remote.trust((*row.host_keys, said))
            recorded.set()
            return "switch"

        ended = await remote.converse(self._rotation(timeout_s), answer, check=False, timeout=timeout_s + 60.0)
        if not ended.ok and not said.startswith("ssh-"):
            await self._boot_failed(row, ended.stdout + ended.stderr, timeout_s)
        if not ended.ok:
            raise ServerFailedError(
                f"server {row.name} did not take its new host key: {ended.stderr}",
                server_id=row.id,
                server_name=row.name,
            )
        await self._record(row, host_keys=(said,), boot_key=False)
        remote.trust((said,))

    def _rotated(self, rotating: asyncio.Task[None]) -> None:
        """Where the new key could not be put in force, whoever needs the server next tries again, and hears why not."""
        if rotating.cancelled() or rotating.exception() is not None:
            self._ready = False
            log.info("the host key of %s is not changed yet: %s", self._row().name, rotating)

    async def _reach(self, remote: Remote, row: ServerRow, timeout: float) -> None:
        """Connect; when that takes a while, see that the server still is one: a dead one is not waited for."""
        connecting = asyncio.ensure_future(remote.connect(timeout, booting=True))
        tasks: list[asyncio.Future[None]] = [connecting]
        try:
            done, _ = await asyncio.wait(tasks, timeout=LOOK_AFTER_S)
            if not done:
                tasks.append(asyncio.ensure_future(self._core.watcher.wait(row.id, self._still_there(row))))
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _still_there(self, row: ServerRow) -> Callable[[ServerRecord | None], None]:
        named = {"server_id": row.id, "server_name": row.name}
        listed_by = row.created + self._core.cloud.driver.capabilities.listing_lag_s

        def judge(record: ServerRecord | None) -> None:
            if unseen(record):
                return
            if record is None and self._core.journal.now_s() > listed_by:
                raise ServerGoneError(f"server {row.name} vanished while it was booting", **named)
            if record is not None and record.status in (ServerStatus.ERROR, ServerStatus.STOPPED):
                fault = f": {record.fault}" if record.fault else ""
                raise ServerFailedError(
                    f"server {row.name} is {record.status.value} instead of booting{fault}", **named
                )

        return judge

    def _rotation(self, timeout_s: float) -> str:
        """Wait for the end of the boot, make a host key and show it, and once it is recorded put it in force."""
        target = self.target()
        return (
            f"{boot.wait_for_sentinel(target, timeout_s=timeout_s)}"
            f"(\n{boot.make_host_key(target)}) </dev/null || exit 1\n"
            'read -r go && [ "$go" = switch ] || exit 1\n'
            f"(\n{boot.switch_host_key(target)}) </dev/null\n"
        )

    async def _record(self, row: ServerRow, **columns: object) -> None:
        def write(store: Store) -> ServerRow | None:
            store.update_server(row.id, **columns)
            return store.server(row.id)

        self._take(await self._core.journal.store.write(write))

    async def _boot_failed(self, row: ServerRow, said: str, timeout: float) -> None:
        console = await self._core.cloud.console(row.id)
        tail = "\n".join((said.strip() or console).splitlines()[-20:])
        raise ServerFailedError(
            f"the boot of server {row.name} failed or was not over in {timeout:.0f} s:\n{tail}",
            console=console or said,
            server_id=row.id,
            server_name=row.name,
            hint="see its console, and destroy it",
        )

    async def _console(self, row: ServerRow) -> str:
        tail = ""
        with contextlib.suppress(Exception):
            tail = "\n".join((await self._core.cloud.console(row.id)).splitlines()[-20:])
        return f"\nthe end of its console:\n{tail}" if tail else ""
