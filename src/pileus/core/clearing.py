"""Destroying servers, settling what a crash left behind, tearing a deployment down and proving it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from pileus.core.batches import Batcher
from pileus.core.cloud import Cloud
from pileus.core.journal import FOR_SERVER, Journal, as_resource, as_row
from pileus.core.watcher import Watcher, unseen
from pileus.drivers.base import SERVER, Outcome, Resource, ServerRecord, ServerStatus
from pileus.errors import PileusError, ServerTimeoutError, TearDownError
from pileus.models import Flavor
from pileus.policy import reconcile
from pileus.state import Intent, ResourceRow, ServerRow, Settled, Store

log = logging.getLogger("pileus.clearing")

GONE_WITHIN_S = 300.0
"""How long a server that is being deleted may take to be gone, at most."""
RESOURCE_ROUNDS = 8


@dataclass(slots=True)
class Listing:
    """Everything of one deployment that the cloud shows."""

    servers: list[ServerRecord] = field(default_factory=list)
    resources: list[Resource] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the state knows: intents that are open or listed, servers by id, sessions that live."""

    intents: dict[str, Intent]
    rows: dict[str, ServerRow]
    sessions: frozenset[str]


_NOBODY = "nobody"
"""No session: what any live process asked for, ours too, is left to whoever there waits for it."""


