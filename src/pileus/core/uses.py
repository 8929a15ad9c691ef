"""Which servers this process uses at the moment: commands, transfers, open sessions.

A server without a `ttd` is not accounted for. For the others, the first use is on disk before it begins, so that no other process takes
the server for idle; the last one's end is written a moment later, with the time at which it ended, so that one command after another
costs no write. A process that dies takes its uses with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pileus.errors import ServerGoneError
from pileus.state import ServerRow

if TYPE_CHECKING:
    from pileus.core.core import Core

WRITE_AFTER_S = 0.2


@dataclass(slots=True)
class _Use:
    count: int = 0
    written: bool = False
    ended: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Uses:
    """Counts uses by server."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._uses: dict[str, _Use] = {}

    @contextlib.asynccontextmanager
    async def of(self, row: ServerRow) -> AsyncIterator[None]:
        """Hold the server in use.

        Raises:
            ServerGoneError: it is being destroyed.
        """
        if not row.ttd_s:
            yield
            return
        use = self._uses.setdefault(row.id, _Use())
        use.count += 1
        try:
            await self._begin(row, use)
            yield
        finally:
            use.count -= 1
            if use.count == 0:
                use.ended = self._core.clock.monotonic()
                self._core.start(self._end_soon(row.id, use))

    def any(self, server_id: str) -> bool:
        """Whether this process uses it now."""
        use = self._uses.get(server_id)
        return use is not None and use.count > 0

    async def flush(self) -> None:
        """Write the ends of all uses down."""
        for server_id, use in list(self._uses.items()):
            await self._end(server_id, use)

    async def _begin(self, row: ServerRow, use: _Use) -> None:
        if not use.written:
            # To its end even when we are cancelled: what is on disk and what we believe must not part.
            await self._core.finish(self._write_begin(row, use))

    async def _write_begin(self, row: ServerRow, use: _Use) -> None:
        async with use.lock:
            if use.written:
                return
            session = await self._core.journal.session()
            if not await self._core.journal.store.write(lambda s: s.begin_use(row.id, session)):
                raise ServerGoneError(
                    f"server {row.name} was destroyed", server_id=row.id, server_name=row.name, hint="spawn another"
                )
            use.written = True

    async def _end_soon(self, server_id: str, use: _Use) -> None:
        await asyncio.sleep(WRITE_AFTER_S)
        await self._end(server_id, use)

    async def _end(self, server_id: str, use: _Use) -> None:
        async with use.lock:
            if use.count or not use.written:
                return
            use.written = False
            try:
                session = await self._core.journal.session()
                await self._core.journal.store.write(lambda s: s.end_use(server_id, session, use.ended))
            except BaseException:
                use.written = True  # the next one's end will strike it off
                raise
            self._core.idle.look()
