"""Who holds a lock, and in which boot of the machine we are: what the kernel can tell."""

from __future__ import annotations

import os
import shlex
from functools import cache
from pathlib import Path

WAL_WRITER_BYTE = 120
"""The byte of the `-shm` file that a writer locks in WAL mode (https://www.sqlite.org/walformat.html, "WAL Locks")."""

ROLLBACK_BYTES = (0x40000000, 0x40000001)
"""The bytes of the database that a writer locks without WAL: pending and reserved (https://www.sqlite.org/lockingv3.html)."""


@cache
def boot_id() -> str:
    """This boot of this machine; moments of the monotonic clock mean nothing in another. Empty where it is not told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def describe(pid: int) -> str:
    """Name a process for people: its pid and its command line, as far as the kernel tells."""
    if pid == os.getpid():
        return f"this process itself (pid {pid}), in another thread or another Store"
    if pid <= 0:
        return "a process that is not visible from here (in another container?)"
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return f"process {pid}"
    command = shlex.join(word.decode(errors="replace") for word in words)
    return f"process {pid} ({command[:200]})" if command else f"process {pid}"


def writers(path: Path) -> list[int]:
    """The processes that hold the write lock of the database at `path`; empty when that is not known.

    They are looked up in /proc/locks by inode: to open the file and ask would, on closing it, drop every lock that this
    process itself has on it.
    """
    try:
        table = Path("/proc/locks").read_text()
    except OSError:
        return []
    found = []
    places = [(path.with_name(path.name + "-shm"), WAL_WRITER_BYTE), *((path, byte) for byte in ROLLBACK_BYTES)]
    for file, byte in places:
        try:
            status = file.stat()
        except OSError:
            continue
        found += holders_in(table, status.st_ino, os.major(status.st_dev), os.minor(status.st_dev), byte)
    return list(dict.fromkeys(found))


def holders_in(table: str, inode: int, major: int, minor: int, byte: int) -> list[int]:
    """Find in the text of /proc/locks who holds a write lock on one byte of a file. Pure.

    Some file systems (btrfs, overlayfs) show programs another device number than the lock table has: when no line matches
    the device, the inode alone decides.
    """
    exact: list[int] = []
    loose: list[int] = []
    for line in table.splitlines():
        fields = line.split()
        # A line of one who waits has an arrow, which shifts its columns: it does not pass either.
        if len(fields) < 8 or fields[3] != "WRITE" or fields[5].count(":") != 2:
            continue
        its_major, its_minor, its_inode = fields[5].split(":")
        last = 2**63 if fields[7] == "EOF" else int(fields[7])
        if int(its_inode) != inode or not int(fields[6]) <= byte <= last:
            continue
        same = (int(its_major, 16), int(its_minor, 16)) == (major, minor)
        (exact if same else loose).append(int(fields[4]))
    return exact or loose
