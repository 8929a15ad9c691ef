"""What the state keeps, as frozen records, and the exact arithmetic of cores.

Times of day are seconds since the epoch; idle moments are seconds of the monotonic clock, which mean something only together
with the id of the boot in which they were read. Mappings hold what JSON can hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pileus.errors import ConfigError

if TYPE_CHECKING:
    from decimal import Decimal
    from fractions import Fraction

NANO = 10**9
"""Parts into which a core is cut: allocations are counted in whole ones."""

DEPLOYMENT_STATUSES = ("deploying", "deployed", "tearing-down", "gone")
INTENT_STATUSES = ("open", "done", "failed")
SERVER_STATUSES = ("spawned", "ready", "destroying", "destroyed")


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment: what it is called, what it was made with, and its keys.

    Attributes:
        id: what the cloud records as the owner of everything; never used for a second deployment.
        owner: who deployed, as `user@host`.
        created: epoch seconds.
        status: `deploying`, `deployed`, `tearing-down` or `gone`.
        config: the fields of its `DeployConfig`.
        public_key: one OpenSSH line.
        private_key: PEM. A secret.
    """

    id: str
    provider: str
    resource_name: str
    owner: str = ""
    created: float = 0.0
    status: str = "deploying"
    config: Mapping[str, Any] = field(default_factory=dict)
    public_key: str = ""
    private_key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Intent:
    """The wish for one thing, on disk before the cloud hears of it.

    Attributes:
        kind: `server`, or a driver's word for another kind of thing.
        name: the name that the thing will have.
        request_id: the id of the call that asks for it.
        session: whose wish it is.
        created: epoch seconds.
        deadline: epoch seconds when the request must have been answered; until then, and for as long after it as the
            cloud's listing may lag, an unlisted thing may still appear.
        payload: whatever is known beforehand; for a server also `cores`, `ram` (MB) and `disk` (GB). May hold secrets.
        status: `open` until its outcome is known, then `done` or `failed`.
        resource_id: the cloud's id of the thing, once known.
        detail: why it failed, for people.
    """

    id: str
    kind: str
    name: str
    request_id: str = ""
    session: str = ""
    created: float = 0.0
    deadline: float = 0.0
    payload: Mapping[str, Any] = field(default_factory=dict, repr=False)
    status: str = "open"
    resource_id: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ResourceRow:
    """A thing other than a server that the deployment made. `kind` and `id` together name it."""

    kind: str
    id: str
    name: str = ""
    intent_id: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServerRow:
    """One server.

    Attributes:
        id: the cloud's id.
        flavor: the fields of its `Flavor`; `cores` and `ram` (MB) bound what can be allocated on it.
        disk_gb: GB of its root disk; bounds what can be allocated too.
        ttd_s: seconds of idleness after which it goes, 0 for never.
        external: it was asked for with an external IP.
        admin_pass: a secret.
        host_keys: the OpenSSH public lines that are trusted now.
        boot_key: True while the trusted key is the one that came by user-data.
        created: epoch seconds.
        status: `spawned`, `ready`, `destroying` or `destroyed`.
        idle_since: seconds of the monotonic clock of the boot `boot_id`, None while it is in use or was never used.
        max_lifetime_s: seconds after `created` past which it may be deleted even while it runs, 0 for never.
    """

    id: str
    intent_id: str
    name: str
    os: str = ""
    image_id: str = ""
    user_name: str = ""
    flavor: Mapping[str, Any] = field(default_factory=dict)
    disk_gb: int = 0
    ttd_s: float = 0.0
    external: bool = False
    is_head_node: bool = False
    ip: str = ""
    ssh_port: int = 22
    admin_pass: str = field(default="", repr=False)
    host_keys: tuple[str, ...] = ()
    boot_key: bool = False
    script: bytes = field(default=b"", repr=False)
    config_files: str = ""
    created: float = 0.0
    status: str = "spawned"
    bad: bool = False
    permanent_problem: str = ""
    idle_since: float | None = None
    boot_id: str = ""
    shared_disk: bool = False
    max_lifetime_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What all live sessions together hold of one server.

    Attributes:
        nano_cores: thousand-millionths of a core.
        allocations: how many allocations that is; also those of nothing at all count.
        uses: running commands, transfers and open sessions.
    """

    server_id: str
    nano_cores: int = 0
    ram_mb: int = 0
    disk_gb: int = 0
    allocations: int = 0
    uses: int = 0

    @property
    def in_use(self) -> bool:
        """Whether anything at all keeps the server from being idle."""
        return self.allocations > 0 or self.uses > 0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `time` is epoch seconds, `kind` a short word, `subject` the id or name it happened to."""

    time: float
    kind: str
    subject: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of an intent, and the row of the thing that it made, if it did.

    Attributes:
        status: `done` or `failed`.
    """

    intent_id: str
    status: str
    resource_id: str = ""
    detail: str = ""
    server: ServerRow | None = None
    resource: ResourceRow | None = None


def nano_cores(cores: float | int | Decimal | Fraction) -> int:
    """Cut a number of cores into whole thousand-millionths, so that sums are exact.

    A float stands for the shortest decimal that reads back as it, as it is printed: ten times 0.1 is one core. What is smaller
    than a part is cut off, so three times a third fits one core.

    Raises:
        ConfigError: it is negative, infinite or not a number.
    """
    from decimal import ROUND_FLOOR, Context, Decimal, InvalidOperation
    from fractions import Fraction

    try:
        if isinstance(cores, bool):
            raise TypeError
        if isinstance(cores, int):
            parts = cores * NANO
        elif isinstance(cores, Fraction):
            parts = cores.numerator * NANO // cores.denominator
        else:
            exact = cores if isinstance(cores, Decimal) else Decimal(float.__repr__(cores))
            # The default context rounds to 28 digits, up as well as down; this one cuts.
            parts = int(Context(prec=60, rounding=ROUND_FLOOR).scaleb(exact, 9).__floor__())
    except (TypeError, ValueError, OverflowError, InvalidOperation):
        raise ConfigError(f"cores must be a number, not {cores!r}", setting="cores") from None
    if not 0 <= parts < 2**62:
        raise ConfigError(f"cores must be 0 or more, and not absurd, not {cores!r}", setting="cores")
    return parts
