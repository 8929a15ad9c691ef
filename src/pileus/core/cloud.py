"""One driver, awaited: every call with a request id and a deadline, errors made ours, and retries where they are safe.

Listings and look-ups are repeated when the cloud is busy or stumbles. A create is repeated only when the cloud said for sure
that it did nothing (it throttled us); a delete may always be repeated.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

from pileus.clock import Clock
from pileus.core.threads import DaemonPool
from pileus.drivers.base import (
    Call,
    CheckItem,
    Driver,
    Outcome,
    Resource,
    ResourceRequest,
    ServerRecord,
    ServerRequest,
)
from pileus.errors import (
    AuthenticationError,
    BadFlavorError,
    NoFlavorError,
    NoHardwareError,
    NoImageError,
    NotFoundError,
    PileusError,
    ProviderError,
    QuotaError,
    RateLimitError,
    UnsupportedError,
    UsageError,
)
from pileus.models import Flavor, Image, Quota

T = TypeVar("T")
log = logging.getLogger("pileus.cloud")

_FINAL = (
    AuthenticationError,
    BadFlavorError,
    NoFlavorError,
    NoHardwareError,
    NoImageError,
    NotFoundError,
    QuotaError,
    UnsupportedError,
    UsageError,
)
"""Errors that the same request will meet again."""

TRIES = 5
CATALOGUE_AGE_S = 600.0


class Cloud:
    """A driver's calls as coroutines, in bounded pools of threads, apart for listing, creating and deleting."""

    def __init__(self, driver: Driver, clock: Clock) -> None:
        self.driver = driver
        self.clock = clock
        self._closed = False
        self._pools = {
            "look": DaemonPool("pileus-look", 4),
            "list": DaemonPool("pileus-list", 2),
            "create": DaemonPool("pileus-create", 8),
            "delete": DaemonPool("pileus-delete", 8),
        }
        self._flavors: _Cached[list[Flavor]] = _Cached(clock, lambda: self._read("look", driver.flavors))
        self._images: _Cached[list[Image]] = _Cached(clock, lambda: self._read("look", driver.images))

    def close(self) -> None:
        """Let go of threads and connections; does not wait for calls that hang."""
        self._closed = True
        for pool in self._pools.values():
            pool.close()
        self.driver.close()

    # --- what there is ---

    async def flavors(self, *, fresh: bool = False) -> list[Flavor]:
        """The flavors, at most ten minutes old."""
        return await self._flavors.get(fresh=fresh)

    async def images(self, *, fresh: bool = False) -> list[Image]:
        """The images, at most ten minutes old."""
        return await self._images.get(fresh=fresh)

    async def quota(self) -> Quota:
        """The quota, now."""
        return await self._read("look", self.driver.quota)

    async def check(self) -> list[CheckItem]:
        """The driver's own check; not repeated."""
        return await self._once("look", "check", self.driver.check)

    async def console(self, server_id: str) -> str:
        """The tail of a server's console, or an empty string where there is none to be had."""
        if not self.driver.capabilities.console:
            return ""
        try:
            return await self._once("look", "console", lambda call: self.driver.console(server_id, call))
        except PileusError as problem:
            log.debug("no console of %s: %s", server_id, problem)
            return ""

    async def list_servers(self, deployment_id: str | None) -> list[ServerRecord]:
        """A listing, repeated when the cloud stumbles."""
        return await self._read("list", lambda call: self.driver.list_servers(deployment_id, call), "list_servers")

    async def list_resources(self, deployment_id: str | None) -> list[Resource]:
        """A listing, repeated when the cloud stumbles."""
        return await self._read("list", lambda call: self.driver.list_resources(deployment_id, call), "list_resources")

    async def list_servers_once(self, deployment_id: str | None) -> list[ServerRecord]:
        """A listing that is not repeated: the watcher has its own rhythm."""
        return await self._once("list", "list_servers", lambda call: self.driver.list_servers(deployment_id, call))

    # --- creating ---

    def deadline_s(self) -> float:
        """Seconds within which a request is answered or given up."""
        return self.driver.capabilities.request_timeout_s

    async def create_servers(self, requests: Sequence[ServerRequest]) -> list[Outcome]:
        """Ask for servers, at most `max_batch` of them; an outcome each, in order. Never raises for the cloud's sake.

        What was throttled is asked for again, as nothing was made then.
        """
        outcomes: dict[str, Outcome] = {}
        waiting = list(requests)
        for attempt in range(TRIES):
            for request, outcome in zip(waiting, await self._create_batch(waiting), strict=True):
                outcomes[request.intent_id] = outcome
            throttled = [r for r in waiting if _throttled(outcomes[r.intent_id].error)]
            if not throttled or attempt == TRIES - 1:
                break
            await self._pause(attempt, outcomes[throttled[0].intent_id].error)
            waiting = throttled
        return [outcomes[request.intent_id] for request in requests]

    async def _create_batch(self, requests: Sequence[ServerRequest]) -> list[Outcome]:
        try:
            outcomes = await self._once(
                "create", "create_servers", lambda call: self.driver.create_servers(requests, call), creates=True
            )
        except PileusError as problem:
            return [Outcome(request.intent_id, error=problem) for request in requests]
        if len(outcomes) != len(requests):
            mismatch = ProviderError(
                f"the driver answered {len(outcomes)} outcomes to {len(requests)} requests",
                provider=self.driver.name,
                operation="create_servers",
                outcome_unknown=True,
            )
            return [Outcome(request.intent_id, error=mismatch) for request in requests]
        return outcomes

    async def create_resource(self, request: ResourceRequest, made: Mapping[str, Resource]) -> Resource:
        """Make one resource; asked again only when throttled."""
        for attempt in range(TRIES):
            try:
                return await self._once(
                    "create",
                    f"create {request.kind}",
                    lambda call: self.driver.create_resource(request, made, call),
                    creates=True,
                )
            except RateLimitError as problem:
                if attempt == TRIES - 1 or problem.outcome_unknown:
                    raise
                await self._pause(attempt, problem)
        raise AssertionError("unreachable")

    # --- deleting ---

    async def delete_servers(self, ids: Sequence[str]) -> list[Outcome]:
        """Ask for the end of servers; an outcome each, in order. What failed is asked for again a few times.

        A server that is gone already has no error.
        """
        outcomes: dict[str, Outcome] = {}
        waiting = list(ids)
        for attempt in range(TRIES):
            for server_id, outcome in zip(waiting, await self._delete_batch(waiting), strict=True):
                outcomes[server_id] = outcome
            waiting = [server_id for server_id in waiting if not _settled(outcomes[server_id].error)]
            if not waiting or attempt == TRIES - 1:
                break
            await self._pause(attempt, outcomes[waiting[0]].error)
        return [
            Outcome(server_id) if isinstance(outcomes[server_id].error, NotFoundError) else outcomes[server_id]
            for server_id in ids
        ]

    async def _delete_batch(self, ids: Sequence[str]) -> list[Outcome]:
        try:
            outcomes = await self._once("delete", "delete_servers", lambda call: self.driver.delete_servers(ids, call))
        except PileusError as problem:
            return [Outcome(server_id, error=problem) for server_id in ids]
        return outcomes if len(outcomes) == len(ids) else [Outcome(server_id) for server_id in ids]

    async def delete_resource(self, resource: Resource, *, tries: int = TRIES) -> None:
        """Ask for its end; one that is gone already is a success."""
        for attempt in range(tries):
            try:
                await self._once(
                    "delete", f"delete {resource.kind}", lambda call: self.driver.delete_resource(resource, call)
                )
            except NotFoundError:
                return
            except ProviderError as problem:
                if attempt == tries - 1 or isinstance(problem, _FINAL):
                    raise
                await self._pause(attempt, problem)
            else:
                return

    # --- how ---

    async def _read(self, pool: str, function: Callable[[Call], T], operation: str = "") -> T:
        for attempt in range(TRIES):
            try:
                return await self._once(pool, operation or getattr(function, "__name__", "read"), function)
            except ProviderError as problem:
                if attempt == TRIES - 1 or isinstance(problem, _FINAL):
                    raise
                await self._pause(attempt, problem)
        raise AssertionError("unreachable")

    async def _once(self, pool: str, operation: str, function: Callable[[Call], T], *, creates: bool = False) -> T:
        if self._closed:
            raise UsageError("the provider is closed", provider=self.driver.name, operation=operation)
        timeout = self.deadline_s()
        call = Call(f"req-{secrets.token_hex(8)}", time.monotonic() + timeout)
        where = {"provider": self.driver.name, "operation": operation, "request_id": call.request_id}
        try:
            # The driver keeps the deadline itself; ours, a little later, is for one that does not.
            return await self._pools[pool].run(lambda: function(call), timeout * 1.1 + 1.0)
        except PileusError as problem:
            raise problem.within(self.driver.name, operation) from problem.__cause__
        except TimeoutError:
            raise ProviderError(
                f"{self.driver.name} did not answer {operation} within {timeout:.0f} s",
                hint="look whether its API can be reached, and try again",
                outcome_unknown=creates,
                **where,
            ) from None
        except Exception as problem:  # a driver's defect must not look like success, nor like a certain failure
            raise ProviderError(
                f"{self.driver.name}: {operation} failed: {type(problem).__name__}: {problem}",
                outcome_unknown=creates,
                **where,
            ) from problem

    async def _pause(self, attempt: int, problem: PileusError | None) -> None:
        wanted = problem.retry_after_s if isinstance(problem, RateLimitError) else None
        pause = wanted if wanted is not None else min(10.0, 0.25 * 2**attempt)
        log.debug("trying again in %.2f s: %s", pause, problem)
        await self.clock.sleep(pause * (1.0 + random.random() / 4))


def _throttled(error: PileusError | None) -> bool:
    return isinstance(error, RateLimitError) and not error.outcome_unknown


def _settled(error: PileusError | None) -> bool:
    return error is None or isinstance(error, _FINAL)


class _Cached(Generic[T]):
    """A value that is fetched once for all who ask at the same time, and again when it has grown old."""

    def __init__(self, clock: Clock, fetch: Callable[[], Awaitable[T]]) -> None:
        self._clock = clock
        self._fetch = fetch
        self._value: T | None = None
        self._until = 0.0
        self._fetching: asyncio.Future[T] | None = None

    async def get(self, *, fresh: bool) -> T:
        if self._value is not None and not fresh and self._clock.monotonic() < self._until:
            return self._value
        if self._fetching is None:
            self._fetching = asyncio.ensure_future(self._fetch_it())
        # Shielded: whoever gives up does not take it from the others, who all go on in the same turn of the loop.
        return await asyncio.shield(self._fetching)

    async def _fetch_it(self) -> T:
        try:
            self._value = await self._fetch()
            self._until = self._clock.monotonic() + CATALOGUE_AGE_S
            return self._value
        finally:
            self._fetching = None
