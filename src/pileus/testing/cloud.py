"""A cloud that is simulated: its things are real to whoever asks, and it fails where rules want it to.

`SimulatedCloud` is the far side, what would be a vendor's service; `pileus.testing.simulator.SimulatorDriver` is a driver
on it. Its server-side habits are those of the plainest clouds: two creates make two servers whatever they carry, listings
may lag behind, a delete takes time, and what is in use cannot be deleted.
"""

from __future__ import annotations

import base64
import hashlib
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TypeVar

from pileus import errors
from pileus.clock import SystemClock
from pileus.drivers.base import Call, Outcome, Resource, ResourceRequest, ServerRecord, ServerRequest, ServerStatus
from pileus.models import Flavor, Image, Quota
from pileus.testing import rules as faults
from pileus.testing.clock import TimeSource, wait
from pileus.testing.inventory import Inventory, Machine

T = TypeVar("T")
Endpoint = Callable[[ServerRequest, int], tuple[str, int]]
"""Given a request and the server's number (from 1), where its SSH is to be reached."""

FLAVORS = tuple(
    Flavor(
        f"sim-{cores}-{ram_gb}",
        f"simulated.{cores}x{ram_gb}",
        cores,
        ram_gb * 1024,
        disk,
        cores * 0.03 + ram_gb * 0.004,
    )
    for cores, ram_gb, disk in (
        (1, 2, 10),
        (2, 4, 20),
        (2, 16, 20),
        (4, 8, 40),
        (4, 32, 40),
        (8, 32, 80),
        (16, 64, 160),
    )
)
IMAGES = (
    Image("sim-image-1", "simulated linux 2", default_user="sim", min_disk=2, min_ram=512),
    Image("sim-image-2", "simulated linux 1", default_user="sim", min_disk=2, min_ram=512),
    Image("sim-image-3", "simulated large", default_user="root", min_disk=30, min_ram=4096),
)
RESOURCE_KINDS = ("keypair", "firewall", "network", "volume")


class ReplyLostError(errors.ProviderError):
    """The cloud did as asked, and the answer got lost on its way."""

    def __init__(self, message: str, *, close_connection: bool = False, **more: object) -> None:
        super().__init__(message, **more)  # type: ignore[arg-type]
        self.close_connection = close_connection


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """One call that reached the cloud.

    Attributes:
        at: `monotonic` of the cloud's clock when it came in.
        count: how many things it was about (servers of a batch), 1 for a listing.
        ended: when it was answered, or None while it is not.
        error: the class of the error with which it was answered, or an empty string.
    """

    operation: str
    at: float
    request_id: str
    count: int = 1
    ended: float | None = None
    error: str = ""


