"""The interface between the core and a cloud: small, blocking, without memory.

A driver makes, lists and deletes. It **never waits** for a thing to change, **never retries**, and **keeps no state**: that is
the core's work, done once for all clouds. It is called from several threads at once. Vendor exceptions become errors of
`pileus.errors` here and nowhere above.

Rules that the conformance suite (`pileus.testing.conformance`) holds every driver to:

1. What is created carries all of `tags` in the create call itself, in whichever field that call has.
2. A listing shows every thing that carries the asked tags (all pages of it), and nothing else.
3. A thing that is being deleted is listed until it is gone; deleting what is gone raises `NotFoundError`.
4. Ownership is an exact match of the deployment's id.
5. `Call.deadline` is kept: an answer that does not come by then is an error, with `outcome_unknown=True` if it was a create.
6. One failure in a batch does not spoil the others.
7. Errors are of the right type, and bad input (unknown flavor, image, …) is refused without creating anything.
"""

from __future__ import annotations

import abc
import enum
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from pileus.errors import PileusError, UnsupportedError
from pileus.models import BootTarget, DeployConfig, Flavor, Image, Quota

TAG_DEPLOYMENT = "pileus-deployment"
"""The deployment's id: ownership is an exact match of this tag."""
TAG_INTENT = "pileus-intent"
"""The id under which the wish for this thing stands in the state."""
TAG_NAME = "pileus-name"
"""The deployment's resource name."""
TAG_OWNER = "pileus-owner"
"""Who deployed, as `user@host`."""
TAG_USER = "pileus-user"
"""On a server: who logs in."""
TAG_CREATED = "pileus-created"
"""When it was asked for, RFC 3339 in UTC."""
TAG_TTD = "pileus-ttd"
"""On a server: seconds of idleness after which it goes, or 0."""
TAG_EXPIRES = "pileus-expires"
"""On a server with a `max_lifetime`: the moment after which a reaper may delete it even when it runs."""

SERVER = "server"
"""The kind of thing that `create_servers` makes; all other kinds are the driver's own words (`network`, `volume`, …)."""


class ServerStatus(enum.Enum):
    """What the cloud says of a server."""

    BUILDING = "building"
    ACTIVE = "active"
    STOPPED = "stopped"
    ERROR = "error"
    DELETING = "deleting"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a driver can do, and how the core should treat its cloud.

    Attributes:
        volumes: a server's disk can be larger than its flavor's.
        external_ips: a server can have an address that is reached from outside.
        console: `console` works.
        spot: servers that the cloud may take back.
        prices: flavors carry prices.
        shared_disk: servers can serve and mount NFS.
        power_off_destroys: a server that powers itself off is gone, and costs nothing.
        max_batch: how many servers one `create_servers` call takes at most.
        poll_interval_s: seconds between two listings while something is waited for.
        listing_lag_s: how long after it was accepted a thing may be missing from a listing, at worst.
        request_timeout_s: the deadline the core gives to one call.
        isolation: a line for people on how servers are kept apart.
    """

    volumes: bool = False
    external_ips: bool = False
    console: bool = False
    spot: bool = False
    prices: bool = False
    shared_disk: bool = False
    power_off_destroys: bool = False
    max_batch: int = 100
    poll_interval_s: float = 1.0
    listing_lag_s: float = 30.0
    request_timeout_s: float = 120.0
    isolation: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One call's id and its deadline.

    Attributes:
        request_id: ours; put it where the cloud takes one (a client token, a header), and in logs.
        deadline: a moment of `time.monotonic()`.
    """

    request_id: str
    deadline: float

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.deadline - time.monotonic())


