"""The deployment's state, awaited, in the core's own words: tags, intents and outcomes, rows made from records."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pileus.core.cloud import Cloud
from pileus.drivers.base import (
    TAG_CREATED,
    TAG_DEPLOYMENT,
    TAG_INTENT,
    TAG_NAME,
    TAG_OWNER,
    TAG_TTD,
    TAG_USER,
    Resource,
    ResourceRequest,
    ServerRecord,
    ServerStatus,
)
from pileus.errors import PileusError, StateError
from pileus.models import DeployConfig, Flavor, Quota
from pileus.policy import names
from pileus.policy import quota as quota_policy
from pileus.state import AsyncStore, Deployment, Event, Intent, ResourceRow, ServerRow, Settled, Store

if TYPE_CHECKING:
    from pileus.core.spawning import Ticket

T = TypeVar("T")
log = logging.getLogger("pileus.journal")

FOR_SERVER = "for-server"
"""Attribute of a resource that was made for one server: that server's intent."""


class Journal:
    """One deployment's state, as the core uses it.

    Args:
        owner: who deploys, as `user@host`.
        boot_id: this boot of this machine; idle clocks of another boot are worth nothing.
    """

    def __init__(
        self, store: AsyncStore, path: Path, cloud: Cloud, resource_name: str, owner: str, boot_id: str
    ) -> None:
        self.store = store
        self.path = path
        self._cloud = cloud
        self.resource_name = resource_name
        self.owner = owner
        self.boot_id = boot_id
        self.known: Deployment | None = store.run_sync(lambda s: s.deployment())
        self._session = ""

    @property
    def deployment(self) -> Deployment:
        """The deployment.

        Raises:
            StateError: there is none, or it is torn down.
        """
        if self.known is None or self.known.status == "gone":
            raise StateError(
                f"nothing is deployed under the name {self.resource_name!r}",
                path=str(self.path),
                hint="call deploy() first (or run `pileus deploy`)",
            )
        return self.known

    @property
    def deployment_id(self) -> str:
        """The deployment's id, or an empty string while there is none."""
        return self.known.id if self.known and self.known.status != "gone" else ""

    @property
    def config(self) -> DeployConfig:
        """What it was deployed with."""
        return DeployConfig(**self.known.config) if self.known else DeployConfig()

    async def refresh(self) -> Deployment | None:
        """Read the deployment anew: another process may have changed it."""
        self.known = await self.store.read(lambda s: s.deployment())
        return self.known

    async def save(self, deployment: Deployment) -> None:
        """Put the deployment on disk."""
        await self.store.write(lambda s: s.save_deployment(deployment))
        self.known = deployment

    async def set_status(self, status: str) -> None:
        """Go to the next stage of the deployment's life."""
        await self.store.write(lambda s: s.set_status(status))
        await self.refresh()

    async def session(self) -> str:
        """This process's session, begun when it is first needed."""
        if not self._session:
            self._session = await self.store.write(lambda s: s.begin_session())
        return self._session

    def tags(self, intent_id: str) -> dict[str, str]:
        """What everything that we make carries."""
        return {
            TAG_DEPLOYMENT: self.deployment.id,
            TAG_INTENT: intent_id,
            TAG_NAME: self.resource_name,
            TAG_OWNER: self.owner,
        }

    def now_s(self) -> float:
        """The wall clock, in epoch seconds."""
        return self._cloud.clock.now().timestamp()

    def unresolved_for_s(self) -> float:
        """Seconds for which a request without an answer may still turn out to have worked."""
        return self._cloud.deadline_s() + self._cloud.driver.capabilities.listing_lag_s

    # --- intents and outcomes ---

    def new_intent(self, intent_id: str, kind: str, name: str, payload: Mapping[str, Any], deadline_s: float) -> Intent:
        """An intent of this session that begins now."""
        now = self.now_s()
        return Intent(
            id=intent_id,
            kind=kind,
            name=name,
            request_id=intent_id,
            session=self._session,
            created=now,
            deadline=now + deadline_s,
            payload=dict(payload),
        )

    async def record_server_intents(self, intents: Sequence[Intent], quota: Quota, wanted: quota_policy.Need) -> None:
        """Write the intents down in one commit, unless quota or the deployment's own limit is against it.

        Raises:
            QuotaError: nothing was recorded.
            StateError: the deployment is being torn down.
        """
        session = await self.session()
        intents = [replace(intent, session=session) for intent in intents]
        limit = self.config.max_servers

        def guard(store: Store) -> None:
            count, cores, ram_mb, volume_gb = store.pending_servers()
            quota_policy.check(quota, quota_policy.Need(cores, ram_mb, count, volume_gb), wanted)
            if limit:
                quota_policy.check_max_servers(limit, store.count_servers() + count, wanted.instances)

        await self._record(intents, guard)

    async def _record(self, intents: Sequence[Intent], guard: Callable[[Store], None] | None = None) -> None:
        deployment_id = self.deployment.id
        try:
            await self.store.write(lambda s: s.record_intents(intents, guard=guard, deployment_id=deployment_id))
        except StateError:
            await self.refresh()
            raise

    async def open_intents(self, kind: str | None = None) -> list[Intent]:
        """Intents without an outcome."""
        return await self.store.read(lambda s: s.open_intents(kind))

    async def settle(self, outcomes: Sequence[Settled]) -> None:
        """Write outcomes down in one commit."""
        await self.store.write(lambda s: s.settle(outcomes))

    async def accept(self, settled: Sequence[Settled]) -> dict[str, ServerRow]:
        """The same for servers that begin to boot: while they do, this session uses them, so that they are not taken for idle.

        Returns:
            Their rows by id, as they were recorded (the first external one became the head node).
        """
        session = await self.session()

        def write(store: Store) -> dict[str, ServerRow]:
            store.settle(settled)
            rows = {}
            for outcome in settled:
                row = store.server(outcome.server.id) if outcome.server is not None else None
                if row is not None:
                    rows[row.id] = row
                if outcome.server is not None and outcome.server.ttd_s and outcome.server.idle_since is None:
                    store.begin_use(outcome.server.id, session)
            return rows

        return await self.store.write(write)

    async def event(self, kind: str, subject: str, **detail: Any) -> None:
        """Remember that something happened."""
        happened = Event(time=self.now_s(), kind=kind, subject=subject, detail=detail)
        await self.store.write(lambda s: s.add_events([happened]))

    # --- resources ---

    async def resources(self) -> dict[str, Resource]:
        """The deployment's own resources by kind, without those made for single servers."""
        rows = await self.store.read(lambda s: s.resources())
        return {row.kind: as_resource(row, self.deployment.id) for row in rows if FOR_SERVER not in row.attributes}

    async def parts_of(self, intent_id: str) -> list[Resource]:
        """What was made for that one server."""
        rows = await self.store.read(lambda s: s.resources())
        return [as_resource(row, self.deployment_id) for row in rows if row.attributes.get(FOR_SERVER) == intent_id]

    async def make_resource(
        self, kind: str, name: str, spec: Mapping[str, Any], made: Mapping[str, Resource], *, server: str = ""
    ) -> Resource:
        """Write the intent down, make the resource, write the outcome down.

        When the reply is lost, the listing is asked until it shows the resource or cannot show it any more.
        """
        session = await self.session()
        intent_id = names.intent_id()
        payload = {"spec": dict(spec), **({FOR_SERVER: server} if server else {})}
        intent = replace(self.new_intent(intent_id, kind, name, payload, self._cloud.deadline_s()), session=session)
        await self._record([intent])
        tags = {**self.tags(intent_id), TAG_CREATED: self._cloud.clock.now().isoformat(timespec="seconds")}
        request = ResourceRequest(intent_id=intent_id, kind=kind, name=name, tags=tags, spec=spec)
        try:
            resource = await self._cloud.create_resource(request, made)
        except PileusError as problem:
            found = await self._find(intent_id) if getattr(problem, "outcome_unknown", False) else None
            if found is None:
                await self.settle([Settled(intent_id, "failed", detail=str(problem))])
                raise
            resource = found
        row = as_row(resource, intent_id, server)
        await self.settle([Settled(intent_id, "done", resource.id, resource=row)])
        return resource

    async def _find(self, intent_id: str) -> Resource | None:
        clock = self._cloud.clock
        until = clock.monotonic() + self.unresolved_for_s()
        while True:
            for resource in await self._cloud.list_resources(self.deployment.id):
                if resource.intent_id == intent_id:
                    return resource
            if clock.monotonic() >= until:
                return None
            await clock.sleep(self._cloud.driver.capabilities.poll_interval_s)

    async def forget_resource(self, resource: Resource) -> None:
        """It is gone."""
        await self.store.write(lambda s: s.forget_resource(resource.kind, resource.id))

    # --- servers ---

    @staticmethod
    def flavor_columns(flavor: Flavor) -> dict[str, Any]:
        """A flavor as the state keeps it."""
        return asdict(flavor)

    def server_row(self, ticket: Ticket, record: ServerRecord) -> ServerRow:
        """The row of a server that was just accepted."""
        wish = ticket.wish
        return ServerRow(
            id=record.id,
            intent_id=ticket.intent_id,
            name=ticket.name,
            os=wish.os,
            image_id=wish.image.id,
            user_name=wish.user_name,
            flavor=asdict(wish.flavor),
            disk_gb=wish.disk_gb,
            ttd_s=wish.ttd_s,
            external=wish.external_ip,
            is_head_node=False,
            ip=record.address,
            ssh_port=record.port,
            admin_pass=record.admin_pass,
            host_keys=(ticket.host_key_public,),
            boot_key=True,
            script=b"",
            config_files="",
            created=self.now_s(),
            status="spawned",
            bad=False,
            permanent_problem="",
            idle_since=self._cloud.clock.monotonic() if usable(record) else None,
            boot_id=self.boot_id,
            shared_disk=False,
            max_lifetime_s=wish.max_lifetime_s,
        )

    def adopted_row(self, intent: Intent | None, record: ServerRecord, flavor: Flavor | None) -> ServerRow:
        """The row of a server that is known from the cloud's listing, and from our intent where that is left.

        Without the intent its host key is not known: it can be listed and destroyed, and not be logged in to.
        """
        payload = intent.payload if intent else {}
        columns = payload.get("flavor") or asdict(flavor or Flavor(record.flavor_id, record.flavor_id, 1, 0))
        return ServerRow(
            id=record.id,
            intent_id=record.intent_id,
            name=record.name,
            os=payload.get("os", ""),
            image_id=payload.get("image_id", record.image_id),
            user_name=payload.get("user_name", record.tags.get(TAG_USER, "")),
            flavor=columns,
            disk_gb=payload.get("disk_gb", columns.get("disk", 0)),
            ttd_s=float(payload.get("ttd_s", record.tags.get(TAG_TTD, 0) or 0)),
            external=bool(payload.get("external", record.external)),
            is_head_node=False,
            ip=record.address,
            ssh_port=record.port,
            admin_pass="",
            host_keys=tuple(payload.get("host_keys", ())),
            boot_key=bool(payload.get("host_keys")),
            script=b"",
            config_files="",
            created=record.created.timestamp() if record.created else self.now_s(),
            status="spawned",
            bad=False,
            permanent_problem="",
            idle_since=self._cloud.clock.monotonic(),
            boot_id=self.boot_id,
            shared_disk=False,
        )

    async def active(self, row: ServerRow, record: ServerRecord) -> ServerRow:
        """The server runs at this address; its idle clock starts if it has a `ttd`."""
        now = self._cloud.clock.monotonic()
        changed: dict[str, Any] = {
            "ip": record.address,
            "ssh_port": record.port,
            "admin_pass": record.admin_pass or row.admin_pass,
        }
        happened = Event(time=self.now_s(), kind="active", subject=row.id, detail={"name": row.name})

        session = await self.session()

        def write(store: Store) -> ServerRow:
            if row.ttd_s:
                store.end_use(row.id, session, now)
            store.update_server(row.id, **changed)
            store.add_events([happened])
            current = store.server(row.id)
            return current if current is not None else replace(row, **changed)

        return await self.store.write(write)

    async def change(self, server_id: str, **columns: Any) -> None:
        """Change some columns of a server's row."""
        await self.store.write(lambda s: s.update_server(server_id, **columns))

    @contextlib.asynccontextmanager
    async def operation(self, name: str, timeout_s: float) -> AsyncIterator[None]:
        """Hold the deployment for one operation that no other process may do at the same time.

        Raises:
            StateLockedError: another process, which is named, holds it for longer than `timeout_s`.
        """
        async with self.store.operation_lock(name, timeout_s):
            yield

    async def close(self) -> None:
        """End the session, which frees what it holds, and close the file."""
        if self._session:
            session, self._session = self._session, ""
            now = self._cloud.clock.monotonic()
            await self.store.read(lambda s: s.end_session(session, now))
        await self.store.aclose()


def usable(record: ServerRecord) -> bool:
    """Whether the cloud says that it runs, and where."""
    return record.status is ServerStatus.ACTIVE and bool(record.address)


def as_resource(row: ResourceRow, deployment_id: str) -> Resource:
    """A resource of the state, as drivers take it."""
    attributes = {key: value for key, value in row.attributes.items() if key != FOR_SERVER}
    return Resource(row.kind, row.id, row.name, {TAG_DEPLOYMENT: deployment_id, TAG_INTENT: row.intent_id}, attributes)


def as_row(resource: Resource, intent_id: str, server: str) -> ResourceRow:
    """A driver's resource, as the state keeps it."""
    attributes = {**resource.attributes, **({FOR_SERVER: server} if server else {})}
    return ResourceRow(resource.kind, resource.id, resource.name, intent_id, attributes)
