"""`AsyncProvider`: one deployment on one cloud."""

from __future__ import annotations

import asyncio
import html
import logging
import os as _os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from pileus.clock import Clock, SystemClock
from pileus.core import deploying
from pileus.core.core import Core
from pileus.core.localhost import localhost_server
from pileus.core.naming import public
from pileus.core.spawning import Wish
from pileus.drivers import registry
from pileus.drivers.base import (
    SERVER,
    TAG_CREATED,
    TAG_EXPIRES,
    TAG_NAME,
    TAG_OWNER,
    Capabilities,
    CheckItem,
    Resource,
    ServerRecord,
    ServerStatus,
)
from pileus.errors import (
    ConfigError,
    NoHardwareError,
    NotFoundError,
    PileusError,
    SpawnError,
    UsageError,
)
from pileus.models import (
    AuditItem,
    DeployConfig,
    Duration,
    Flavor,
    Image,
    Quota,
    ServerUsage,
    seconds,
)
from pileus.policy import flavors as flavor_policy
from pileus.policy import images as image_policy
from pileus.policy import names, space
from pileus.server import AsyncServer
from pileus.state import AsyncStore, ServerRow, Store, key_path, state_path

log = logging.getLogger("pileus")
log.addHandler(logging.NullHandler())  # whoever wants the log says so
ServerT = TypeVar("ServerT")

OPERATION_TIMEOUT_S = 600.0
"""How long to wait for another process's deploy or tear-down of the same deployment."""


@dataclass(frozen=True)
class Resources(Generic[ServerT]):
    """What a deployment made; `ServerT` is `AsyncServer`, or `Server` in the blocking form.

    Attributes:
        resource_name: as given to the provider.
        details: for each resource, its kind and its id.
        private_key: PEM; the key to log in to servers with.
        servers: by id; those with an external address.
    """

    resource_name: str
    details: Mapping[str, str]
    private_key: str = field(repr=False)
    servers: Mapping[str, ServerT]