@dataclass(frozen=True, slots=True)
class PlannedResource:
    """Something that a deployment (or one server) needs beside servers: a key pair, a network, a volume.

    Attributes:
        kind: the driver's word for it, also the key under which later steps find it.
        suffix: put behind the resource name (or the server's name) to make its name; may be empty.
        spec: JSON-able details for `create_resource`.
    """

    kind: str
    suffix: str = ""
    spec: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """The wish for one resource. `name` is unique within the deployment; `tags` must all be on what is made."""

    intent_id: str
    kind: str
    name: str
    tags: Mapping[str, str]
    spec: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resource:
    """A thing that exists in the cloud, other than a server, as its listing shows it.

    Attributes:
        attributes: whatever later steps need (`cidr`, `fingerprint`), as text; shown in `provider.resources`.
    """

    kind: str
    id: str
    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def deployment_id(self) -> str:
        """The deployment that it belongs to, or an empty string."""
        return self.tags.get(TAG_DEPLOYMENT, "")

    @property
    def intent_id(self) -> str:
        """The intent that it came from, or an empty string."""
        return self.tags.get(TAG_INTENT, "")


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """The wish for one server.

    Attributes:
        intent_id: unique for this wish; also in `tags`.
        name: a valid host name, unique within the deployment.
        disk_gb: the root disk's size; more than `flavor.disk` only where `Capabilities.volumes`.
        user_data: the boot script, to be handed to the server as it is. A secret: it has a host key in it.
        resources: the deployment's resources and this server's own parts, by kind.
    """

    intent_id: str
    name: str
    flavor: Flavor
    image: Image
    user_name: str
    disk_gb: int
    external_ip: bool
    tags: Mapping[str, str]
    user_data: bytes = field(default=b"", repr=False)
    resources: Mapping[str, Resource] = field(default_factory=dict)
    config: DeployConfig = field(default_factory=DeployConfig)


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """A server as the cloud shows it.

    Attributes:
        address: where SSH is to be reached from here, or an empty string while there is none.
        port: the SSH port there.
        external: whether `address` is reached from outside the cloud's own network.
        created: by the cloud's clock, or None.
        fault: why it is in ERROR, in the cloud's words.
        admin_pass: in the create call's answer only, if at all.
    """

    id: str
    name: str
    status: ServerStatus
    tags: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    port: int = 22
    external: bool = False
    flavor_id: str = ""
    image_id: str = ""
    created: datetime | None = None
    fault: str = ""
    admin_pass: str = field(default="", repr=False)

    @property
    def deployment_id(self) -> str:
        """The deployment that it belongs to, or an empty string."""
        return self.tags.get(TAG_DEPLOYMENT, "")

    @property
    def intent_id(self) -> str:
        """The intent that it came from, or an empty string."""
        return self.tags.get(TAG_INTENT, "")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request of a batch: a record, or an error.

    An error with `outcome_unknown` set means that the server may exist. A delete that was accepted has neither.
    """

    request_id: str
    record: ServerRecord | None = None
    error: PileusError | None = None


@dataclass(frozen=True, slots=True)
class CheckItem:
    """One line of `pileus check`. `hint` says what to do when `ok` is False."""

    name: str
    ok: bool
    detail: str = ""
    hint: str = ""


class Driver(abc.ABC):
    """One cloud. Subclass it and name the class in an entry point of the group `pileus.drivers`.

    The constructor takes settings, checks them, and does no I/O; SDKs are imported on first use.
    """

    name: ClassVar[str]
    required_env: ClassVar[tuple[str, ...]] = ()
    maybe_env: ClassVar[tuple[str, ...]] = ()
    deletion_order: ClassVar[tuple[str, ...]] = ()
    """Kinds of resources in the order in which they can be deleted, after all servers are gone."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.settings: dict[str, str] = dict(settings or {})

    @property
    @abc.abstractmethod
    def capabilities(self) -> Capabilities:
        """What this cloud can do; no I/O."""

    # --- what there is to choose from ---

    @abc.abstractmethod
    def flavors(self, call: Call) -> list[Flavor]:
        """All flavors that the account may use."""

    @abc.abstractmethod
    def images(self, call: Call) -> list[Image]:
        """All images that can be booted, the default one first."""

    @abc.abstractmethod
    def quota(self, call: Call) -> Quota:
        """Limits and use, now."""

    def check(self, call: Call) -> list[CheckItem]:
        """Whatever a user should know before the first deploy; must not raise for what it can tell in an item."""
        return []

    # --- a deployment's resources ---

    def plan(self, config: DeployConfig, public_key: str) -> list[PlannedResource]:
        """What a deployment needs, in the order of creation. Pure."""
        return []

    def server_parts(self, request: ServerRequest) -> list[PlannedResource]:
        """What one server needs to be made before it (a boot volume). Pure."""
        return []

    def create_resource(self, request: ResourceRequest, made: Mapping[str, Resource], call: Call) -> Resource:
        """Make one resource; `made` has the earlier ones by kind."""
        raise UnsupportedError(f"{self.name} makes no {request.kind}", provider=self.name)

    @abc.abstractmethod
    def list_resources(self, deployment_id: str | None, call: Call) -> list[Resource]:
        """All resources of that deployment, or, for None, all that carry tags of Pileus."""

    def delete_resource(self, resource: Resource, call: Call) -> None:
        """Ask for its end, and that of whatever hangs on it. Raises `NotFoundError` when it is gone."""
        raise UnsupportedError(f"{self.name} has no {resource.kind}", provider=self.name)

    # --- servers ---

    @abc.abstractmethod
    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:
        """Ask for servers; an outcome each, in the same order. Returns once they are accepted, not when they run."""

    @abc.abstractmethod
    def list_servers(self, deployment_id: str | None, call: Call) -> list[ServerRecord]:
        """All servers of that deployment, or, for None, all that carry tags of Pileus."""

    @abc.abstractmethod
    def delete_servers(self, ids: Sequence[str], call: Call) -> list[Outcome]:
        """Ask for the end of servers and of all that was made for them alone; an outcome each, in the same order."""

    def console(self, id: str, call: Call) -> str:
        """The tail of a server's console, where `Capabilities.console`."""
        raise UnsupportedError(f"{self.name} shows no console", provider=self.name)

    def fault_error(self, record: ServerRecord) -> PileusError | None:
        """The typed error that the fault of a server in ERROR amounts to, where the cloud's words tell (`NoHardwareError`)."""
        return None

    # --- where we are ---

    def boot_target(self, intent_id: str) -> BootTarget:
        """How the boot script finds its way on the server that this intent will make. Pure."""
        return BootTarget()

    def in_cloud(self) -> bool:
        """Whether this program runs on a server of this cloud; must be quick."""
        return False

    def needed_here(self, thing: Resource | ServerRecord) -> bool:
        """Whether the server that this program runs on needs that thing, so that a tear-down must leave it."""
        return False

    def close(self) -> None:  # noqa: B027  (most drivers hold nothing)
        """Let go of connections; the driver is not used afterwards."""
