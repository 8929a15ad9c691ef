"""Looks at processes through `/proc`, and ends them without ever hitting a stranger that got the same number."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

MARKER = "PILEUS_SERVER"
"""The environment variable that each process of a server carries; its value is the server's id."""

_EXITING = 0x4  # PF_EXITING in the kernel's include/linux/sched.h


class Look(NamedTuple):
    """What `/proc/<pid>/stat` tells. `started` is in clock ticks since boot: with the pid it names a process for good."""

    state: str
    parent: int
    flags: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether it runs (or could run), and is not on its way out."""
        return self.state not in "ZXx" and not self.flags & _EXITING


def look(pid: int) -> Look | None:
    """How process `pid` is, or None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The second field is a name in parentheses, which may itself contain spaces and parentheses.
    fields = text[text.rindex(b")") + 2 :].split()
    return Look(fields[0].decode(), int(fields[1]), int(fields[6]), int(fields[19]))


def started(pid: int) -> int:
    """When process `pid` started, in clock ticks since boot; 0 when it is gone."""
    found = look(pid)
    return found.started if found else 0


def kill(pid: int, start: int, number: signal.Signals = signal.SIGKILL) -> bool:
    """Send a signal to the process that had number `pid` and started at `start`; False when that one is gone.

    The number cannot be given to another process between the look and the signal where the system has pidfds.
    """
    if pid <= 1:
        return False
    if not hasattr(os, "pidfd_open"):
        return _kill_plain(pid, start, number)
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if started(pid) != start:
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def _kill_plain(pid: int, start: int, number: signal.Signals) -> bool:
    if sys.platform == "linux" and started(pid) != start:
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def ours() -> Iterator[int]:
    """The numbers of all processes of this user that are visible here, this one excepted."""
    mine, uid = os.getpid(), os.geteuid()
    try:
        names = os.listdir("/proc")  # noqa: PTH208  (iterdir costs three times as much here)
    except OSError:
        return
    for name in names:
        if not name.isdecimal() or int(name) == mine:
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid == uid:  # noqa: PTH116
                yield int(name)
        except OSError:
            continue


def marked(server_id: str) -> set[int]:
    """The processes whose environment carries the server's mark."""
    wanted = f"{MARKER}={server_id}".encode()
    found = set()
    for pid in ours():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if wanted in environment.split(b"\0"):
            found.add(pid)
    return found


def descendants(roots: Iterable[int]) -> set[int]:
    """All children of `roots`, and theirs, at any depth; not `roots` themselves."""
    children: dict[int, list[int]] = {}
    for pid in ours():
        found = look(pid)
        if found is not None and found.state not in "ZXx":
            children.setdefault(found.parent, []).append(pid)
    result: set[int] = set()
    waiting = list(roots)
    while waiting:
        for child in children.get(waiting.pop(), []):
            if child not in result:
                result.add(child)
                waiting.append(child)
    return result


def end_leftovers(server_id: str, parent: int | None = None, timeout: float = 10.0) -> bool:
    """End whatever carries the server's mark or descends from process `parent`; True when nothing is left.

    Repeats until a look finds nothing, since what it kills may have forked in the meantime.
    """
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        found = {pid: started(pid) for pid in marked(server_id) | descendants([parent] if parent else [])}
        alive = {pid: start for pid, start in found.items() if start}
        if not alive:
            return True
        for pid, start in alive.items():
            kill(pid, start)
        _reap()
        time.sleep(0.002)
    return False


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
