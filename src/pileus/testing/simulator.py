"""The driver of simulated clouds, registered as provider `simulator`.

Without further settings the cloud lives in this process, found by its name, so that everything in one process that names
the same cloud shares it. With `url` (or `PILEUS_SIMULATOR_URL`) it is one that runs as a process of its own, see
`pileus.testing.simulator_process`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from pileus.drivers.base import (
    Call,
    Capabilities,
    CheckItem,
    Driver,
    Outcome,
    PlannedResource,
    Resource,
    ResourceRequest,
    ServerRecord,
    ServerRequest,
)
from pileus.errors import ConfigError, PileusError
from pileus.models import DeployConfig, Flavor, Image, Quota
from pileus.testing.clock import TimeSource
from pileus.testing.cloud import SimulatedCloud

URL_VARIABLE = "PILEUS_SIMULATOR_URL"
CLOUD_NUMBERS = ("boot_s", "delete_s", "listing_lag_s", "latency_s")
"""Settings of a cloud, in seconds."""
LIMITS = ("max_instances", "max_cores", "max_ram", "max_volume")
"""Settings of its quota, whole numbers."""
DRIVER_NUMBERS = ("poll_interval_s", "request_timeout_s", "max_batch")

_clouds: dict[str, SimulatedCloud] = {}
_clouds_lock = threading.Lock()


class Cloud(Protocol):
    """What the driver asks of a cloud; here or in another process."""

    @property
    def listing_lag_s(self) -> float:  # noqa: D102
        ...

    def flavors(self, call: Call) -> list[Flavor]: ...  # noqa: D102
    def images(self, call: Call) -> list[Image]: ...  # noqa: D102
    def quota(self, call: Call) -> Quota: ...  # noqa: D102
    def ping(self, call: Call) -> None: ...  # noqa: D102
    def create_resource(self, request: ResourceRequest, call: Call) -> Resource: ...  # noqa: D102
    def list_resources(self, deployment_id: str | None, call: Call) -> list[Resource]: ...  # noqa: D102
    def delete_resource(self, id: str, call: Call) -> None: ...  # noqa: D102
    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]: ...  # noqa: D102
    def list_servers(self, deployment_id: str | None, call: Call) -> list[ServerRecord]: ...  # noqa: D102
    def delete_servers(self, ids: Sequence[str], call: Call) -> list[Outcome]: ...  # noqa: D102
    def console(self, id: str, call: Call) -> str: ...  # noqa: D102


def cloud_named(name: str = "default", **options: Any) -> SimulatedCloud:
    """The cloud of that name in this process, made with `options` (those of `SimulatedCloud`) if there is none yet."""
    with _clouds_lock:
        if name not in _clouds:
            _clouds[name] = SimulatedCloud(**options)
        return _clouds[name]


def forget_cloud(name: str) -> None:
    """Let the name be free for a new cloud; drivers that use the old one keep it."""
    with _clouds_lock:
        _clouds.pop(name, None)


@contextmanager
def simulated_cloud(name: str = "default", clock: TimeSource | None = None, **options: Any) -> Iterator[SimulatedCloud]:
    """A new cloud under that name for the length of the block.

    Raises:
        ConfigError: there is one of that name already.
    """
    cloud = SimulatedCloud(clock, **options)
    with _clouds_lock:
        if name in _clouds:
            raise ConfigError(f"there is a simulated cloud {name!r} already", setting="cloud")
        _clouds[name] = cloud
    try:
        yield cloud
    finally:
        forget_cloud(name)


class SimulatorDriver(Driver):
    """A driver whose cloud is simulated.

    Settings, all text: `cloud` (a name, `default` when not given) or `url`; `poll_interval_s`, `request_timeout_s` and
    `max_batch` for what the driver declares; and for a cloud that this driver is the first to name, `boot_s`, `delete_s`,
    `listing_lag_s`, `latency_s` and the quota's `max_instances`, `max_cores`, `max_ram` and `max_volume`.
    """

    name = "simulator"
    maybe_env = (URL_VARIABLE,)
    deletion_order = ("volume", "network", "firewall", "keypair")

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(settings)
        known = {"cloud", "url", *CLOUD_NUMBERS, *LIMITS, *DRIVER_NUMBERS}
        if unknown := sorted(set(self.settings) - known):
            raise ConfigError(
                f"the simulator has no setting {unknown[0]!r}",
                setting=unknown[0],
                provider=self.name,
                hint=f"use one of {', '.join(sorted(known))}",
            )
        numbers = {name: _number(name, self.settings[name]) for name in self.settings if name not in ("cloud", "url")}
        url = self.settings.get("url") or ("" if "cloud" in self.settings else os.environ.get(URL_VARIABLE, ""))
        self.cloud: Cloud = self._remote(url) if url else self._local(numbers)
        self._capabilities = Capabilities(
            volumes=True,
            external_ips=True,
            console=True,
            prices=True,
            max_batch=int(numbers.get("max_batch", 1000)),
            poll_interval_s=numbers.get("poll_interval_s", 1.0),
            listing_lag_s=self.cloud.listing_lag_s,
            request_timeout_s=numbers.get("request_timeout_s", 120.0),
            isolation="simulated: nothing runs",
        )

    def _local(self, numbers: Mapping[str, float]) -> Cloud:
        options: dict[str, Any] = {name: numbers[name] for name in CLOUD_NUMBERS if name in numbers}
        limits = Quota(**{name: int(numbers[name]) for name in LIMITS if name in numbers})
        return cloud_named(self.settings.get("cloud", "default"), limits=limits, **options)

    def _remote(self, url: str) -> Cloud:
        from pileus.testing.remote_cloud import RemoteCloud

        return RemoteCloud(url)

    @property
    def capabilities(self) -> Capabilities:
        """Volumes, external addresses, consoles and prices; the lag is the cloud's."""
        return self._capabilities

    def flavors(self, call: Call) -> list[Flavor]:
        """All flavors of the cloud."""
        return self.cloud.flavors(call)

    def images(self, call: Call) -> list[Image]:
        """All images of the cloud."""
        return self.cloud.images(call)

    def quota(self, call: Call) -> Quota:
        """Limits and use of the account."""
        return self.cloud.quota(call)

    def check(self, call: Call) -> list[CheckItem]:
        """Whether the cloud answers."""
        try:
            self.cloud.ping(call)
        except PileusError as problem:
            return [CheckItem("simulated cloud", False, problem.message, problem.hint)]
        return [CheckItem("simulated cloud", True, "answers")]

    def plan(self, config: DeployConfig, public_key: str) -> list[PlannedResource]:
        """A key pair, a firewall and a network."""
        return [
            PlannedResource("keypair", "key", {"public_key": public_key}),
            PlannedResource("firewall", "firewall", {"ports": list(config.required_ports)}),
            PlannedResource("network", "network", {"cidr": config.cidr}),
        ]

    def server_parts(self, request: ServerRequest) -> list[PlannedResource]:
        """A volume to boot from, where the disk is larger than the flavor's."""
        if request.disk_gb <= request.flavor.disk:
            return []
        return [PlannedResource("volume", "boot", {"size_gb": request.disk_gb})]

    def create_resource(self, request: ResourceRequest, made: Mapping[str, Resource], call: Call) -> Resource:
        """Make one; it needs nothing of those made before."""
        return self.cloud.create_resource(request, call)

    def list_resources(self, deployment_id: str | None, call: Call) -> list[Resource]:
        """Those of a deployment, or all of ours."""
        return self.cloud.list_resources(deployment_id, call)

    def delete_resource(self, resource: Resource, call: Call) -> None:
        """Gone at once, unless a server uses it: then a `ProviderError`."""
        self.cloud.delete_resource(resource.id, call)

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:
        """One call, whatever the number."""
        return self.cloud.create_servers(requests, call)

    def list_servers(self, deployment_id: str | None, call: Call) -> list[ServerRecord]:
        """One call, whatever the number."""
        return self.cloud.list_servers(deployment_id, call)

    def delete_servers(self, ids: Sequence[str], call: Call) -> list[Outcome]:
        """One call, whatever the number; boot volumes go with their servers."""
        return self.cloud.delete_servers(ids, call)

    def console(self, id: str, call: Call) -> str:
        """A few lines of no meaning."""
        return self.cloud.console(id, call)

    def close(self) -> None:
        """Close connections; the cloud goes on."""
        close = getattr(self.cloud, "close", None)
        if close is not None:
            close()


def _number(setting: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    whole = setting in LIMITS or setting == "max_batch"
    if not 0 <= value < float("inf") or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number of seconds"
        raise ConfigError(f"{setting} must be {kind}, 0 or more, not {text!r}", setting=setting, provider="simulator")
    return value
