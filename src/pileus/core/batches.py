"""Things that are asked for at about the same time go out together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

LINGER_S = 0.002
"""How long the first one waits for others; as long again while more keep coming."""
LINGER_TIMES = 20


class Batcher(Generic[T]):
    """Collects items and hands them to `send` in batches of at most `size`.

    `send` must not raise: whoever gave an item learns its outcome in another way.
    """

    def __init__(self, size: int, send: Callable[[Sequence[T]], Awaitable[None]]) -> None:
        self._size = size
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
            await asyncio.sleep(LINGER_S)
            if len(self._queue) == before or len(self._queue) >= self._size:
                break
        while self._queue:
            batch, self._queue[:] = self._queue[: self._size], self._queue[self._size :]
            self._start(self._send(batch))

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
