"""Frozen records that users see: flavors, images, quota, a deployment's configuration, a command's result.

They know nobody and do no I/O. Units are those of the source document: RAM in MB, disk in GB, cores as a number.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pileus.errors import BadCIDRError, ConfigError

Duration = float | int | timedelta
"""A span of time that a public call takes: seconds, or a `timedelta`."""


def seconds(duration: Duration, *, setting: str = "duration") -> float:
    """Give a duration in seconds.

    Raises:
        ConfigError: it is negative or not a number.
    """
    value = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
        raise ConfigError(
            f"{setting} must be a number of seconds or a timedelta, 0 or more, not {duration!r}", setting=setting
        )
    return float(value)


@dataclass(frozen=True, slots=True)
class Flavor:
    """A size of server that the provider offers.

    Attributes:
        cores: whole cores, at least 1.
        ram: MB.
        disk: GB of the root disk that comes with it; 0 for a flavor that boots from a volume only.
        price_per_hour: in the provider's currency, None when it is not known (never 0 for unknown).
        architecture: as the provider spells it (`x86_64`, `arm64`), or an empty string when it does not tell.
    """

    id: str
    name: str
    cores: int
    ram: int
    disk: int = 0
    price_per_hour: float | None = None
    architecture: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """Something that a server can boot from.

    Attributes:
        default_user: who logs in on it, or an empty string when the provider does not tell.
        min_disk: GB that its root disk must have at least.
        min_ram: MB that the flavor must have at least.
        created: when it was made, or None.
    """

    id: str
    name: str
    default_user: str = ""
    min_disk: int = 0
    min_ram: int = 0
    architecture: str = ""
    created: datetime | None = None


@dataclass(frozen=True, slots=True)
class Quota:
    """What the account may use, and uses; ints throughout, and a limit of 0 means unlimited.

    `max_ram` and `used_ram` are MB, `max_volume` and `used_volume` GB of volumes (on a provider whose servers' own disks
    count against a limit, those too).
    """

    max_ram: int = 0
    max_cores: int = 0
    max_instances: int = 0
    max_volume: int = 0
    used_ram: int = 0
    used_cores: int = 0
    used_instances: int = 0
    used_volume: int = 0


DEFAULT_CIDR = "192.168.0.0/18"


@dataclass(frozen=True, slots=True)
class DeployConfig:
    """What `deploy` makes, checked when it is constructed, before anything is asked of a cloud.

    Attributes:
        required_ports: TCP ports at which servers must be reachable from outside; empty for networks that have no
            security groups.
        use_config_drive: give new servers a configuration drive, for networks without DHCP.
        cidr: the subnet to make, or, on a server of the cloud, the existing one to use.
        gateway_ip: the made subnet's gateway; the first address of `cidr` when None.
        dns_name_servers: the made subnet's name servers.
        ports_open_to: the CIDR from which the required ports may be reached.
        max_servers: how many servers the deployment may have at once, 0 for no limit but the quota.

    Raises:
        BadCIDRError: `cidr` or `ports_open_to` is no network, or the gateway is not in `cidr`.
        ConfigError: a port is not between 1 and 65535, or a name server is no address.
    """

    required_ports: tuple[int, ...] = (22,)
    use_config_drive: bool = False
    cidr: str = DEFAULT_CIDR
    gateway_ip: str | None = None
    dns_name_servers: tuple[str, ...] = ("8.8.4.4", "8.8.8.8")
    ports_open_to: str = "0.0.0.0/0"
    max_servers: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "required_ports", tuple(self.required_ports))
        object.__setattr__(self, "dns_name_servers", tuple(self.dns_name_servers))
        for port in self.required_ports:
            if not isinstance(port, int) or not 1 <= port <= 65535:
                raise ConfigError(f"required_ports: {port!r} is not a port (1 to 65535)", setting="required_ports")
        network = network_of(self.cidr, "cidr")
        network_of(self.ports_open_to, "ports_open_to")
        if network.num_addresses < 8:
            raise BadCIDRError(
                f"cidr: {self.cidr} has no room for servers", setting="cidr", hint="use a prefix of /29 or shorter"
            )
        if self.gateway_ip is None:
            object.__setattr__(self, "gateway_ip", str(network[1]))
        elif _address(self.gateway_ip, "gateway_ip") not in network:
            raise BadCIDRError(f"gateway_ip: {self.gateway_ip} is not in cidr {self.cidr}", setting="gateway_ip")
        for server in self.dns_name_servers:
            _address(server, "dns_name_servers")
        if not isinstance(self.max_servers, int) or self.max_servers < 0:
            raise ConfigError("max_servers must be 0 (no limit) or more", setting="max_servers")


def network_of(cidr: str, setting: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Read a CIDR, refusing one with host bits set.

    Raises:
        BadCIDRError: it is not one.
    """
    try:
        return ipaddress.ip_network(cidr)
    except (ValueError, TypeError) as problem:
        raise BadCIDRError(
            f"{setting}: {cidr!r} is not a network: {problem}",
            setting=setting,
            hint="write an address and a prefix length, like 192.168.0.0/18",
        ) from None


