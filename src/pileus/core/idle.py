"""Letting idle servers go while we live, and keeping the lease of the others, by which they go when we do not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from pileus import boot
from pileus.errors import PileusError
from pileus.policy import idleness
from pileus.state import ServerRow

if TYPE_CHECKING:
    from pileus.core.core import Core

log = logging.getLogger("pileus.idle")

LOOK_S = 5.0
"""How often the state is looked at for what other processes did, at least."""


class Idle:
    """Destroys servers that have been idle for their `ttd`; renews the lease of those that this process holds."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._renewed: dict[str, float] = {}
        self._closed = False

    def look(self) -> None:
        """Something changed: look at the servers soon."""
        self._wake.set()
        if not self._closed and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run(), name="pileus-idle")

    async def aclose(self) -> None:
        """Stop."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        rows: list[ServerRow] = []
        while True:
            self._wake.clear()
            try:
                rows = await self._look()
            except PileusError as problem:  # a state that is busy now is not for ever
                log.warning("idle servers cannot be looked for, trying again: %s", problem)
                pause = LOOK_S
            else:
                if not rows:
                    return
                pause = idleness.next_look(rows, self._core.clock.monotonic(), self._core.journal.boot_id)
            self._renew(rows, self._core.clock.monotonic())
            await self._sleep(min(max(pause, 0.02), LOOK_S))

    async def _look(self) -> list[ServerRow]:
        """Let go what is idle; gives the servers that may ever be."""
        store, clock = self._core.journal.store, self._core.clock
        await store.read(lambda s: s.drop_dead_sessions(clock.monotonic()))
        rows = [row for row in await store.read(lambda s: s.servers()) if row.ttd_s]
        rows = [row for row in rows if row.status in ("spawned", "ready")]
        now = clock.monotonic()
        for row in rows:
            if idleness.is_idle(row, now, self._core.journal.boot_id) and not self._core.uses.any(row.id):
                await self._let_go(row, now)
        return rows

    async def _sleep(self, seconds: float) -> None:
        sleeping = asyncio.ensure_future(self._core.clock.sleep(seconds))
        waking = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait((sleeping, waking), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sleeping, waking):
                task.cancel()
            await asyncio.gather(sleeping, waking, return_exceptions=True)

    async def _let_go(self, row: ServerRow, now: float) -> None:
        session = await self._core.journal.session()
        claimed = await self._core.journal.store.write(
            lambda s: s.claim_destroy(row.id, if_idle=True, now=now, session=session)
        )
        if claimed:
            log.info("server %s was idle for %g s: destroying it", row.name, row.ttd_s)
            self._core.forget_server(row.id)
            self._core.start(self._destroy(row))

    async def _destroy(self, row: ServerRow) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            try:
                await self._core.clearing.destroy(row.id)
            except PileusError as problem:
                log.warning("destroying idle server %s: %s; the next deploy or tear-down will", row.name, problem)

    def _renew(self, rows: list[ServerRow], now: float) -> None:
        """Renew what is held by this process, a third of the lease after the last time."""
        for row in rows:
            lease_s = max(row.ttd_s, 60.0)
            server = self._core.held(row.id)
            if server is None or now - self._renewed.get(row.id, now - lease_s) < lease_s / 3:
                continue
            self._renewed[row.id] = now
            self._core.start(self._renew_one(row, lease_s))

    async def _renew_one(self, row: ServerRow, lease_s: float) -> None:
        link = self._core.held(row.id)
        if link is not None and not await link.run_if_open(boot.renew_lease(link.target(), lease_s)):
            log.warning("the lease of server %s could not be renewed", row.name)