class SimulatedCloud:
    """A cloud account. Safe to use from several threads.

    Args:
        clock: anything with `monotonic()` and `now()`; the machine's own when None.
        flavors: what there is to choose from.
        images: the default one first.
        limits: the quota, enforced here; 0 is unlimited.
        boot_s: from a create's acceptance to ACTIVE.
        delete_s: from a delete's acceptance until the server is gone.
        listing_lag_s: from a create's acceptance until a listing shows what was made.
        latency_s: how long every call takes.
        endpoint: where the servers answer. Without it they get addresses of the loopback network (127.64.0.0/10 with an
            external IP, 127.128.0.0/9 without), port 22, where nothing of ours listens.
        keep_requests: remember the request of each server in `requests`, user-data included.
    """

    def __init__(
        self,
        clock: TimeSource | None = None,
        *,
        flavors: Sequence[Flavor] = FLAVORS,
        images: Sequence[Image] = IMAGES,
        limits: Quota = Quota(),  # noqa: B008  (frozen)
        boot_s: float = 10.0,
        delete_s: float = 2.0,
        listing_lag_s: float = 0.0,
        latency_s: float = 0.0,
        endpoint: Endpoint | None = None,
        keep_requests: bool = False,
    ) -> None:
        self.clock: TimeSource = clock or SystemClock()
        self.boot_s = boot_s
        self.delete_s = delete_s
        self.listing_lag_s = listing_lag_s
        self.latency_s = latency_s
        self.requests: dict[str, ServerRequest] = {}
        self._flavors = {flavor.id: flavor for flavor in flavors}
        self._images = {image.id: image for image in images}
        self._endpoint = endpoint or loopback_endpoint
        self._keep_requests = keep_requests
        self._lock = threading.RLock()
        self._rules = faults.RuleBook()
        self._log: dict[int, LoggedCall] = {}
        self._arrivals = 0
        self._server_count = 0
        epoch = self.clock.now() - timedelta(seconds=self.clock.monotonic())
        self._inventory = Inventory(limits, epoch)

    # --- what a driver calls ---

    def flavors(self, call: Call) -> list[Flavor]:
        """All flavors."""
        return self._serve("flavors", call, lambda: list(self._flavors.values()))

    def images(self, call: Call) -> list[Image]:
        """All images, the default one first."""
        return self._serve("images", call, lambda: list(self._images.values()))

    def quota(self, call: Call) -> Quota:
        """Limits and use."""
        return self._serve("quota", call, self._inventory.use)

    def ping(self, call: Call) -> None:
        """Nothing but the way there and back, and the credentials: the operation `check` of rules."""
        self._serve("check", call, lambda: None)

    def create_resource(self, request: ResourceRequest, call: Call) -> Resource:
        """Make a keypair, a firewall, a network or a volume."""
        return self._serve("create_resource", call, lambda: self._make_resource(request))

    def list_resources(self, deployment_id: str | None, call: Call) -> list[Resource]:
        """Those of a deployment, or all with a tag of ours."""
        return self._serve("list_resources", call, lambda: self._inventory.resources_of(deployment_id))

    def delete_resource(self, id: str, call: Call) -> None:
        """Delete one, at once, unless a server uses it."""
        self._serve("delete_resource", call, lambda: self._inventory.delete_resource(id))

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:
        """Accept or refuse each; an outcome each, in the same order."""
        return self._serve(
            "create_servers", call, lambda: [self._create_one(request) for request in requests], len(requests)
        )

    def list_servers(self, deployment_id: str | None, call: Call) -> list[ServerRecord]:
        """Those of a deployment, or all with a tag of ours."""
        return self._serve("list_servers", call, lambda: self._inventory.servers_of(deployment_id))

    def delete_servers(self, ids: Sequence[str], call: Call) -> list[Outcome]:
        """Accept or refuse each delete; an outcome each, in the same order."""
        return self._serve("delete_servers", call, lambda: [self._delete_one(one) for one in ids], len(ids))

    def console(self, id: str, call: Call) -> str:
        """A few lines that a server may have written."""
        return self._serve("console", call, lambda: self._console(id))

    # --- what a test calls ---

    def add_rules(self, *rules: faults.Rule) -> None:
        """Put rules in force; what they count begins now."""
        with self._lock:
            self._rules.add(rules)

    def clear_rules(self) -> None:
        """Be a good cloud again. What happened to servers that exist stays."""
        with self._lock:
            self._rules.clear()

    @property
    def calls(self) -> list[LoggedCall]:
        """Every call so far, in the order of arrival."""
        with self._lock:
            return list(self._log.values())

    @property
    def counts(self) -> Counter[str]:
        """How many calls of each operation there were."""
        with self._lock:
            return Counter(entry.operation for entry in self._log.values())

    def forget_calls(self) -> None:
        """Begin `calls` and `counts` anew."""
        with self._lock:
            self._log = {number: entry for number, entry in self._log.items() if entry.ended is None}

    def everything(self) -> list[ServerRecord | Resource]:
        """All that exists, whoever made it, shown in listings or not: what a test for leaks compares with nothing."""
        with self._lock:
            self._inventory.settle(self.clock.monotonic())
            servers: list[ServerRecord | Resource] = [one.record for one in self._inventory.machines.values()]
            return servers + list(self._inventory.resources.values())

    def plant(
        self,
        kind: str = "server",
        *,
        name: str,
        tags: Mapping[str, str] | None = None,
        status: ServerStatus = ServerStatus.ACTIVE,
        attributes: Mapping[str, str] | None = None,
    ) -> str:
        """Let somebody else have made a thing: a look-alike that must be left alone. Gives its id; asks no quota."""
        with self._lock:
            now = self.clock.monotonic()
            new_id = self._inventory.new_id("srv" if kind == "server" else kind)
            if kind == "server":
                record = ServerRecord(new_id, name, status, tags=dict(tags or {}), created=self._inventory.moment(now))
                self._inventory.add_server(Machine(record, ("127.128.255.254", 22)), now, now)
                self._inventory.change_server(new_id, status)
            else:
                resource = Resource(kind, new_id, name, tags=dict(tags or {}), attributes=dict(attributes or {}))
                self._inventory.add_resource(resource, now, now)
            return new_id

    def change(self, id: str, status: ServerStatus, *, fault: str = "") -> None:
        """Put a server into another state behind everybody's back."""
        with self._lock:
            self._inventory.settle(self.clock.monotonic())
            self._inventory.change_server(id, status, fault=fault)

    def remove(self, id: str) -> None:
        """Let a server exist no more, behind everybody's back."""
        with self._lock:
            self._inventory.settle(self.clock.monotonic())
            self._inventory.remove_server(id)

    # --- how a call is served ---

    def _serve(self, operation: str, call: Call, work: Callable[[], T], count: int = 1) -> T:
        with self._lock:
            self._arrivals += 1
            number = self._arrivals
            entry = LoggedCall(operation, self.clock.monotonic(), call.request_id, count)
            self._log[number] = entry
            striking = self._rules.strikes(operation)
        error = ""
        try:
            return self._answer(operation, call, work, striking)
        except errors.ProviderError as problem:
            error = type(problem).__name__
            problem.request_id = problem.request_id or call.request_id
            problem.within("simulator", operation)
            raise
        finally:
            with self._lock:
                if number in self._log:
                    self._log[number] = replace(entry, ended=self.clock.monotonic(), error=error)

    def _answer(self, operation: str, call: Call, work: Callable[[], T], striking: Sequence[faults.Rule]) -> T:
        making = operation in faults.MAKING
        allowed_s = call.remaining()
        if allowed_s <= 0:
            raise errors.ProviderError(f"{operation}: the deadline had passed before the request was sent")
        for rule in striking:
            if (refusal := refusal_of(rule)) is not None:
                raise refusal
            if isinstance(rule, faults.Hang):
                if rule.carried_out:
                    self._work(work)
                wait(self.clock, allowed_s, call.deadline)
                raise _late(operation, making)
        result = None
        delay = self.latency_s + sum(rule.seconds for rule in striking if isinstance(rule, faults.Slow))
        carried_out = any(isinstance(rule, faults.Slow) and rule.carried_out_first for rule in striking)
        if carried_out:
            result = self._work(work)
        if delay > 0:
            wait(self.clock, min(delay, allowed_s), call.deadline)
        if not carried_out:
            result = self._work(work)
        if delay >= allowed_s or (delay > 0 and call.remaining() <= 0):
            raise _late(operation, making)
        for rule in striking:
            if isinstance(rule, faults.LoseReply):
                raise ReplyLostError(
                    f"{operation}: the connection was lost before the answer came",
                    close_connection=rule.close_connection,
                    outcome_unknown=making,
                )
        return result  # type: ignore[return-value]

    def _work(self, work: Callable[[], T]) -> T:
        with self._lock:
            self._inventory.settle(self.clock.monotonic())
            return work()

    # --- resources ---

    def _make_resource(self, request: ResourceRequest) -> Resource:
        if request.kind not in RESOURCE_KINDS:
            raise errors.UnsupportedError(
                f"no such kind of resource: {request.kind!r}; there are: {', '.join(RESOURCE_KINDS)}"
            )
        attributes: dict[str, str] = {}
        if request.kind == "volume":
            size_gb = request.spec.get("size_gb")
            if not isinstance(size_gb, int) or size_gb < 1:
                raise errors.ProviderError(f"volume {request.name}: size_gb must be 1 or more, not {size_gb!r}")
            self._inventory.check_room(volume_gb=size_gb)
            attributes["size_gb"] = str(size_gb)
        elif request.kind == "network":
            attributes["cidr"] = str(request.spec.get("cidr", ""))
        elif request.kind == "keypair":
            digest = hashlib.sha256(str(request.spec.get("public_key", "")).encode()).digest()
            attributes["fingerprint"] = "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
        new_id = self._inventory.new_id(request.kind)
        resource = Resource(request.kind, new_id, request.name, dict(request.tags), attributes)
        now = self.clock.monotonic()
        self._inventory.add_resource(resource, now + self.listing_lag_s, now)
        return resource

    # --- servers ---

    def _create_one(self, request: ServerRequest) -> Outcome:
        try:
            flavor = self._accepted(request)
            striking = self._rules.strikes("create_server", (flavor.id, flavor.name), request.name)
            for rule in striking:
                if (refusal := refusal_of(rule)) is not None:
                    raise refusal
            self._inventory.check_room(flavor)
        except errors.ProviderError as problem:
            return Outcome(request.intent_id, error=problem.within("simulator", "create_servers"))
        record = self._make_server(request, flavor, striking)
        if any(isinstance(rule, faults.LoseReply) for rule in striking):
            lost = ReplyLostError(f"nothing was heard of the create of {request.name}", outcome_unknown=True)
            return Outcome(request.intent_id, error=lost.within("simulator", "create_servers"))
        return Outcome(request.intent_id, record)

    def _accepted(self, request: ServerRequest) -> Flavor:
        flavor = self._flavors.get(request.flavor.id)
        if flavor is None:
            raise errors.BadFlavorError(f"there is no flavor {request.flavor.id!r}")
        image = self._images.get(request.image.id)
        if image is None:
            raise errors.NoImageError(f"there is no image {request.image.id!r}")
        room_gb = flavor.disk
        for resource in request.resources.values():
            known = self._inventory.resources.get(resource.id)
            if known is None:
                raise errors.NotFoundError(f"{request.name}: there is no {resource.kind} {resource.id!r}")
            if known.kind == "volume":
                if self._inventory.in_use(known.id):
                    raise errors.ProviderError(f"{request.name}: volume {known.id} is attached already")
                room_gb = int(known.attributes["size_gb"])
        if request.disk_gb < 0 or max(request.disk_gb, image.min_disk) > room_gb:
            raise errors.ProviderError(
                f"{request.name}: a disk of {request.disk_gb} GB (image: {image.min_disk} GB or more) does not fit: "
                f"there are {room_gb} GB"
            )
        if flavor.ram < image.min_ram:
            raise errors.ProviderError(f"{request.name}: {image.name} needs {image.min_ram} MB of RAM")
        return flavor

    def _make_server(self, request: ServerRequest, flavor: Flavor, striking: Sequence[faults.Rule]) -> ServerRecord:
        now = self.clock.monotonic()
        new_id = self._inventory.new_id("srv")
        self._server_count += 1
        resources = request.resources.values()
        record = ServerRecord(
            id=new_id,
            name=request.name,
            status=ServerStatus.BUILDING,
            tags=dict(request.tags),
            external=request.external_ip,
            flavor_id=flavor.id,
            image_id=request.image.id,
            created=self._inventory.moment(now),
        )
        machine = Machine(
            record,
            self._endpoint(request, self._server_count),
            flavor.cores,
            flavor.ram,
            uses=tuple(one.id for one in resources if one.kind in ("network", "firewall")),
            owns=tuple(one.id for one in resources if one.kind == "volume"),
        )
        self._inventory.add_server(machine, now + self.listing_lag_s, now)
        if self._keep_requests:
            self.requests[new_id] = request
        self._plan_life(new_id, now, striking)
        return record

    def _plan_life(self, id: str, now: float, striking: Iterable[faults.Rule]) -> None:
        inventory = self._inventory
        active_at = now + self.boot_s
        for rule in striking:
            if isinstance(rule, faults.StuckBuilding):
                active_at += math.inf if rule.seconds is None else rule.seconds
            elif isinstance(rule, faults.EndInError):
                fail = partial(inventory.change_server, id, ServerStatus.ERROR, fault=rule.fault)
                inventory.later(now + rule.after_s, partial(fail, only_from="building active"))
            elif isinstance(rule, faults.Vanish):
                inventory.later(now + rule.after_s, lambda: inventory.remove_server(id))
        inventory.later(active_at, lambda: inventory.change_server(id, ServerStatus.ACTIVE, only_from="building"))

    def _delete_one(self, id: str) -> Outcome:
        machine = self._inventory.machines.get(id)
        try:
            if machine is None:
                raise errors.NotFoundError(f"there is no server {id!r}")
            flavor = self._flavors.get(machine.record.flavor_id)
            names = (flavor.id, flavor.name) if flavor else ("", "")
            striking = self._rules.strikes("delete_server", names, machine.record.name)
            for rule in striking:
                if (refusal := refusal_of(rule)) is not None:
                    raise refusal
        except errors.ProviderError as problem:
            return Outcome(id, error=problem.within("simulator", "delete_servers"))
        self._plan_end(id, striking)
        if any(isinstance(rule, faults.LoseReply) for rule in striking):
            return Outcome(id, error=ReplyLostError(f"nothing was heard of the delete of {id}"))
        return Outcome(id)

    def _plan_end(self, id: str, striking: Iterable[faults.Rule]) -> None:
        inventory = self._inventory
        gone_at = self.clock.monotonic() + self.delete_s
        inventory.change_server(id, ServerStatus.DELETING)
        for rule in striking:
            if isinstance(rule, faults.SlowDelete):
                gone_at += math.inf if rule.seconds is None else rule.seconds
            elif isinstance(rule, faults.DeleteEndsInError):
                fail = partial(inventory.change_server, id, ServerStatus.ERROR, fault=rule.fault)
                inventory.later(gone_at, partial(fail, only_from="deleting"))
                return
        inventory.later(gone_at, lambda: inventory.remove_server(id, only_from="deleting"))
        inventory.settle(self.clock.monotonic())

    def _console(self, id: str) -> str:
        machine = self._inventory.machines.get(id)
        if machine is None:
            raise errors.NotFoundError(f"there is no server {id!r}")
        record = machine.record
        return f"{record.name} login: simulated console\n{record.fault or record.status.value}\n"


