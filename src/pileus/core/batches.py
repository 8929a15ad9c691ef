"""Things that are asked for at about the same time go out together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

LINGER_TIMES = 20
"""How often the first one waits for others, as long as more keep coming."""
TURNS = 5
"""How many turns of the event loop count as one wait, where no time is waited."""


class Batcher(Generic[T]):
    """Collects items and hands them to `send` in batches of at most `size`.

    `send` must not raise: whoever gave an item learns its outcome in another way.

    Args:
        linger_s: how long the first one waits for others; for 0, a few turns of the event loop, which is enough for those that
            are asked for in one go.
    """

    def __init__(self, size: int, send: Callable[[Sequence[T]], Awaitable[None]], *, linger_s: float) -> None:
        self._size = size
        self._linger_s = linger_s
        self._send = send
        self._queue: list[T] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, item: T) -> None:
        """Send it soon."""
        self._queue.append(item)
        if len(self._queue) == 1:
            self._start(self._collect())

    def take_back(self, item: T) -> bool:
        """Do not send it after all; False when it is on its way already."""
        if item not in self._queue:
            return False
        self._queue.remove(item)
        return True

    async def aclose(self) -> None:
        """Wait for all batches to be sent."""
        while self._tasks:
            await asyncio.gather(*list(self._tasks), return_exceptions=True)

    async def _collect(self) -> None:
        for _ in range(LINGER_TIMES):
            before = len(self._queue)
            for _ in range(1 if self._linger_s else TURNS):
                await asyncio.sleep(self._linger_s)
            if len(self._queue) == before or len(self._queue) >= self._size:
                break
        while self._queue:
            batch, self._queue[:] = self._queue[: self._size], self._queue[self._size :]
            self._start(self._send(batch))

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