class Clearing:
    """Makes things of one deployment vanish."""

    def __init__(self, cloud: Cloud, journal: Journal, watcher: Watcher) -> None:
        self._cloud = cloud
        self._journal = journal
        self._watcher = watcher
        self._batcher = Batcher(cloud.driver.capabilities.max_batch, self._send, linger_s=0.002)

    async def listing(self) -> Listing:
        """What the cloud shows of this deployment, now."""
        deployment_id = self._journal.deployment_id
        servers, resources = await asyncio.gather(
            self._cloud.list_servers(deployment_id), self._cloud.list_resources(deployment_id)
        )
        return Listing(servers, resources)

    # --- one server ---

    async def destroy(self, server_id: str, intent_id: str = "", *, listed: bool = False) -> None:
        """Delete a server and all that was made for it, and wait until the cloud does not show it any more.

        May be repeated; a server that is gone is a success. Deletions that are asked for together go out together.

        Args:
            intent_id: of a server that is not on record.
            listed: the cloud shows it, so it is deleted even if the state believes it gone.

        Raises:
            ServerTimeoutError: it is still there; it stays in the state as being destroyed.
            ProviderError: the cloud refuses.
        """
        session = await self._journal.session()

        def claim(store: Store) -> ServerRow | None:
            store.claim_destroy(server_id, session=session)
            return store.server(server_id)

        row = await self._journal.store.write(claim)
        if row is not None and row.status == "destroyed" and not listed:
            return
        name = row.name if row else server_id
        until = self._cloud.clock.monotonic() + GONE_WITHIN_S
        for _ in range(3):
            await self._delete(server_id)
            if await self._gone(server_id, name, until):
                break
        else:
            raise ServerTimeoutError(
                f"server {name} goes into an error each time it is deleted",
                server_id=server_id,
                server_name=name,
                hint="ask the cloud's operators, and repeat",
            )
        for part in await self._journal.parts_of(intent_id or (row.intent_id if row else "")):
            await self._delete_resource(part)
        if row is not None:
            await self._journal.store.write(lambda s: s.mark_destroyed(server_id))
            await self._journal.event("destroyed", server_id, name=name)

    async def _gone(self, server_id: str, name: str, until: float) -> bool:
        """Wait for its absence; False when the cloud put the deletion in error."""

        def judge(record: ServerRecord | None) -> bool | None:
            if record is None:
                return True
            if not unseen(record) and record.status is ServerStatus.ERROR:
                return False
            if self._cloud.clock.monotonic() >= until:
                raise ServerTimeoutError(
                    f"server {name} is still there {GONE_WITHIN_S:.0f} s after it was deleted",
                    server_id=server_id,
                    server_name=name,
                    hint="repeat; if it does not help, ask the cloud's operators",
                )
            return None

        return await self._watcher.wait(server_id, judge)

    async def _delete(self, server_id: str) -> None:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._batcher.add((server_id, future))
        outcome = await future
        if outcome.error is not None:
            raise outcome.error

    async def _send(self, batch: Sequence[tuple[str, asyncio.Future[Outcome]]]) -> None:
        outcomes = await self._cloud.delete_servers([server_id for server_id, _ in batch])
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if not future.done():
                future.set_result(outcome)

    # --- what a crash left ---

    async def settle(self) -> Listing:
        """Ask the cloud what became of intents without an outcome, and of servers that were being destroyed.

        What a dead process asked for and nobody has is destroyed; what carries this deployment's id and the state knows nothing of
        is adopted, since the state was lost then.

        Returns:
            what the cloud showed before anything was destroyed.
        """
        await self._journal.refresh()
        now = self._journal.now_s()
        lag = self._cloud.driver.capabilities.listing_lag_s
        listing = await self.listing()
        listed = {s.intent_id for s in listing.servers} | {r.intent_id for r in listing.resources}

        def read(store: Store) -> _Known:
            intents = {intent.id: intent for intent in store.open_intents()}
            found = (store.intent(intent_id) for intent_id in listed - set(intents))
            intents |= {intent.id: intent for intent in found if intent is not None}
            # Past its deadline nobody waits for an answer any more, whether its process lives or not.
            late = [i for i in intents.values() if i.status == "open" and now > i.deadline + lag]
            intents |= {intent.id: replace(intent, session="") for intent in late}
            rows = {row.id: row for row in store.servers(include_destroyed=True)}
            return _Known(intents, rows, store.live_sessions())

        known = await self._journal.store.read(read)
        planned = self._cloud.driver.plan(self._journal.config, self._journal.deployment.public_key)
        settlement = reconcile.settle(
            known.intents.values(),
            [record for record in listing.servers if record.intent_id in known.intents],
            [resource for resource in listing.resources if resource.intent_id in known.intents],
            known.sessions,
            now,
            self._cloud.driver.capabilities.listing_lag_s,
            adopt_kinds={plan.kind for plan in planned},
            own_session=_NOBODY,
        )
        await self._journal.settle([Settled(i.id, "failed", detail="never listed") for i in settlement.forget])
        for intent, thing in settlement.adopt:
            if isinstance(thing, Resource):
                row = as_row(thing, intent.id, str(intent.payload.get(FOR_SERVER, "")))
                await self._journal.settle([Settled(intent.id, "done", thing.id, resource=row)])
        await asyncio.gather(*(self._end_orphan(thing) for thing in settlement.orphans))
        await self._adopt_unknown(listing, known)
        # What is being destroyed, or was thought to be gone: its secrets are forgotten, nobody can use it any more.
        ended = ("destroying", "destroyed")
        again = [r for r in listing.servers if r.id in known.rows and known.rows[r.id].status in ended]
        await asyncio.gather(*(self._try(self.destroy(record.id, listed=True)) for record in again))
        await self._forget_gone(known.rows.values(), listing)
        await self._drop_lost_parts()
        return listing

    @staticmethod
    async def _try(work: Awaitable[None]) -> bool:
        try:
            await work
        except PileusError as problem:
            log.warning("left for the next deploy, audit or tear-down: %s", problem)
            return False
        return True

    async def _end_orphan(self, thing: ServerRecord | Resource) -> None:
        """Destroy what a process that died had asked for."""
        is_server = isinstance(thing, ServerRecord)
        log.warning("destroying %s, which a process that died had asked for", thing.name)
        ended = await self._try(
            self.destroy(thing.id, thing.intent_id, listed=True)
            if isinstance(thing, ServerRecord)
            else self._delete_resource(thing)
        )
        if ended:
            await self._journal.settle([Settled(thing.intent_id, "failed", detail="its process died")])
            await self._journal.event("destroyed", thing.id, name=thing.name, orphan=is_server)

    async def _adopt_unknown(self, listing: Listing, known: _Known) -> None:
        """Take over what carries our id and is in no state."""
        flavors: dict[str, Flavor] | None = None
        for record in listing.servers:
            if record.intent_id not in known.intents and record.id not in known.rows:
                flavors = flavors if flavors is not None else {f.id: f for f in await self._cloud.flavors()}
                row = self._journal.adopted_row(None, record, flavors.get(record.flavor_id))
                await self._journal.settle([Settled(record.intent_id, "done", record.id, server=row)])
                await self._journal.event("adopted", record.id, name=record.name)
        for resource in listing.resources:
            if resource.intent_id not in known.intents:
                row_of_it = as_row(resource, resource.intent_id, "")
                await self._journal.settle([Settled(resource.intent_id, "done", resource.id, resource=row_of_it)])

    async def _forget_gone(self, rows: Iterable[ServerRow], listing: Listing) -> None:
        """Servers that the cloud does not show any more, though it should, were destroyed behind our back."""
        listed = {record.id for record in listing.servers}
        settled_by = self._journal.now_s() - self._journal.unresolved_for_s()
        for row in rows:
            if row.status != "destroyed" and row.id not in listed and row.created < settled_by:
                await self._journal.store.write(lambda s, gone=row.id: s.mark_destroyed(gone))  # type: ignore[misc]
                await self._journal.event("vanished", row.id, name=row.name)

    async def _drop_lost_parts(self) -> None:
        """Delete what was made for single servers that do not exist."""

        def read(store: Store) -> list[ResourceRow]:
            wanted = {row.intent_id for row in store.servers()} | {intent.id for intent in store.open_intents()}
            return [
                r
                for r in store.resources()
                if r.attributes.get(FOR_SERVER, r.intent_id) not in wanted and FOR_SERVER in r.attributes
            ]

        for row in await self._journal.store.read(read):
            await self._try(self._delete_resource(as_resource(row, self._journal.deployment_id)))

    async def _delete_resource(self, resource: Resource) -> None:
        await self._cloud.delete_resource(resource)
        await self._journal.forget_resource(resource)

    # --- everything ---

    async def tear_down(self) -> None:
        """Delete everything of the deployment and prove it by a listing; the caller holds the operation lock.

        Raises:
            TearDownError: something is left; the deployment stays as it is, being torn down, and this can be repeated.
        """
        await self._journal.set_status("tearing-down")
        problems: dict[str, PileusError] = {}
        await self._wait_for_unresolved()
        await self._wait_for_the_listing()
        await self._destroy_all(await self.listing(), problems)
        await self._delete_all_resources(problems)
        left = await self.listing()
        leftovers = [*_named(left.servers, self._cloud), *_named(left.resources, self._cloud)]
        if leftovers:
            raise _tear_down_error(leftovers, problems, self._cloud.driver.name)

    async def _wait_for_the_listing(self) -> None:
        """What was made a moment ago may be missing from the listings by which all that follows is done and proved."""
        lag = self._cloud.driver.capabilities.listing_lag_s
        newest = await self._journal.store.read(lambda s: s.newest_intent())
        await self._cloud.clock.sleep(min(lag, max(0.0, newest + lag - self._journal.now_s())))

    async def _wait_for_unresolved(self) -> None:
        """Requests of processes that live or died may still make something: wait until that is decided.

        By the wall clock, as the deadlines of other processes are, but never longer than the longest of them can take.
        """
        clock = self._cloud.clock
        until = clock.monotonic() + self._journal.unresolved_for_s()
        while True:
            now = self._journal.now_s()
            intents, live = await self._journal.store.read(lambda s: (s.open_intents(), s.live_sessions()))
            if not intents:
                return
            listing = await self.listing()
            seen = {s.intent_id for s in listing.servers} | {r.intent_id for r in listing.resources}
            lag = self._cloud.driver.capabilities.listing_lag_s
            over = clock.monotonic() >= until
            decided = [
                i for i in intents if over or now >= i.deadline + lag or (i.id in seen and i.session not in live)
            ]
            await self._journal.settle([Settled(i.id, "failed", detail="torn down") for i in decided])
            if len(decided) == len(intents):
                return
            await clock.sleep(max(0.05, min(1.0, self._cloud.driver.capabilities.poll_interval_s)))

    async def _destroy_all(self, listing: Listing, problems: dict[str, PileusError]) -> None:
        rows = await self._journal.store.read(lambda s: s.servers())
        here = {record.id for record in listing.servers if self._cloud.driver.needed_here(record)}
        ids = {record.id: record.intent_id for record in listing.servers} | {row.id: row.intent_id for row in rows}

        async def destroy(server_id: str, intent_id: str) -> None:
            try:
                await self.destroy(server_id, intent_id, listed=server_id in listed)
            except PileusError as problem:
                problems[server_id] = problem

        listed = {record.id for record in listing.servers}

        await asyncio.gather(*(destroy(i, intent) for i, intent in ids.items() if i not in here))

    async def _delete_all_resources(self, problems: dict[str, PileusError]) -> None:
        """In the driver's order, again and again while something still hangs on something else.

        What the state has and the listing does not show is asked to go too; a row is struck off once that was accepted.
        """
        order = {kind: place for place, kind in enumerate(self._cloud.driver.deletion_order)}
        deployment_id = self._journal.deployment_id
        servers_left = await self._cloud.list_servers(deployment_id)
        for attempt in range(1 if servers_left else RESOURCE_ROUNDS):
            if attempt:  # ports and the like vanish a moment after what they hung on
                await self._cloud.clock.sleep(min(5.0, self._cloud.driver.capabilities.poll_interval_s * 2**attempt))
            rows = await self._journal.store.read(lambda s: s.resources())
            found = {row.id: as_resource(row, deployment_id) for row in rows}
            found |= {resource.id: resource for resource in await self._cloud.list_resources(deployment_id)}
            wanted = [resource for resource in found.values() if not self._cloud.driver.needed_here(resource)]
            if not wanted:
                break
            for resource in sorted(wanted, key=lambda r: order.get(r.kind, -1)):
                try:
                    await self._cloud.delete_resource(resource, tries=1)
                    await self._journal.forget_resource(resource)
                    problems.pop(resource.id, None)
                except PileusError as problem:
                    problems[resource.id] = problem


def _named(things: Sequence[ServerRecord | Resource], cloud: Cloud) -> list[tuple[str, str]]:
    """Each thing that should not be there, by id and in words."""
    named = []
    for thing in things:
        kind = SERVER if isinstance(thing, ServerRecord) else thing.kind
        if not cloud.driver.needed_here(thing):
            named.append((thing.id, f"{kind} {thing.id} ({thing.name})"))
    return named


def _tear_down_error(
    leftovers: Sequence[tuple[str, str]], problems: dict[str, PileusError], provider: str
) -> TearDownError:
    errors: list[PileusError] = []
    lines = []
    for thing_id, words in leftovers:
        problem = problems.get(thing_id)
        why = str(problem.args[0]) if problem else "the cloud still lists it"
        lines.append(f"{words}: {why}")
        errors.append(problem or PileusError(f"{words}: {why}", provider=provider, operation="tear_down"))
    return TearDownError(
        f"{len(leftovers)} of the deployment's things still exist",
        errors,
        leftovers=lines,
        hint="repeat the tear-down; if it does not help, delete them by hand in the cloud's dashboard",
        provider=provider,
        operation="tear_down",
    )
