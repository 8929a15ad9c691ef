"""Room on a server, and which sizes can be meant at all."""

from __future__ import annotations

from pileus.errors import ConfigError

UNBOUNDED = 10_000
"""How many commands that need nothing at all (no cores, RAM or disk) are said to fit on one server. Something finite, since
callers start that many; more than any one machine runs at once."""

MOST_CORES = 1_000_000
MOST_RAM_MB = 1_000_000_000
MOST_DISK_GB = 1_000_000_000
"""Beyond these, a unit was mistaken (bytes for MB); refused rather than looked for."""


def how_many(free_nano: int, free_ram: int, free_disk: int, nano: int, ram: int, disk: int) -> int:
    """Tell how many commands of one kind fit into what is free.

    What a command does not need does not limit it: zero-core work fits as often as its RAM and disk allow, also where the
    cores are all taken or overdrawn. A command that needs nothing fits `UNBOUNDED` times.

    Args:
        free_nano: free cores, in billionths; like the others it may be negative, when more is taken than there is.
        free_ram: free MB.
        free_disk: free GB.
        nano: cores of one command, in billionths, 0 or more.
        ram: MB of one command, 0 or more.
        disk: GB of one command, 0 or more.

    Raises:
        ConfigError: a need is negative.
    """
    needs = ((free_nano, nano, "cores"), (free_ram, ram, "ram_mb"), (free_disk, disk, "disk_gb"))
    for _, need, setting in needs:
        if need < 0:
            raise ConfigError(f"{setting} must be 0 or more", setting=setting)
    return min((max(0, free) // need for free, need, _ in needs if need), default=UNBOUNDED)


def check_cores(cores: float) -> float:
    """Give a number of cores back when it can be meant: 0 or more, fractions allowed.

    Raises:
        ConfigError: it is negative, not a finite number, or absurd.
    """
    if isinstance(cores, bool) or not isinstance(cores, int | float) or cores != cores or cores < 0:
        raise ConfigError(f"cores must be a number, 0 or more, not {cores!r}", setting="cores")
    _check_most(cores, MOST_CORES, "cores", "cores")
    return cores


def check_ram(ram_mb: int) -> int:
    """Give MB of RAM back when they can be meant: a whole number, 0 or more.

    Raises:
        ConfigError: they are negative, no whole number, or absurd.
    """
    return _whole(ram_mb, MOST_RAM_MB, "ram_mb", "MB")


def check_disk(disk_gb: int) -> int:
    """Give GB of disk back when they can be meant: a whole number, 0 or more.

    Raises:
        ConfigError: they are negative, no whole number, or absurd.
    """
    return _whole(disk_gb, MOST_DISK_GB, "disk_gb", "GB")


def _whole(value: int, most: int, setting: str, unit: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{setting} must be a whole number of {unit}, 0 or more, not {value!r}", setting=setting)
    _check_most(value, most, setting, unit)
    return value


def _check_most(value: float, most: int, setting: str, unit: str) -> None:
    if value > most:
        raise ConfigError(
            f"{setting}: no server has more than {most} {unit}",
            setting=setting,
            hint="RAM is given in MB and disk in GB",
        )
