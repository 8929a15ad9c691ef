"""What this machine has to offer: flavors cut from it, the one image that it is, its limits."""

from __future__ import annotations

import functools
import math
import os
import platform
import pwd
import re
import shutil
from pathlib import Path

from pileus.models import Flavor, Image

GB = 1024**3


@functools.cache
def user_name() -> str:
    """Who we are, or `user` where the system has no name for us."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "user"


@functools.cache
def cores() -> int:
    """Cores that this process may use: what the machine has, less what its CPU mask and its control group withhold."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([count, *_group_cores()]))


@functools.cache
def ram_mb() -> int:
    """MB of memory that this process may use, by the machine and its control group."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min([total, *_group_memory()]) // 1024**2)


def disk_gb(directory: Path) -> tuple[int, int]:
    """GB in all and GB free of the file system that holds `directory`, which need not exist yet."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    usage = shutil.disk_usage(directory)
    return usage.total // GB, usage.free // GB


def _groups(controller: str) -> list[Path]:
    """The directories of our control groups that may limit `controller`, versions 1 and 2, and those above them."""
    found: list[Path] = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = Path("/sys/fs/cgroup") / (controller if controllers else "")
        place = base / path.lstrip("/")
        found += [place, *(above for above in place.parents if above.is_relative_to(base))]
    return found


def _read_numbers(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _group_cores() -> list[int]:
    result = []
    for group in _groups("cpu"):
        quota = _read_numbers(group / "cpu.max")  # "max 100000" or "150000 100000"
        if not quota:
            quota = _read_numbers(group / "cpu.cfs_quota_us") + _read_numbers(group / "cpu.cfs_period_us")
        if len(quota) == 2 and all(re.fullmatch(r"\d+", number) for number in quota) and int(quota[1]):
            result.append(math.ceil(int(quota[0]) / int(quota[1])))
    return result


def _group_memory() -> list[int]:
    result = []
    for group in _groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            result += [int(text) for text in _read_numbers(group / name) if text.isdecimal() and int(text) > 0]
    return result


def flavors(host_cores: int, host_ram_mb: int, disk_total_gb: int) -> list[Flavor]:
    """A catalogue for such a machine: 1, 2, 4, … cores and the whole machine, memory in proportion. Pure.

    The disk is a tenth of what an equal share would be, at most 10 GB a core: servers share one file system, and a
    larger disk is asked for as such.
    """
    sizes = sorted({*(2**power for power in range(host_cores.bit_length())), host_cores})
    disk = max(1, min(10, disk_total_gb // (10 * host_cores)))
    return [
        Flavor(
            id=f"local-{size}",
            name=f"local-{size}",
            cores=size,
            ram=max(1, host_ram_mb * size // host_cores),
            disk=disk * size,
            architecture=platform.machine(),
        )
        for size in sizes
    ]


@functools.cache
def image() -> Image:
    """This machine as an image: its id is like `debian-12`, its name like `Debian GNU/Linux 12 (bookworm)`."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {"ID": platform.system().lower() or "host", "VERSION_ID": platform.release()}
    short = "-".join(part for part in (release.get("ID", "linux"), release.get("VERSION_ID", "")) if part)
    name = release.get("PRETTY_NAME") or short
    return Image(id=short, name=name, default_user=user_name(), architecture=platform.machine())
