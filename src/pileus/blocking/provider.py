"""`Provider`: one deployment on one cloud, for code that blocks."""

from __future__ import annotations

import os as _os
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from pileus.blocking.portal import Inbox, Portal, portal
from pileus.blocking.server import Server
from pileus.clock import Clock
from pileus.errors import SpawnError, UsageError
from pileus.models import AuditItem, DeployConfig, Duration, Flavor, Image, Quota, ServerUsage
from pileus.provider import AsyncProvider, Resources

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from pileus.drivers.base import Capabilities, CheckItem
    from pileus.server import AsyncServer

T = TypeVar("T")


class Provider:
    """One deployment on one cloud: `AsyncProvider` for code that blocks.

    Every method does what the one of that name of `AsyncProvider` does, with the same arguments, results and errors, and returns when it
    is done. Callbacks run in the calling thread. Ctrl-C stops the work, sees its clean-up through (a minute at most; a second
    Ctrl-C ends that), and is then raised. Any thread may call, and several at once.

    As a context manager, and by `close()`, it closes connections and destroys nothing. A program that ends without does so by itself,
    and waits for nothing that hangs.

    Args:
        name: the provider: `local`, or any other whose driver is installed.
        resource_name: the deployment's name: letters, digits, `_`, `-` and spaces.
        save_path: the state is kept in `<save_path>.<resource_name>`; None for a file in the user's state directory.
        settings: the driver's own settings, before those of the environment.
        deployment_id: adopts that deployment when there is no state.
        clock: what to wait by; tests bring their own.
        busy_timeout: how long to wait for a state file that another process is writing.

    Raises:
        ConfigError: an argument or the environment is wrong; nothing was made.
        StateError: the state file cannot be used.
        UsageError: from every method, when its thread runs an event loop, after a fork, or when the provider is closed.
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
        self._provider = AsyncProvider(
            name,
            resource_name,
            save_path,
            settings=settings,
            deployment_id=deployment_id,
            clock=clock,
            busy_timeout=busy_timeout,
        )
        self._portal = portal()
        self._closed = False
        self._lock = threading.Lock()
        self._servers: weakref.WeakValueDictionary[int, Server] = weakref.WeakValueDictionary()
        self._portal.at_exit(id(self._provider), self._provider.aclose)
        self._finalizer = weakref.finalize(self, _let_go, self._portal, self._provider)
        self._finalizer.atexit = False  # the portal sees to it, and waits for its end

    def _run(
        self,
        operation: str,
        function: Callable[[], Awaitable[T]],
        inbox: Inbox | None = None,
        discard: Callable[[T], Awaitable[object]] | None = None,
    ) -> T:
        self._portal.check(operation)
        if self._closed:
            raise UsageError(
                f"{operation}: this Provider is closed",
                hint="make a new one with the same arguments; it finds the deployment again",
                provider=self.name,
                operation=operation,
            )
        return self._portal.run(function, operation, inbox=inbox, discard=discard)

    def _wrap(self, server: AsyncServer) -> Server:
        """The one `Server` of this server."""
        with self._lock:
            # A Server keeps its AsyncServer alive: as long as it is in the map, no other object has that id().
            wrapped = self._servers.get(id(server))
            if wrapped is None:
                wrapped = self._servers[id(server)] = Server(self, server)
            return wrapped

    def __enter__(self) -> Self:
        """The provider itself."""
        self._run("Provider.__enter__", self._provider.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; see `close`."""
        self.close()

    def close(self) -> None:
        """Close connections; destroys nothing. May be repeated. In a forked child nothing is open, and nothing is done."""
        if self._closed or not self._portal.alive:
            return
        self._portal.check("Provider.close")
        self._closed = True
        self._finalizer.detach()
        try:
            self._portal.run(self._provider.aclose, "Provider.close")
        finally:
            self._portal.at_exit(id(self._provider), None)

    # --- what it is ---

    @property
    def name(self) -> str:
        """The driver's name."""
        return self._provider.name

    @property
    def resource_name(self) -> str:
        """The deployment's name."""
        return self._provider.resource_name

    @property
    def state_path(self) -> Path:
        """The file in which the deployment's state is kept."""
        return self._provider.state_path

    @property
    def deployment_id(self) -> str:
        """What every resource of the deployment carries; an empty string before `deploy`."""
        return self._provider.deployment_id

    @property
    def deployed(self) -> bool:
        """Whether there is a deployment, as far as the state knows."""
        return self._provider.deployed

    @property
    def capabilities(self) -> Capabilities:
        """What the cloud can do."""
        return self._provider.capabilities

    @property
    def private_key(self) -> str:
        """The deployment's private key, in OpenSSH's format; an empty string before `deploy`."""
        return self._provider.private_key

    @property
    def private_key_path(self) -> Path:
        """A file that holds the private key, for OpenSSH; it exists after `deploy`."""
        return self._provider.private_key_path

    @property
    def in_cloud(self) -> bool:
        """Whether this program runs on a server of that cloud."""
        return self._provider.in_cloud

    @property
    def head_node(self) -> Server | None:
        """The deployment's first server with an external address, or None."""
        server = self._provider.head_node
        return None if server is None else self._wrap(server)

    @property
    def resources(self) -> Resources[Server]:
        """What was made: name, details, private key, servers by id. A copy; changing it changes nothing."""
        made = self._provider.resources
        servers = {server_id: self._wrap(server) for server_id, server in made.servers.items()}
        return Resources(made.resource_name, made.details, made.private_key, servers)

    def __repr__(self) -> str:
        return repr(self._provider).replace("AsyncProvider", "Provider", 1)

    def _repr_html_(self) -> str:
        return self._provider._repr_html_()

    # --- the deployment ---

    def deploy(self, config: DeployConfig | None = None, **fields: Any) -> None:
        """Make what servers need (network, key, firewall), or find it again; settles what a crash left. May be repeated."""
        return self._run("Provider.deploy", lambda: self._provider.deploy(config, **fields))

    def check(self) -> list[CheckItem]:
        """Look at credentials, reach and rights before the first deploy; makes nothing."""
        return self._run("Provider.check", self._provider.check)

    def quota(self) -> Quota:
        """What the account may use, and uses."""
        return self._run("Provider.quota", self._provider.quota)

    def flavors(self) -> list[Flavor]:
        """All flavors that the account may use."""
        return self._run("Provider.flavors", self._provider.flavors)

    def images(self) -> list[Image]:
        """All images that can be booted, the default one first."""
        return self._run("Provider.images", self._provider.images)

    def cheapest_server_flavor(self, cores: float, ram_mb: int, regex: str = "") -> Flavor:
        """The cheapest flavor with at least that much, whose name matches `regex`.

        Raises:
            NoFlavorError: none is large enough, or none of those matches.
            BadRegexError: `regex` does not compile.
        """
        return self._run(
            "Provider.cheapest_server_flavor", lambda: self._provider.cheapest_server_flavor(cores, ram_mb, regex)
        )

    def cheapest_server_flavors(
        self, cores: float, ram_mb: int, regex: str, sets: Sequence[Sequence[str]]
    ) -> list[Flavor]:
        """The cheapest flavor, then the next ones that are in other sets; names in `sets` are regular expressions.

        Raises:
            NoFlavorError: not even one was found.
            BadRegexError: an expression does not compile.
        """
        return self._run(
            "Provider.cheapest_server_flavors",
            lambda: self._provider.cheapest_server_flavors(cores, ram_mb, regex, sets),
        )

    def server_flavor(self, id_or_name: str) -> Flavor:
        """The flavor of that id or name.

        Raises:
            BadFlavorError: there is none.
        """
        return self._run("Provider.server_flavor", lambda: self._provider.server_flavor(id_or_name))

    def tear_down(self) -> None:
        """Destroy all that is the deployment's, and prove that nothing is left. May be repeated.

        Raises:
            TearDownError: something still exists; it names each thing.
        """
        return self._run("Provider.tear_down", self._provider.tear_down)

    def audit(self, *, every_deployment: bool = False) -> list[AuditItem]:
        """What the cloud itself lists as ours, joined with what the state knows."""
        return self._run("Provider.audit", lambda: self._provider.audit(every_deployment=every_deployment))

    def is_no_hardware(self, error: BaseException) -> bool:
        """Whether that error means that the cloud had no machine free for the flavor."""
        return self._provider.is_no_hardware(error)

    # --- servers ---

    def spawn(
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
    ) -> Server:
        """Spawn a server and return when it runs; `Server.wait_until_ready` then waits for its boot.

        When this fails or is interrupted, what it made is destroyed.

        Args:
            os: the beginning of an image's name, or its id; an empty string for the provider's default.
            os_user: who logs in; an empty string for the image's own user.
            flavor: a flavor, or the id or name of one.
            disk_gb: for a disk larger than the flavor's.
            ttd: seconds of idleness after which the server is destroyed; 0 for never.
            external_ip: give it an address that is reached from outside.
            on_using_quota: called, in this thread, as soon as the cloud counts the server.
            timeout: for the whole; None for a limit learnt from earlier spawns.
            max_lifetime: after this a reaper may delete it even when it runs; 0 for never.

        Raises:
            NoImageError, BadFlavorError, ConfigError: the request cannot be fulfilled; nothing was made.
            QuotaError: the account's limit does not allow it.
            NoHardwareError: the cloud has no machine free for that flavor.
            ServerFailedError, ServerTimeoutError: it did not come to run.
        """
        inbox = Inbox()
        using_quota = inbox.relay(on_using_quota)
        server = self._run(
            "Provider.spawn",
            lambda: self._provider.spawn(
                os,
                os_user,
                flavor,
                disk_gb,
                ttd,
                external_ip,
                using_quota,
                timeout=timeout,
                max_lifetime=max_lifetime,
            ),
            inbox,
            _destroy,
        )
        return self._wrap(server)

    def spawn_many(
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
    ) -> Iterator[Server]:
        """Spawn `n` servers together, and yield each as soon as `spawn` would have returned it.

        Leaving the loop early, by whatever way, destroys those that were not handed over; `on_using_quota` is called, in the thread that
        iterates, once for each server. Nothing begins before the first is asked for.

        Raises:
            SpawnError: at the end, when some did not arrive; it has their errors, and the servers that did arrive.
        """
        inbox = Inbox()
        servers = self._provider.spawn_many(
            n,
            os,
            os_user,
            flavor,
            disk_gb,
            ttd,
            external_ip,
            inbox.relay(on_using_quota),
            timeout=timeout,
            max_lifetime=max_lifetime,
        )
        while (server := self._next(servers, inbox)) is not None:
            try:
                yield server
            except BaseException:  # GeneratorExit, most often: the loop was left
                self._portal.run_or_post(cast("AsyncGenerator[AsyncServer]", servers).aclose, "Provider.spawn_many")
                raise

    def _next(self, servers: AsyncIterator[AsyncServer], inbox: Inbox) -> Server | None:
        async def step() -> AsyncServer | None:
            return await anext(servers, None)

        try:
            server = self._run("Provider.spawn_many", step, inbox, _destroy)
        except SpawnError as error:
            error.servers = tuple(self._wrap(server) for server in error.servers)
            raise
        return None if server is None else self._wrap(server)

    def find_or_spawn(
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
    ) -> Server:
        """A ready server on which this room was just allocated: one of the deployment's that has it free, or a new one.

        When making a new one ready fails or is interrupted, it is destroyed.

        Args:
            cores: to allocate on it.
            ram_mb: MB to allocate on it.
            disk_gb: GB to allocate on it.
            os: as for `spawn`; a server that is found was spawned with the same.
            os_user: as for `spawn`; any on a server that is found, when empty.
            flavor_regex: the flavor's name must match it.
            ttd: as for `spawn`, for a new one.
            external_ip: as for `spawn`, for a new one.
            timeout: for spawning, and again for getting ready.
            new: spawn one even if there is room elsewhere.
        """

        async def give_back(server: AsyncServer) -> None:
            await server.release(cores, ram_mb, disk_gb)

        server = self._run(
            "Provider.find_or_spawn",
            lambda: self._provider.find_or_spawn(
                cores,
                ram_mb,
                disk_gb,
                os=os,
                os_user=os_user,
                flavor_regex=flavor_regex,
                ttd=ttd,
                external_ip=external_ip,
                timeout=timeout,
                new=new,
            ),
            discard=give_back,
        )
        return self._wrap(server)

    def check_server(self, id: str) -> bool:
        """Ask the cloud whether that server works."""
        return self._run("Provider.check_server", lambda: self._provider.check_server(id))

    def destroy_server(self, id: str) -> None:
        """Delete that server and all that was made for it, and wait until it is gone. May be repeated."""
        return self._run("Provider.destroy_server", lambda: self._provider.destroy_server(id))

    def servers(self, all: bool = False) -> dict[str, Server]:
        """The deployment's servers by id, other processes' too: those with an external address, or with `all` every one."""
        found = self._run("Provider.servers", lambda: self._provider.servers(all))
        return {server_id: self._wrap(server) for server_id, server in found.items()}

    def server_by_name(self, name: str) -> Server | None:
        """The server of that name, or None."""
        server = self._run("Provider.server_by_name", lambda: self._provider.server_by_name(name))
        return None if server is None else self._wrap(server)

    def localhost_server(
        self, os: str, post_creation_script: bytes = b"", config_files: str = "", cidr: str | None = None
    ) -> Server:
        """The machine that this program runs on, as a server."""
        return self._wrap(
            self._run(
                "Provider.localhost_server",
                lambda: self._provider.localhost_server(os, post_creation_script, config_files, cidr),
            )
        )

    def usage(self) -> dict[str, ServerUsage]:
        """What is taken of each server's room, by id, and since when it is idle."""
        return self._run("Provider.usage", self._provider.usage)


async def _destroy(server: AsyncServer | None) -> None:
    if server is not None:
        await server.destroy()


def _let_go(portal: Portal, provider: AsyncProvider) -> None:
    """Close what belonged to a Provider that nobody has any more."""
    portal.at_exit(id(provider), None)
    portal.post(provider.aclose)
