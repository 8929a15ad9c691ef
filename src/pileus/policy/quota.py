"""Whether what is wanted fits into the account's quota and the deployment's own limit."""

from __future__ import annotations

from dataclasses import dataclass

from pileus.errors import QuotaError
from pileus.models import Quota


@dataclass(frozen=True, slots=True)
class Need:
    """What servers take from a quota: whole cores and MB of their flavors, their number, GB of their volumes."""

    cores: int = 0
    ram_mb: int = 0
    instances: int = 0
    volume_gb: int = 0

    def __add__(self, other: Need) -> Need:
        """Both together."""
        return Need(
            self.cores + other.cores,
            self.ram_mb + other.ram_mb,
            self.instances + other.instances,
            self.volume_gb + other.volume_gb,
        )

    def __mul__(self, times: int) -> Need:
        """The same several times."""
        return Need(self.cores * times, self.ram_mb * times, self.instances * times, self.volume_gb * times)


def check(quota: Quota, intended: Need, wanted: Need) -> None:
    """Return when `wanted` fits.

    A limit of 0 is none. What is not wanted is not checked: an account that is over its volume limit can still have a
    server without a volume.

    Args:
        quota: limits and use as the cloud tells them.
        intended: what was asked for already but may not be in the cloud's figures yet.
        wanted: what is to be asked for now.

    Raises:
        QuotaError: a limit would be passed; the message has every such limit with its numbers.
    """
    limits = (
        ("instances", "", quota.max_instances, quota.used_instances, intended.instances, wanted.instances),
        ("cores", "", quota.max_cores, quota.used_cores, intended.cores, wanted.cores),
        ("RAM", " MB", quota.max_ram, quota.used_ram, intended.ram_mb, wanted.ram_mb),
        ("volume storage", " GB", quota.max_volume, quota.used_volume, intended.volume_gb, wanted.volume_gb),
    )
    passed = [
        f"{name}: {want}{unit} wanted, {max(0, most - used - promised)}{unit} left of {most}{unit}"
        + (f" ({used} in use, {promised} just asked for)" if promised else f" ({used} in use)")
        for name, unit, most, used, promised, want in limits
        if most > 0 and want > 0 and used + promised + want > most
    ]
    if passed:
        raise QuotaError(
            f"the account's quota does not allow this: {'; '.join(passed)}",
            hint="destroy what is not needed (`pileus audit --all` lists what there is), choose a smaller flavor, or have the quota raised",
        )


def check_max_servers(max_servers: int, existing: int, wanted: int) -> None:
    """Return when the deployment may have `wanted` more servers besides the `existing` (and just asked for) ones.

    Raises:
        QuotaError: `max_servers`, unless it is 0, would be passed.
    """
    if max_servers > 0 and wanted > 0 and existing + wanted > max_servers:
        raise QuotaError(
            f"the deployment's max_servers is {max_servers}: it has {existing}, and {wanted} more are wanted",
            hint="destroy a server, or deploy with a larger max_servers",
        )
