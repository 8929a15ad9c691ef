"""From the wish for a server to a server that runs.

The order of things, for each server: the intent is on disk; its parts (a boot volume) are made; the create call goes out, with
others that were asked for at the same time; its outcome is on disk; whoever wants to know that quota is used is told; the server
is waited for with everyone else's; its address is on disk; it is handed over. A wish that is given up on the way is followed until
what it made is destroyed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from pileus import boot
from pileus.core.batches import Batcher
from pileus.core.cloud import Cloud
from pileus.core.journal import Journal, usable
from pileus.core.watcher import Watcher, unseen
from pileus.drivers.base import (
    SERVER,
    TAG_CREATED,
    TAG_EXPIRES,
    TAG_TTD,
    TAG_USER,
    Outcome,
    Resource,
    ServerRecord,
    ServerRequest,
)
from pileus.errors import (
    PileusError,
    ProviderError,
    QuotaError,
    ServerFailedError,
    ServerGoneError,
    ServerTimeoutError,
    UsageError,
)
from pileus.models import Flavor, Image
from pileus.policy import names, waiting
from pileus.policy import quota as quota_policy
from pileus.state import Intent, ServerRow, Settled

log = logging.getLogger("pileus.spawn")

QUOTA_TRIES = 5


@dataclass(frozen=True, slots=True)
class Wish:
    """What a server shall be, all of it checked."""

    os: str
    image: Image
    user_name: str
    flavor: Flavor
    disk_gb: int
    ttd_s: float = 0.0
    external_ip: bool = False
    max_lifetime_s: float = 0.0
    timeout_s: float | None = None

    @property
    def lease_s(self) -> float:
        """Seconds that the server lives on unrenewed; 0 for ever. Never below a minute, so that a slow controller loses nothing."""
        return max(self.ttd_s, 60.0) if self.ttd_s else 0.0


@dataclass(eq=False, slots=True)
class Ticket:
    """One wish on its way."""

    wish: Wish
    accepted: asyncio.Future[ServerRow]
    on_accepted: Callable[[], None] | None = None
    intent_id: str = field(default_factory=names.intent_id)
    name: str = ""
    host_key: str = field(default="", repr=False)
    host_key_public: str = ""
    parts: dict[str, Resource] = field(default_factory=dict)
    asked_at: float = 0.0
    running: ServerRecord | None = None


class Spawner:
    """Spawns servers for one deployment, in batches.

    Args:
        destroy: destroys a server of ours by its id, and all that was made for it.
    """

    def __init__(
        self, cloud: Cloud, journal: Journal, watcher: Watcher, destroy: Callable[[str], Awaitable[None]]
    ) -> None:
        self._cloud = cloud
        self._journal = journal
        self._watcher = watcher
        self._destroy = destroy
        self._batcher = Batcher(cloud.driver.capabilities.max_batch, self._ask, linger_s=0.0)
        self._tasks: set[asyncio.Task[None]] = set()
        self.timeouts = waiting.SpawnTimeout()

    async def spawn(self, wish: Wish, on_accepted: Callable[[], None] | None = None) -> ServerRow:
        """Return a server that the cloud calls active, with its address.

        When it fails or is cancelled, what was made is destroyed before the error is raised; where even that fails, it stands in
        the state as a server being destroyed, for the next `deploy`, `audit` or `tear_down`.
        """
        ticket = Ticket(wish, asyncio.get_running_loop().create_future(), on_accepted)
        self._batcher.add(ticket)
        try:
            row = await asyncio.shield(ticket.accepted)
            return await self._until_active(ticket, row)
        except asyncio.CancelledError:
            await self._give_up(ticket)
            raise

    async def aclose(self) -> None:
        """Wait for what is under way to be settled."""
        await self._batcher.aclose()
        while self._tasks:
            await asyncio.gather(*list(self._tasks), return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _give_up(self, ticket: Ticket) -> None:
        """Follow a wish that nobody has any more, until nothing of it is left. A second cancellation stops the following."""
        if self._batcher.take_back(ticket):
            return

        async def follow() -> None:
            try:
                row = await ticket.accepted
                await self._destroy(row.id)
            except PileusError as problem:
                log.warning("after giving up %s: %s", ticket.name, problem)

        await asyncio.shield(self._start(follow()))

    # --- asking ---

    async def _ask(self, batch: Sequence[Ticket]) -> None:
        outcomes: list[Outcome] = []
        try:
            requests = await self._prepare(batch)
            requests = await self._make_parts(batch, requests)
            outcomes = await self._cloud.create_servers(requests) if requests else []
            await self._settle({ticket.intent_id: ticket for ticket in batch}, requests, outcomes)
        except BaseException as problem:
            made = [outcome.record.id for outcome in outcomes if outcome.record is not None]
            if made:
                self._start(self._drop(made))
            for ticket in batch:
                if not ticket.accepted.done():
                    ticket.accepted.set_exception(
                        problem if isinstance(problem, Exception) else asyncio.CancelledError()
                    )
                    ticket.accepted.exception()  # it may have nobody left to raise it to
            if not isinstance(problem, PileusError):
                raise

    async def _drop(self, server_ids: Sequence[str]) -> None:
        """Delete servers that were made and could not be recorded; their intents stay open until a listing settles them."""
        log.error("%d servers could not be recorded, and are deleted", len(server_ids))
        for outcome in await self._cloud.delete_servers(server_ids):
            if outcome.error is not None:
                log.error("a server that could not be recorded is left: %s", outcome.error)

    async def _prepare(self, batch: Sequence[Ticket]) -> list[ServerRequest]:
        """Check quota and write the intents down, in one commit; then the requests."""
        from pileus.remote import keys

        deployment = self._journal.deployment
        resources = await self._journal.resources()
        driver = self._cloud.driver
        requests, intents = [], []
        now = self._cloud.clock.now()
        for ticket in batch:
            wish = ticket.wish
            ticket.name = names.server_name(deployment.resource_name, secrets.token_hex(6))
            pair = keys.generate()
            ticket.host_key, ticket.host_key_public = pair.private_pem, pair.public_line
            tags = {
                **self._journal.tags(ticket.intent_id),
                TAG_USER: wish.user_name,
                TAG_TTD: f"{wish.ttd_s:g}",
                TAG_CREATED: now.isoformat(timespec="seconds"),
            }
            if wish.max_lifetime_s:
                tags[TAG_EXPIRES] = (now + timedelta(seconds=wish.max_lifetime_s)).isoformat(timespec="seconds")
            plan = boot.BootPlan(
                target=driver.boot_target(ticket.intent_id),
                host_name=ticket.name,
                user_name=wish.user_name,
                authorized_key=deployment.public_key,
                host_private_key=ticket.host_key,
                host_public_key=ticket.host_key_public,
                lease_s=wish.lease_s,
            )
            requests.append(
                ServerRequest(
                    intent_id=ticket.intent_id,
                    name=ticket.name,
                    flavor=wish.flavor,
                    image=wish.image,
                    user_name=wish.user_name,
                    disk_gb=wish.disk_gb,
                    external_ip=wish.external_ip,
                    tags=tags,
                    user_data=boot.render(plan),
                    resources=resources,
                    config=self._journal.config,
                )
            )
            intents.append(self._intent(ticket))
        await self._record(batch, intents)
        return requests

    def _intent(self, ticket: Ticket) -> Intent:
        wish = ticket.wish
        payload = {
            "os": wish.os,
            "image_id": wish.image.id,
            "user_name": wish.user_name,
            "flavor": self._journal.flavor_columns(wish.flavor),
            "disk_gb": wish.disk_gb,
            "ttd_s": wish.ttd_s,
            "external": wish.external_ip,
            "max_lifetime_s": wish.max_lifetime_s,
            "host_keys": [ticket.host_key_public],
            "cores": wish.flavor.cores,
            "ram": wish.flavor.ram,
            "disk": self._volume_gb(wish),
        }
        return self._journal.new_intent(ticket.intent_id, SERVER, ticket.name, payload, self._cloud.deadline_s())

    def _volume_gb(self, wish: Wish) -> int:
        return wish.disk_gb if wish.disk_gb > wish.flavor.disk else 0

    async def _record(self, batch: Sequence[Ticket], intents: Sequence[Intent]) -> None:
        """Write the intents down, unless quota is against it.

        What other processes intend is counted on top of what the cloud calls used. A request of theirs that is under way may be in
        both for a moment, so a refusal in which intents played a part is looked at again before it is final.
        """
        wanted = quota_policy.Need(
            cores=sum(ticket.wish.flavor.cores for ticket in batch),
            ram_mb=sum(ticket.wish.flavor.ram for ticket in batch),
            instances=len(batch),
            volume_gb=sum(self._volume_gb(ticket.wish) for ticket in batch),
        )
        for attempt in range(QUOTA_TRIES):
            quota = await self._cloud.quota()
            try:
                await self._journal.record_server_intents(intents, quota, wanted)
                return
            except QuotaError as problem:
                if attempt == QUOTA_TRIES - 1 or not await self._journal.open_intents(SERVER):
                    raise problem.within(self._cloud.driver.name, "spawn") from None
            await self._cloud.clock.sleep(0.3 * 2**attempt)

    async def _make_parts(self, batch: Sequence[Ticket], requests: list[ServerRequest]) -> list[ServerRequest]:
        """Make what single servers need first; a server whose part cannot be made drops out with that error."""
        driver = self._cloud.driver

        async def make(ticket: Ticket, request: ServerRequest) -> ServerRequest | None:
            planned = driver.server_parts(request)
            if not planned:
                return request
            try:
                for part in planned:
                    name = f"{request.name}-{part.suffix}" if part.suffix else request.name
                    ticket.parts[part.kind] = await self._journal.make_resource(
                        part.kind, name, part.spec, {**request.resources, **ticket.parts}, server=request.intent_id
                    )
            except PileusError as problem:
                await self._drop_parts(ticket)
                await self._journal.settle([Settled(ticket.intent_id, "failed", detail=str(problem))])
                ticket.accepted.set_exception(problem)
                return None
            return _with_parts(request, ticket.parts)

        made = await asyncio.gather(*(make(t, r) for t, r in zip(batch, requests, strict=True)))
        return [request for request in made if request is not None]

    async def _drop_parts(self, ticket: Ticket) -> None:
        for part in reversed(list(ticket.parts.values())):
            try:
                await self._cloud.delete_resource(part)
                await self._journal.forget_resource(part)
            except PileusError as problem:
                log.warning("%s %s is left for the next deploy, audit or tear-down: %s", part.kind, part.id, problem)

    # --- what became of it ---

    async def _settle(
        self, tickets: Mapping[str, Ticket], requests: Sequence[ServerRequest], outcomes: Sequence[Outcome]
    ) -> None:
        settled: list[Settled] = []
        accepted: list[tuple[Ticket, ServerRow]] = []
        refused: list[tuple[Ticket, PileusError]] = []
        for request, outcome in zip(requests, outcomes, strict=True):
            ticket = tickets[request.intent_id]
            ticket.asked_at = self._cloud.clock.monotonic()
            if outcome.record is not None:
                row = self._journal.server_row(ticket, outcome.record)
                settled.append(Settled(ticket.intent_id, "done", outcome.record.id, server=row))
                accepted.append((ticket, row))
                ticket.running = outcome.record
                continue
            problem = outcome.error or ProviderError(
                "the driver gave neither a server nor an error", outcome_unknown=True
            )
            if getattr(problem, "outcome_unknown", False):
                self._start(self._look_for(ticket, problem))
            else:
                settled.append(Settled(ticket.intent_id, "failed", detail=problem.args[0]))
                refused.append((ticket, problem))
        recorded = await self._journal.accept(settled) if settled else {}
        for ticket, row in accepted:
            if not ticket.accepted.done():
                ticket.accepted.set_result(recorded.get(row.id, row))
        for ticket, _ in accepted:
            self._tell(ticket)
        for ticket, problem in refused:
            await self._drop_parts(ticket)
            ticket.accepted.set_exception(problem)
            ticket.accepted.exception()

    @staticmethod
    def _tell(ticket: Ticket) -> None:
        """Call back; whoever waits for the server comes later in this turn of the loop."""
        if ticket.on_accepted is not None:
            try:
                ticket.on_accepted()
            except (Exception, asyncio.CancelledError):  # a caller's defect must not cost the server
                log.exception("the on_using_quota callback of %s failed", ticket.name)

    async def _look_for(self, ticket: Ticket, problem: PileusError) -> None:
        """A reply was lost: the server is ours if it is listed before the request's deadline and the listing's lag are over."""
        until = self._cloud.clock.monotonic() + self._journal.unresolved_for_s()

        def judge(record: ServerRecord | None) -> ServerRecord | bool | None:
            if record is not None and not unseen(record):
                return record
            return False if self._cloud.clock.monotonic() >= until else None

        try:
            found = await self._watcher.wait(ticket.intent_id, judge)
            if isinstance(found, ServerRecord):
                row = self._journal.server_row(ticket, found)
                recorded = await self._journal.accept([Settled(ticket.intent_id, "done", found.id, server=row)])
                ticket.accepted.set_result(recorded.get(row.id, row))
                self._tell(ticket)
                return
            await self._journal.settle([Settled(ticket.intent_id, "failed", detail="never listed")])
            await self._drop_parts(ticket)
            ticket.accepted.set_exception(problem)
        except PileusError as second:
            ticket.accepted.set_exception(second)
        ticket.accepted.exception()

    async def _until_active(self, ticket: Ticket, row: ServerRow) -> ServerRow:
        record = ticket.running
        try:
            if record is None or not usable(record):
                record = await self._watcher.wait(row.intent_id, self._judge(ticket, row))
                took_s = self._cloud.clock.monotonic() - ticket.asked_at
                self.timeouts = self.timeouts.after(took_s, from_volume=bool(ticket.parts))
        except UsageError:
            raise  # the provider was closed: the server is on record, and whoever opens the deployment next has it
        except PileusError as problem:
            if isinstance(problem, ServerFailedError) and not problem.console:
                problem = self._failed(row, problem, await self._cloud.console(row.id))
            try:
                await self._destroy(row.id)
            except PileusError as second:
                problem.add_note(f"It could not be destroyed either, and is left for the next tear-down: {second}")
            raise problem.within(self._cloud.driver.name, "spawn") from None
        if (row.ip, row.ssh_port) == (record.address, record.port) and record is ticket.running:
            return row  # it ran when it was accepted, and is on record as running
        return await self._journal.active(row, record)

    def _judge(self, ticket: Ticket, row: ServerRow) -> Callable[[ServerRecord | None], ServerRecord | None]:
        lag_s = self._cloud.driver.capabilities.listing_lag_s
        timeout_s = ticket.wish.timeout_s or self.timeouts.timeout_s(from_volume=bool(ticket.parts))
        named = {"server_id": row.id, "server_name": row.name}
        seen = False

        def judge(record: ServerRecord | None) -> ServerRecord | None:
            nonlocal seen
            age_s = self._watcher.asked_at - ticket.asked_at
            if unseen(record):
                verdict = waiting.judge(None, seen, age_s, age_s, timeout_s)
            else:
                verdict = waiting.judge(record, seen, age_s, lag_s, timeout_s)
                seen = seen or record is not None
            match verdict.ending:
                case waiting.Ending.DONE:
                    return record
                case waiting.Ending.FAILED:
                    explained = self._cloud.driver.fault_error(record) if record else None
                    raise explained or ServerFailedError(f"server {row.name} failed: {verdict.reason}", **named)
                case waiting.Ending.VANISHED:
                    raise ServerGoneError(f"server {row.name} vanished while it was booting: {verdict.reason}", **named)
                case waiting.Ending.TIMEOUT:
                    self.timeouts = self.timeouts.after(age_s, from_volume=bool(ticket.parts))
                    raise ServerTimeoutError(
                        f"server {row.name} was not active after {age_s:.0f} s: {verdict.reason}",
                        hint="look at its console, choose another flavor, or give a longer timeout",
                        **named,
                    )
            return None

        return judge

    @staticmethod
    def _failed(row: ServerRow, problem: ServerFailedError, console: str) -> ServerFailedError:
        tail = "\n".join(console.splitlines()[-20:])
        if not tail:
            return problem
        return ServerFailedError(
            f"{problem.args[0]}\nthe end of its console:\n{tail}",
            console=console,
            server_id=row.id,
            server_name=row.name,
            provider=problem.provider,
            operation=problem.operation,
        )


def _with_parts(request: ServerRequest, parts: Mapping[str, Resource]) -> ServerRequest:
    return replace(request, resources={**request.resources, **parts})
