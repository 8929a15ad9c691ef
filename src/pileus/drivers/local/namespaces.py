"""What keeps servers apart: which namespaces this system grants, and how a process gets into them.

A ladder, best first; what was obtained is shown to the user:

1. `namespaces`: own process tree, /tmp, IPC and host name. With a user namespace, in which we are who we are outside
   (as root all ids are mapped, so that files of others stay what they are); where root may not make one, without.
   When its first process ends, the kernel ends all others.
2. `subreaper`: orphans of a server become children of its keeper, which ends them.
3. `marker`: they are found by a variable in their environment.

This contains processes. It is no security boundary, and does not pretend to be one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pileus.drivers.local import kernel

_KINDS = kernel.CLONE_NEWPID | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS


@dataclass(frozen=True, slots=True)
class Way:
    """One way to keep a server apart.

    Attributes:
        level: one of `settings.LEVELS`.
        ids: with `namespaces`, how ids are mapped: `all` and `own` make a user namespace, `none` makes none.
    """

    level: str
    ids: str = ""


def ways(level: str, *, root: bool, linux: bool = sys.platform == "linux") -> list[Way]:
    """What to try for `auto` or one of `settings.LEVELS`, in order. Pure."""
    if not linux:
        return [Way("marker")] if level in ("auto", "marker") else []
    namespaces = [Way("namespaces", ids) for ids in (("all", "own", "none") if root else ("own",))]
    if level == "auto":
        return [*namespaces, Way("subreaper"), Way("marker")]
    return namespaces if level == "namespaces" else [Way(level)]


def leave(way: Way, map_all: Callable[[], bool]) -> None:
    """Move this process's children into namespaces of their own. `map_all` asks a process outside to map all ids.

    Raises:
        OSError: the system refuses. The process may be without a mapped identity then, and is of no use any more.
    """
    if way.ids == "none":
        kernel.unshare(_KINDS)
        return
    user_id, group_id = os.geteuid(), os.getegid()
    kernel.unshare(_KINDS | kernel.CLONE_NEWUSER)
    if way.ids == "all":
        if not map_all():
            raise PermissionError("the ids could not be mapped")
        return
    # Without giving up setgroups, an ordinary user may not map its group: user_namespaces(7).
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user_id} {user_id} 1")
    Path("/proc/self/gid_map").write_text(f"{group_id} {group_id} 1")


def map_all_ids(pid: int) -> bool:
    """As root, give all ids their own meaning in the new user namespace of process `pid`; False when refused."""
    try:
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{kind}").write_text("0 0 4294967295")
    except OSError:
        return False
    return True


def furnish(tree: Path, host_name: str, visible: Iterable[str], note: Callable[[str], None]) -> bool:
    """Give this first process of a new process tree its own /tmp, /proc, host name, and a read-only /etc.

    Each step may be refused (some containers do): then it is left out and `note` is told.

    Args:
        tree: the server's; its `tmp` becomes /tmp.
        host_name: shown by `hostname` in the server.
        visible: paths that stay reachable under their own name even if they lie below /tmp.
        note: takes one line.

    Returns:
        Whether /tmp is the server's own.
    """
    with _noting("host name", note):
        socket.sethostname(host_name)
    try:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    except OSError as problem:
        note(f"no mounts of its own: {problem}")
        return False
    own_tmp = False
    with _noting("own /tmp", note):
        _replace_tmp(tree, visible)
        own_tmp = True
    with _noting("own /proc", note):
        kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    with _noting("read-only /etc", note):
        kernel.mount("/etc", "/etc", flags=kernel.MS_BIND | kernel.MS_REC)
        kernel.mount("", "/etc", flags=kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | _locked_flags("/etc"))
    return own_tmp


@contextlib.contextmanager
def _noting(what: str, note: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        note(f"not granted here: {what}: {problem}")


def _replace_tmp(tree: Path, visible: Iterable[str]) -> None:
    hidden = os.path.realpath("/tmp")
    kept: dict[str, int] = {}
    for path in sorted({os.path.realpath(path) for path in [str(tree), *visible]}):
        inside = path.startswith(hidden + "/") and os.path.isdir(path)  # noqa: PTH112
        if inside and not any(path.startswith(above + "/") for above in kept):
            kept[path] = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    kernel.mount(str(tree / "tmp"), hidden, flags=kernel.MS_BIND | kernel.MS_REC)
    for path, handle in kept.items():
        os.makedirs(path, exist_ok=True)  # noqa: PTH103
        kernel.mount(f"/proc/self/fd/{handle}", path, flags=kernel.MS_BIND | kernel.MS_REC)
        os.close(handle)


def _locked_flags(path: str) -> int:
    """The flags of a mount that a less privileged namespace may not take away: mount_namespaces(7)."""
    found = os.statvfs(path).f_flag
    pairs = (
        (os.ST_NOSUID, kernel.MS_NOSUID),
        (os.ST_NODEV, kernel.MS_NODEV),
        (os.ST_NOEXEC, kernel.MS_NOEXEC),
        (os.ST_NOATIME, kernel.MS_NOATIME),
        (os.ST_NODIRATIME, kernel.MS_NODIRATIME),
        (os.ST_RELATIME, kernel.MS_RELATIME),
    )
    return sum(flag for shown, flag in pairs if found & shown)
