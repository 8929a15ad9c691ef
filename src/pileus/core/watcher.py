"""Waiting for servers at a flat cost: one listing per tick serves everyone who waits.

Whoever waits gives a function that judges a record (or its absence) and returns None for "wait on", or the answer. It is asked
once per listing; a listing that fails is skipped unless it will fail for ever (wrong credentials).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from pileus.clock import Clock
from pileus.core.cloud import Cloud
from pileus.drivers.base import ServerRecord
from pileus.errors import AuthenticationError, PileusError, RateLimitError, UsageError

T = TypeVar("T")
log = logging.getLogger("pileus.watcher")

_CLOSED = "the provider was closed while a server was waited for"


@dataclass(eq=False, slots=True)
class _Waiter:
    key: str
    judge: Callable[[ServerRecord | None], Any]
    future: asyncio.Future[Any] = field(repr=False)


class Watcher:
    """One bulk listing per tick for all servers of a deployment that are waited for.

    Args:
        deployment_id: gives the deployment's id at the time of the listing.
    """

    def __init__(self, cloud: Cloud, clock: Clock, deployment_id: Callable[[], str]) -> None:
        self._cloud = cloud
        self._clock = clock
        self._deployment_id = deployment_id
        self._waiters: set[_Waiter] = set()
        self._task: asyncio.Task[None] | None = None
        self._next = 0.0
        self._closed = False
        self.asked_at = 0.0
        """When the newest listing was asked for, by the clock's `monotonic`."""

    async def wait(self, key: str, judge: Callable[[ServerRecord | None], T | None]) -> T:
        """Return what `judge` says of the server with this id, or of this intent, as soon as it says anything.

        Raises:
            Exception: whatever `judge` raises, or `AuthenticationError` when listing is not allowed any more.
        """
        if self._closed:
            raise UsageError(_CLOSED)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(key, judge, future)
        self._waiters.add(waiter)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch(), name="pileus-watcher")
        try:
            return await future
        finally:
            self._waiters.discard(waiter)

    async def aclose(self) -> None:
        """Stop watching; those who still wait get an error."""
        self._closed = True
        for waiter in list(self._waiters):
            if not waiter.future.done():
                waiter.future.set_exception(UsageError(_CLOSED))
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        slower = 1.0
        while self._waiters:
            interval = self._cloud.driver.capabilities.poll_interval_s
            await self._clock.sleep(max(0.0, self._next - self._clock.monotonic()))
            self._next = self._clock.monotonic() + interval * slower
            self.asked_at = self._clock.monotonic()
            asked = list(self._waiters)  # whoever comes during the listing is judged by the next one
            try:
                records = await self._cloud.list_servers_once(self._deployment_id())
            except AuthenticationError as problem:
                self._fail(asked, problem)
                continue
            except PileusError as problem:
                slower = min(slower * 2, 16.0)
                pause = problem.retry_after_s if isinstance(problem, RateLimitError) else None
                self._next = max(self._next, self._clock.monotonic() + (pause or 0.0))
                log.warning("a listing failed and will be repeated: %s", problem.message)
                self._judge(asked, None)
                continue
            slower = 1.0
            self._judge(asked, records)

    def _judge(self, waiters: list[_Waiter], records: list[ServerRecord] | None) -> None:
        found: dict[str, ServerRecord] = {}
        for record in records or ():
            found[record.id] = record
            found[record.intent_id] = record
        for waiter in waiters:
            if waiter.future.done():
                continue
            try:
                answer = waiter.judge(_UNSEEN if records is None else found.get(waiter.key))
            except Exception as problem:  # noqa: BLE001  (handed over to whoever waits)
                waiter.future.set_exception(problem)
            else:
                if answer is not None:
                    waiter.future.set_result(answer)

    @staticmethod
    def _fail(waiters: list[_Waiter], problem: PileusError) -> None:
        for waiter in waiters:
            if not waiter.future.done():
                waiter.future.set_exception(problem)


_UNSEEN = cast(Any, object())


def unseen(record: ServerRecord | None) -> bool:
    """Whether the listing failed, so that nothing is known: a judge may then only look at the time."""
    return record is _UNSEEN