class AsyncProvider:
    """One deployment on one cloud, by its provider's and its resource name.

    A later process that gives the same arguments finds servers and key again. Several processes of one machine may use a deployment at
    the same time. Constructing it reads the state, if there is one, and asks nothing of the cloud; use it as an async context
    manager, whose end closes connections and destroys nothing.

    Args:
        name: the provider: `local`, or any other that is installed.
        resource_name: names all that is created; letters, digits, `_`, `-` and spaces.
        save_path: the state is kept at `<save_path>.<resource_name>`; in the user's state directory when None.
        settings: for the driver; see its documentation.
        deployment_id: which deployment is meant, where several in the cloud carry the name and there is no state.
        clock: what waiting is done by; for tests.
        busy_timeout: how long to wait for another process that writes the state.

    Raises:
        BadProviderError: no such provider is installed.
        BadResourceNameError: the name cannot be used.
        MissingEnvError: the provider needs environment variables that are not set.
        StateError: the state cannot be used; the subclass and the message tell why.
    """

    def __init__(
        self,
        name: str,
        resource_name: str,
        save_path: str | _os.PathLike[str] | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        deployment_id: str = "",
        clock: Clock | None = None,
        busy_timeout: Duration = 10.0,
    ) -> None:
        names.check_resource_name(resource_name)
        driver_class = registry.load(name)
        registry.check_env(driver_class)
        busy_timeout_s = seconds(busy_timeout, setting="busy_timeout")
        driver = driver_class(settings)
        self._name = name
        self._resource_name = resource_name
        self._chosen_id = deployment_id
        self._path = state_path(name, resource_name, save_path)
        self._rows: dict[str, ServerRow] = {}
        self._details: dict[str, str] = {}
        self._closed = False
        store = AsyncStore(
            Store.open(self._path, provider=name, resource_name=resource_name, busy_timeout_s=busy_timeout_s)
        )
        try:
            self._core = Core(driver, store, self._path, resource_name, clock or SystemClock())
            store.run_sync(self._read)
        except BaseException:
            store.close()
            raise

    def _read(self, store: Store) -> None:
        self._rows = {row.id: row for row in store.servers()}
        self._details = {row.kind: row.id for row in store.resources()}

    # --- what is known without I/O ---

    @property
    def name(self) -> str:
        """The provider's name."""
        return self._name

    @property
    def resource_name(self) -> str:
        """The deployment's resource name."""
        return self._resource_name

    @property
    def state_path(self) -> Path:
        """Where the state is."""
        return self._path

    @property
    def private_key_path(self) -> Path:
        """The private key as a file for OpenSSH; there after `deploy`."""
        return key_path(self._path)

    @property
    def deployment_id(self) -> str:
        """The id that everything of this deployment carries; empty before `deploy`."""
        return self._core.journal.deployment_id

    @property
    def deployed(self) -> bool:
        """Whether `deploy` was done, here or in another process, as last known."""
        known = self._core.journal.known
        return known is not None and known.status == "deployed"

    @property
    def private_key(self) -> str:
        """The private key, in PEM form; empty before `deploy`."""
        known = self._core.journal.known
        return known.private_key if known else ""

    @property
    def in_cloud(self) -> bool:
        """Whether this program runs on a server of that cloud."""
        return self._core.cloud.driver.in_cloud()

    @property
    def capabilities(self) -> Capabilities:
        """What the provider can do."""
        return self._core.cloud.driver.capabilities

    @property
    def head_node(self) -> AsyncServer | None:
        """The first server with an external address, or None; as last known."""
        for row in self._rows.values():
            if row.is_head_node and row.status in ("spawned", "ready"):
                return self._core.server(self, row, fresh=False)
        return None

    @property
    def resources(self) -> Resources[AsyncServer]:
        """What the deployment made, as last known."""
        servers = {
            row.id: self._core.server(self, row, fresh=False) for row in self._rows.values() if _shown(row, False)
        }
        return Resources(self._resource_name, dict(self._details), self.private_key, servers)

    def is_no_hardware(self, error: BaseException) -> bool:
        """Whether a spawn failed for want of hardware; groups are looked into."""
        if isinstance(error, BaseExceptionGroup):
            return any(self.is_no_hardware(inner) for inner in error.exceptions)
        return isinstance(error, NoHardwareError)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name} {self._resource_name!r} {self.deployment_id or 'not deployed'}>"

    def _repr_html_(self) -> str:
        servers = [self._core.server(self, row, fresh=False) for row in self._rows.values()]
        rows = "".join(
            f"<tr><td>{html.escape(server.name)}</td><td>{html.escape(server.flavor.name)}</td>"
            f"<td>{html.escape(server.ip)}:{server.ssh_port}</td><td>{html.escape(server._row.status)}</td></tr>"
            for server in servers
            if not server.destroyed
        )
        title = f"{html.escape(self._name)}: {html.escape(self._resource_name)}"
        head = "<tr><th>server</th><th>flavor</th><th>address</th><th>state</th></tr>"
        return f"<table><caption>{title}</caption>{head}{rows}</table>"

    # --- life ---

    async def __aenter__(self) -> Self:
        """The provider itself."""
        self._open()
        if any(row.ttd_s for row in self._rows.values()):
            self._core.idle.look()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; see `aclose`."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close connections and files. Destroys nothing; room that was allocated through this provider is free again."""
        if not self._closed:
            self._closed = True
            await self._core.aclose()

    def _open(self) -> Core:
        if self._closed:
            raise UsageError("the provider is closed", hint="make a new one with the same arguments")
        return self._core

    # --- the deployment ---

    @public
    async def deploy(self, config: DeployConfig | None = None, **fields: Any) -> None:
        """Make what servers need: network, key, firewall, whatever the provider plans.

        May be repeated; what exists is kept, what is missing is made, what a process that died had asked for is settled.

        Args:
            config: what to make; or give its fields as keywords.

        Raises:
            ConfigError: the configuration is wrong; nothing was created.
            StateError: the deployment is being torn down, or several in the cloud carry this name.
            ProviderError: the cloud refuses; what was made before is on record and found again.
        """
        core = self._open()
        if config is not None and fields:
            raise ConfigError("give a DeployConfig or its fields, not both", setting="config")
        try:
            wanted = config or DeployConfig(**fields)
        except TypeError as problem:
            raise ConfigError(f"deploy: {problem}", setting="config") from None
        async with core.journal.operation("deploy or tear-down", OPERATION_TIMEOUT_S):
            await deploying.deploy(core.cloud, core.journal, core.clearing, wanted, self._chosen_id)
        await self._refresh()
        core.idle.look()

    @public
    async def tear_down(self) -> None:
        """Delete everything of this deployment, and prove by a listing that nothing is left.

        Nothing to tear down is a success. May be repeated. In the cloud, what the server that we run on needs stays, and the key with it.

        Raises:
            TearDownError: something is left; it is named.
            AuthenticationError: the credentials are wrong, so that nothing can be said.
            StateError: several deployments carry the name, and there is no state that tells which is meant.
        """
        core = self._open()
        async with core.journal.operation("deploy or tear-down", OPERATION_TIMEOUT_S):
            if not await deploying.begin_tear_down(core.cloud, core.journal, self._chosen_id):
                return
            rows = await core.journal.store.read(lambda s: s.servers())
            for row in rows:
                core.forget_server(row.id)
            await core.clearing.tear_down()
            if not core.cloud.driver.in_cloud():
                await deploying.forget(core.journal)
        await self._refresh()

    @public
    async def audit(self, *, every_deployment: bool = False) -> list[AuditItem]:
        """List what the cloud shows that carries our tags, after settling what a crash left of this deployment.

        Args:
            every_deployment: all deployments of the account, not only those of this resource name.
        """
        core = self._open()
        if self.deployed:
            await core.clearing.settle()
        things: list[ServerRecord | Resource] = [
            *await core.cloud.list_servers(None),
            *await core.cloud.list_resources(None),
        ]
        await self._refresh()
        known = set(self._rows) | set(self._details.values())
        items = [_audit_item(thing, self.deployment_id, known) for thing in things]
        return [item for item in items if every_deployment or item.ours or item.resource_name == self._resource_name]

    @public
    async def check(self) -> list[CheckItem]:
        """What a user should know before deploying: credentials, images, quota, whatever the driver looks at."""
        core = self._open()
        items = []
        for name, ask in (("images", self.images), ("flavors", self.flavors), ("quota", self.quota)):
            try:
                found = await ask()
                detail = f"{len(found)} found" if isinstance(found, list) else "known"
                items.append(CheckItem(name, bool(found), detail, "" if found else f"the provider offers no {name}"))
            except PileusError as problem:
                items.append(CheckItem(name, False, str(problem.args[0]), problem.hint))
        return [*await core.cloud.check(), *items]

    @public
    async def quota(self) -> Quota:
        """The account's limits and what is used of them, now."""
        return await self._open().cloud.quota()

    # --- flavors and images ---

    @public
    async def flavors(self) -> list[Flavor]:
        """All flavors, at most ten minutes old."""
        return await self._open().cloud.flavors()

    @public
    async def images(self) -> list[Image]:
        """All images that can be booted, the default one first; at most ten minutes old."""
        return await self._open().cloud.images()

    @public
    async def cheapest_server_flavor(self, cores: float, ram_mb: int, regex: str = "") -> Flavor:
        """The cheapest flavor with at least these cores and MB of RAM whose name the regular expression is found in.

        Disk is not looked at: `spawn` makes a larger one when asked to.

        Raises:
            NoFlavorError: none is large enough.
            BadRegexError: the expression does not compile.
        """
        return flavor_policy.cheapest(await self.flavors(), cores, ram_mb, regex)

    @public
    async def cheapest_server_flavors(
        self, cores: float, ram_mb: int, regex: str, sets: Sequence[Sequence[str]]
    ) -> list[Flavor]:
        """The cheapest flavor of each set, in the order that is best overall.

        Args:
            sets: names of flavors, taken as regular expressions, by set.
        """
        return flavor_policy.cheapest_of_sets(await self.flavors(), cores, ram_mb, regex, sets)

    @public
    async def server_flavor(self, id_or_name: str) -> Flavor:
        """The flavor with exactly this id or name.

        Raises:
            BadFlavorError: there is none.
        """
        try:
            return flavor_policy.find(await self.flavors(), id_or_name)
        except PileusError:
            return flavor_policy.find(await self._open().cloud.flavors(fresh=True), id_or_name)

    # --- servers ---

    @public
    async def spawn(
        self,
        os: str,
        os_user: str,
        flavor: Flavor | str,
        disk_gb: int = 0,
        ttd: Duration = 0,
        external_ip: bool = False,
        on_using_quota: Callable[[], None] | None = None,
        *,
        timeout: Duration | None = None,
        max_lifetime: Duration = 0,
    ) -> AsyncServer:
        """Make a server, and return it once it runs; call `wait_until_ready` on it before using it.

        When this fails or is cancelled, what it made is destroyed first.

        Args:
            os: an image's id or name, or the beginning of one; the provider's default image when empty.
            os_user: who logs in; that image's own user when empty.
            flavor: a flavor, or its id or name.
            disk_gb: GB of disk that it has at least; a volume is made where the flavor's own is smaller.
            ttd: how long it may be idle before it is destroyed, 0 for ever.
            external_ip: whether it gets an address that is reached from outside.
            on_using_quota: called as soon as the request was accepted, and so uses quota.
            timeout: how long it may take to run; learnt from earlier ones when None.
            max_lifetime: after which a reaper may delete it even while it runs; 0 for never.

        Raises:
            StateError: nothing is deployed.
            ConfigError, NoImageError, BadFlavorError, UnsupportedError: what was asked for cannot be; nothing was created.
            QuotaError: it does not fit into the quota; nothing was created.
            NoHardwareError: the cloud has no room for that flavor now.
            ServerFailedError, ServerGoneError, ServerTimeoutError: it did not come to run, and was destroyed.
        """
        core = self._open()
        wish = await self._wish(os, os_user, flavor, disk_gb, ttd, external_ip, timeout, max_lifetime)
        return self._spawned(await core.spawner.spawn(wish, on_using_quota))

    def _spawned(self, row: ServerRow) -> AsyncServer:
        self._rows[row.id] = row
        if row.ttd_s:
            self._core.idle.look()
        return self._core.server(self, row)

    async def spawn_many(
        self,
        n: int,
        os: str,
        os_user: str,
        flavor: Flavor | str,
        disk_gb: int = 0,
        ttd: Duration = 0,
        external_ip: bool = False,
        on_using_quota: Callable[[], None] | None = None,
        *,
        timeout: Duration | None = None,
        max_lifetime: Duration = 0,
    ) -> AsyncIterator[AsyncServer]:
        """Make `n` servers, and hand over each as soon as `spawn` would have returned it.

        Leaving the loop early destroys what was not handed over.

        Raises:
            SpawnError: at the end, when some failed; a group of their errors, with the servers that did arrive.
        """
        core = self._open()
        if not isinstance(n, int) or isinstance(n, bool) or n < 0:
            raise ConfigError(f"spawn_many: n must be a whole number, 0 or more, not {n!r}", setting="n")
        wish = await self._wish(os, os_user, flavor, disk_gb, ttd, external_ip, timeout, max_lifetime)
        tasks = [asyncio.create_task(core.spawner.spawn(wish, on_using_quota)) for _ in range(n)]
        arrived: list[AsyncServer] = []
        failed: list[PileusError] = []
        done: asyncio.Queue[asyncio.Task[ServerRow]] = asyncio.Queue()
        for task in tasks:
            task.add_done_callback(done.put_nowait)
        handed: set[asyncio.Task[ServerRow]] = set()
        try:
            for _ in tasks:
                task = await done.get()
                try:
                    server = self._spawned(task.result())
                except PileusError as problem:
                    failed.append(problem.within(self._name, "spawn_many"))
                    continue
                arrived.append(server)
                handed.add(task)
                yield server
        finally:
            rest = [task for task in tasks if task not in handed]
            if rest:
                await asyncio.shield(core.start(self._give_up(rest)))
        if failed:
            raise SpawnError(
                f"{len(failed)} of {n} servers did not arrive",
                failed,
                servers=arrived,
                provider=self._name,
                operation="spawn_many",
            )

    async def _give_up(self, tasks: Sequence[asyncio.Task[ServerRow]]) -> None:
        """End spawns whose servers nobody took, and destroy those that had arrived already."""
        for task in tasks:
            task.cancel()

        async def end(task: asyncio.Task[ServerRow]) -> None:
            try:
                row = await task
            except (asyncio.CancelledError, Exception):  # noqa: BLE001  (it failed: nothing is left of it)
                return
            await self.destroy_server(row.id)

        await asyncio.gather(*(end(task) for task in tasks), return_exceptions=True)

    async def _wish(
        self,
        os: str,
        os_user: str,
        flavor: Flavor | str,
        disk_gb: int,
        ttd: Duration,
        external_ip: bool,
        timeout: Duration | None,
        max_lifetime: Duration,
    ) -> Wish:
        """Check everything about a spawn before anything is created."""
        core = self._open()
        ttd_s = seconds(ttd, setting="ttd")
        timeout_s = None if timeout is None else seconds(timeout, setting="timeout")
        max_lifetime_s = seconds(max_lifetime, setting="max_lifetime")
        space.check_disk(disk_gb)
        _ = core.journal.deployment
        if not isinstance(flavor, Flavor | str):
            raise ConfigError(f"flavor must be a Flavor, or its id or name, not {flavor!r}", setting="flavor")
        chosen = flavor if isinstance(flavor, Flavor) else await self.server_flavor(flavor)
        try:
            image = image_policy.find(await self.images(), os)
        except PileusError:
            image = image_policy.find(await core.cloud.images(fresh=True), os)
        user_name = os_user or image.default_user
        if not user_name:
            raise ConfigError(
                f"who logs in on image {image.name!r} is not known", setting="os_user", hint="give os_user"
            )
        capabilities = self.capabilities
        disk = image_policy.root_disk(chosen, image, disk_gb, volumes=capabilities.volumes)
        return Wish(
            os=os,
            image=image,
            user_name=user_name,
            flavor=chosen,
            disk_gb=disk,
            ttd_s=ttd_s,
            external_ip=external_ip,
            max_lifetime_s=max_lifetime_s,
            timeout_s=timeout_s,
        )

    @public
    async def find_or_spawn(
        self,
        cores: float,
        ram_mb: int,
        disk_gb: int = 0,
        *,
        os: str = "",
        os_user: str = "",
        flavor_regex: str = "",
        ttd: Duration = 0,
        external_ip: bool = False,
        timeout: Duration | None = None,
        new: bool = False,
    ) -> AsyncServer:
        """A ready server on which this room was just allocated: one of the deployment's that has it free, or a new one.

        When making a new one ready fails or is cancelled, it is destroyed.

        Args:
            flavor_regex: the flavor's name must match it.
            new: spawn one even if there is room elsewhere.
        """
        matching = flavor_policy.compile_regex(flavor_regex)
        flavor = await self.cheapest_server_flavor(cores, ram_mb, flavor_regex)
        if not new:
            for server in (await self.servers(all=True)).values():
                if (
                    server._row.status == "ready"
                    and not server.is_bad
                    and server.os == os
                    and (not os_user or server.user_name == os_user)
                    and matching.search(server.flavor.name)
                    and await server.allocate(cores, ram_mb, disk_gb)
                ):
                    return server
        server = await self.spawn(os, os_user, flavor, disk_gb, ttd, external_ip, timeout=timeout)
        try:
            # Before it is ready, and so before any other process takes it for one with room.
            if not await server.allocate(cores, ram_mb, disk_gb):
                raise UsageError(f"server {server.name} was taken before it could be used")
            await server.wait_until_ready(timeout=timeout)
        except BaseException:
            await asyncio.shield(self._core.start(self.destroy_server(server.id)))
            raise
        return server

    @public
    async def servers(self, all: bool = False) -> dict[str, AsyncServer]:
        """The deployment's servers by id, those of other processes too: those with an external address, or all."""
        await self._refresh()
        not_working = self._core.not_working
        return {
            row.id: self._core.server(self, row)
            for row in self._rows.values()
            if _shown(row, all) and (all or row.id not in not_working)
        }

    @public
    async def server_by_name(self, name: str) -> AsyncServer | None:
        """The server with this host name, or None."""
        return next((server for server in (await self.servers(all=True)).values() if server.name == name), None)

    @public
    async def usage(self) -> dict[str, ServerUsage]:
        """How much of each server is taken, by id, over all processes."""
        core = self._open()
        rows, usages = await core.journal.store.read(lambda s: (s.servers(), s.usages()))
        now = core.clock.monotonic()
        found = {}
        for row in rows:
            usage = usages.get(row.id)
            busy = usage is not None and bool(usage.allocations or usage.uses)
            idle = None if busy or row.idle_since is None else max(0.0, now - row.idle_since)
            if usage is None:
                found[row.id] = ServerUsage(idle_s=idle)
            else:
                found[row.id] = ServerUsage(usage.nano_cores / 10**9, usage.ram_mb, usage.disk_gb, busy, idle)
        return found

    @public
    async def check_server(self, id: str) -> bool:
        """Ask the cloud whether the server works. One that does not is left out of `servers()`; one that is gone is forgotten."""
        core = self._open()
        records = await core.cloud.list_servers(self.deployment_id)
        record = next((record for record in records if record.id == id), None)
        if record is not None and record.status is ServerStatus.ACTIVE:
            core.not_working.discard(id)
            return True
        core.not_working.add(id)
        row = await core.journal.store.read(lambda s: s.server(id))
        if record is None and row is not None and row.created + core.journal.unresolved_for_s() < core.journal.now_s():
            await core.journal.store.write(lambda s: s.mark_destroyed(id))
            core.forget_server(id)
        return False

    @public
    async def destroy_server(self, id: str) -> None:
        """Delete a server of this deployment and all that was made for it, and wait until it is gone. May be repeated.

        Raises:
            NotFoundError: this deployment has no such server, neither in its state nor in the cloud.
        """
        core = self._open()
        if await core.journal.store.read(lambda s: s.server(id)) is None:
            records = await core.cloud.list_servers(self.deployment_id)
            if not any(record.id == id for record in records):
                raise NotFoundError(
                    f"this deployment has no server {id!r}", provider=self._name, operation="destroy_server"
                )
        await core.destroy(id)
        self._rows.pop(id, None)

    @public
    async def localhost_server(
        self, os: str, post_creation_script: bytes = b"", config_files: str = "", cidr: str | None = None
    ) -> AsyncServer:
        """The machine that this program runs on, as a server: commands run here, without SSH. The cloud is not asked.

        Args:
            cidr: its address is taken from this network.

        Raises:
            BadCIDRError: this machine has no address there.
        """
        self._open()
        return localhost_server(self, os, post_creation_script, config_files, cidr)

    # --- how ---

    async def _refresh(self) -> None:
        journal = self._open().journal
        await journal.refresh()
        await journal.store.read(self._read)

    @property
    def _provider_name(self) -> str:
        return self._name


def _shown(row: ServerRow, all: bool) -> bool:
    return row.status in ("spawned", "ready") and (all or row.external)


def _audit_item(thing: ServerRecord | Resource, deployment_id: str, known: set[str]) -> AuditItem:
    tags = thing.tags
    return AuditItem(
        kind=SERVER if isinstance(thing, ServerRecord) else thing.kind,
        id=thing.id,
        name=thing.name,
        deployment_id=thing.deployment_id,
        resource_name=tags.get(TAG_NAME, ""),
        owner=tags.get(TAG_OWNER, ""),
        status=thing.status.value if isinstance(thing, ServerRecord) else "",
        created=(thing.created if isinstance(thing, ServerRecord) else None) or _moment(tags.get(TAG_CREATED, "")),
        expires=_moment(tags.get(TAG_EXPIRES, "")),
        known=thing.id in known,
        ours=bool(deployment_id) and thing.deployment_id == deployment_id,
    )


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
