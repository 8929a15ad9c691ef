"""What exists in a simulated cloud, and how it changes as time goes by. No faults, no locks, no waiting.

Changes that are due later stand in a heap and are applied by `settle`, so that a listing costs one copy of what is there:
records are immutable and are made anew only when a server changes.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

from pileus.drivers.base import TAG_DEPLOYMENT, Resource, ServerRecord, ServerStatus
from pileus.errors import NotFoundError, ProviderError, QuotaError
from pileus.models import Flavor, Quota

Thing = TypeVar("Thing", ServerRecord, Resource)
TAG_PREFIX = "pileus-"


@dataclass(slots=True)
class Machine:
    """A server and what it uses.

    Attributes:
        record: as it is now.
        endpoint: its address and port once it runs.
        uses: ids of the resources that cannot go before it.
        owns: ids of the volumes that go with it.
    """

    record: ServerRecord
    endpoint: tuple[str, int] = ("", 22)
    cores: int = 0
    ram: int = 0
    uses: tuple[str, ...] = ()
    owns: tuple[str, ...] = ()


class Inventory:
    """Servers and resources, in the order in which they were made.

    Args:
        limits: what the quota allows; its `used_` fields are ignored.
        epoch: the moment at which the clock's `monotonic` would have shown 0.
    """

    def __init__(self, limits: Quota, epoch: datetime) -> None:
        self.limits = limits
        self.machines: dict[str, Machine] = {}
        self.resources: dict[str, Resource] = {}
        self._epoch = epoch
        self._shown_servers: dict[str | None, dict[str, ServerRecord]] = {}
        self._shown_resources: dict[str | None, dict[str, Resource]] = {}
        self._hidden: set[str] = set()
        self._users: Counter[str] = Counter()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count(1)
        self._cores = self._ram = self._volume = 0

    # --- time ---

    def settle(self, now: float) -> None:
        """Apply every change that is due by `now`."""
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()

    def later(self, when: float, change: Callable[[], None]) -> None:
        """Have `change` applied at `when`; never, if that is infinite."""
        if math.isfinite(when):
            heapq.heappush(self._due, (when, next(self._numbers), change))

    def moment(self, monotonic: float) -> datetime:
        """The clock's wall time at that second."""
        return self._epoch + timedelta(seconds=monotonic)

    def new_id(self, kind: str) -> str:
        """An id that was never used."""
        return f"{kind}-{next(self._numbers):08x}"

    # --- servers ---

    def add_server(self, machine: Machine, visible_at: float, now: float) -> None:
        """Let a server exist from now on, in listings from `visible_at` on."""
        record = machine.record
        self.machines[record.id] = machine
        self._cores += machine.cores
        self._ram += machine.ram
        self._users.update((*machine.uses, *machine.owns))
        self._show_later(record.id, visible_at, now, self._show_server)

    def change_server(self, id: str, status: ServerStatus, *, fault: str = "", only_from: str = "") -> None:
        """Put a server into another state; nothing happens when it is gone, or not in one of the states `only_from`."""
        machine = self.machines.get(id)
        if machine is None or (only_from and machine.record.status.value not in only_from.split()):
            return
        address, port = machine.endpoint if status in (ServerStatus.ACTIVE, ServerStatus.STOPPED) else ("", 22)
        machine.record = replace(machine.record, status=status, fault=fault, address=address, port=port)
        self._show_server(id)

    def remove_server(self, id: str, *, only_from: str = "") -> None:
        """Let a server, and the volumes that go with it, exist no more; nothing happens when it is gone already."""
        machine = self.machines.get(id)
        if machine is None or (only_from and machine.record.status.value not in only_from.split()):
            return
        del self.machines[id]
        self._hidden.discard(id)
        self._cores -= machine.cores
        self._ram -= machine.ram
        self._users.subtract((*machine.uses, *machine.owns))
        self._forget(self._shown_servers, machine.record.tags, id)
        for volume in machine.owns:
            if volume in self.resources:
                self._remove_resource(volume)

    # --- resources ---

    def add_resource(self, resource: Resource, visible_at: float, now: float) -> None:
        """Let a resource exist from now on, in listings from `visible_at` on."""
        self.resources[resource.id] = resource
        self._volume += size_of(resource)
        self._show_later(resource.id, visible_at, now, self._show_resource)

    def delete_resource(self, id: str) -> None:
        """Let a resource exist no more.

        Raises:
            NotFoundError: there is none of that id.
            ProviderError: a server still uses it.
        """
        resource = self.resources.get(id)
        if resource is None:
            raise NotFoundError(f"there is no resource {id!r}")
        if self.in_use(id):
            raise ProviderError(
                f"{resource.kind} {id} is still in use by {self._users[id]} server(s)",
                hint="delete the servers first, and wait until they are gone",
            )
        self._remove_resource(id)

    def in_use(self, id: str) -> bool:
        """Whether a server uses that resource."""
        return self._users[id] > 0

    # --- what is there ---

    def servers_of(self, deployment_id: str | None) -> list[ServerRecord]:
        """Visible servers of that deployment, or all that carry a tag of ours, oldest first."""
        return list(self._shown_servers.get(deployment_id, {}).values())

    def resources_of(self, deployment_id: str | None) -> list[Resource]:
        """Visible resources, likewise."""
        return list(self._shown_resources.get(deployment_id, {}).values())

    def use(self) -> Quota:
        """The limits, and what is used of them now."""
        return replace(
            self.limits,
            used_instances=len(self.machines),
            used_cores=self._cores,
            used_ram=self._ram,
            used_volume=self._volume,
        )

    def check_room(self, flavor: Flavor | None = None, volume_gb: int = 0) -> None:
        """Refuse what is more than the limits allow.

        Raises:
            QuotaError: naming the first limit that is in the way.
        """
        use = self.use()
        wishes: Sequence[tuple[str, int, int, int]] = (
            ("instances", use.max_instances, use.used_instances, 1 if flavor else 0),
            ("cores", use.max_cores, use.used_cores, flavor.cores if flavor else 0),
            ("ram", use.max_ram, use.used_ram, flavor.ram if flavor else 0),
            ("volume", use.max_volume, use.used_volume, volume_gb),
        )
        for name, limit, used, wanted in wishes:
            if limit and wanted and used + wanted > limit:
                raise QuotaError(f"the quota allows {limit} {name}; {used} are used, {wanted} more were asked for")

    # --- listings ---

    def _show_later(self, id: str, visible_at: float, now: float, show: Callable[[str], None]) -> None:
        if visible_at <= now:
            show(id)
            return
        self._hidden.add(id)

        def appear() -> None:
            self._hidden.discard(id)
            show(id)

        self.later(visible_at, appear)

    def _show_server(self, id: str) -> None:
        if id in self.machines and id not in self._hidden:
            self._put(self._shown_servers, id, self.machines[id].record)

    def _show_resource(self, id: str) -> None:
        if id in self.resources and id not in self._hidden:
            self._put(self._shown_resources, id, self.resources[id])

    def _remove_resource(self, id: str) -> None:
        resource = self.resources.pop(id)
        self._hidden.discard(id)
        self._users.pop(id, None)
        self._volume -= size_of(resource)
        self._forget(self._shown_resources, resource.tags, id)

    @staticmethod
    def _put(shown: dict[str | None, dict[str, Thing]], id: str, thing: Thing) -> None:
        for shelf in _shelves(thing.tags):
            shown.setdefault(shelf, {})[id] = thing

    @staticmethod
    def _forget(shown: dict[str | None, dict[str, Thing]], tags: Mapping[str, str], id: str) -> None:
        for shelf in _shelves(tags):
            shown.get(shelf, {}).pop(id, None)


def size_of(resource: Resource) -> int:
    """GB of a volume; 0 for everything else."""
    return int(resource.attributes.get("size_gb", "0"))


def _shelves(tags: Mapping[str, str]) -> list[str | None]:
    """The listings in which a thing with these tags stands; None is that of all things of ours."""
    shelves: list[str | None] = [None] if any(key.startswith(TAG_PREFIX) for key in tags) else []
    return [*shelves, tags[TAG_DEPLOYMENT]] if TAG_DEPLOYMENT in tags else shelves