def _address(text: str, setting: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except (ValueError, TypeError):
        raise ConfigError(f"{setting}: {text!r} is not an IP address", setting=setting) from None


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command did. Unpacks as `stdout, stderr`.

    Attributes:
        command: as it was given.
        stdout_bytes: what it wrote, exactly; empty for a background command or when it was streamed elsewhere.
        stderr_bytes: the same for standard error.
        exit_status: 0 to 255, or None when a signal ended it or it was started in the background.
        exit_signal: the signal's name without `SIG`, or None.
        duration_s: seconds from the request to its end.
        job_id: for a background command, the name of its directory under `~/.pileus/jobs` on the server.
    """

    command: str
    stdout_bytes: bytes = field(default=b"", repr=False)
    stderr_bytes: bytes = field(default=b"", repr=False)
    exit_status: int | None = 0
    exit_signal: str | None = None
    duration_s: float = 0.0
    job_id: str = ""

    @property
    def stdout(self) -> str:
        """Standard output as text; what is not UTF-8 is shown as replacement characters."""
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """Standard error as text, likewise."""
        return self.stderr_bytes.decode(errors="replace")

    @property
    def ok(self) -> bool:
        """Whether it ended with exit status 0 (or, in the background, was started)."""
        return self.exit_signal is None and (self.exit_status == 0 or bool(self.job_id))

    def __iter__(self) -> Iterator[str]:
        """Standard output, then standard error, as text."""
        yield self.stdout
        yield self.stderr


@dataclass(frozen=True, slots=True)
class BootTarget:
    """How the boot script finds its way on a server: empty `root` for a real machine, a tree for one that shares ours.

    The other fields are shell commands, empty for the real machine's own (found at run time).

    Attributes:
        root: put before every absolute path that the script writes; an absolute path without a slash at its end.
        keygen: makes a fresh ed25519 host key at the path given as `$1` (and `$1.pub`).
        reload_sshd: makes the SSH server read its host key anew; open connections stay.
        power_off: ends the server.
    """

    root: str = ""
    keygen: str = ""
    reload_sshd: str = ""
    power_off: str = ""


@dataclass(frozen=True, slots=True)
class ServerUsage:
    """How much of a server is taken, over all processes that use the deployment.

    Attributes:
        cores: allocated, may be fractional.
        ram_mb: allocated MB.
        disk_gb: allocated GB.
        busy: whether anything is allocated, running, being copied, or any session is open.
        idle_s: seconds since it fell idle, or None while it is busy.
    """

    cores: float = 0.0
    ram_mb: int = 0
    disk_gb: int = 0
    busy: bool = False
    idle_s: float | None = None


@dataclass(frozen=True, slots=True)
class AuditItem:
    """Something in the account that carries the tags of Pileus.

    Attributes:
        kind: `server`, or the driver's word for a resource.
        known: whether the state of this deployment has it.
        ours: whether it carries exactly this deployment's id.
        expires: when a reaper may delete it even though it runs, or None.
    """

    kind: str
    id: str
    name: str
    deployment_id: str
    resource_name: str
    owner: str
    status: str
    created: datetime | None = None
    expires: datetime | None = None
    known: bool = False
    ours: bool = False