def refusal_of(rule: faults.Rule) -> errors.ProviderError | None:
    """The error with which a rule refuses, or None for rules that do something else."""
    match rule:
        case faults.Fail():
            kind: type[errors.ProviderError] = getattr(errors, rule.error)
            if issubclass(kind, errors.RateLimitError):
                return kind(rule.message, retry_after_s=rule.retry_after_s)
            return kind(rule.message)
        case faults.Throttle():
            return errors.RateLimitError("too many requests", retry_after_s=rule.retry_after_s)
        case faults.ExpireCredentials():
            return errors.AuthenticationError("the credentials have expired", hint="log in again")
        case faults.NoHardware():
            return errors.NoHardwareError("no machine is free for that flavor", hint="try another flavor, or later")
        case faults.OverQuota():
            return errors.QuotaError("the quota is used up")
    return None


def loopback_endpoint(request: ServerRequest, number: int) -> tuple[str, int]:
    """An address of the loopback network for each server, at which nothing of ours listens."""
    block, size = (64, 22) if request.external_ip else (128, 23)
    number %= 1 << size
    return f"127.{block + (number >> 16)}.{number >> 8 & 255}.{number & 255}", 22


def _late(operation: str, making: bool) -> errors.ProviderError:
    return errors.ProviderError(f"{operation}: no answer came within the deadline", outcome_unknown=making)
