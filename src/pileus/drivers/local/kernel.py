"""The system calls that Python 3.11 does not offer."""

from __future__ import annotations

import ctypes
import functools
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_RELATIME = 1 << 21

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` names. Needs a process with one thread.

    Raises:
        OSError: the system refuses; nothing has changed then.
    """
    _checked(_libc().unshare(flags), "unshare")


def mount(source: str, target: str, kind: str = "", flags: int = 0) -> None:
    """Mount `source` on `target`; `kind` is the file system's type, empty where the flags need none.

    Raises:
        OSError: the system refuses.
    """
    arguments = [os.fsencode(text) if text else None for text in (source, target, kind)]
    _checked(_libc().mount(*arguments, ctypes.c_ulong(flags), None), f"mount {target}")


def process_control(option: int, value: int | bytes) -> None:
    """Call `prctl` with one argument.

    Raises:
        OSError: the system refuses.
    """
    argument = value if isinstance(value, bytes) else ctypes.c_ulong(value)
    zero = ctypes.c_ulong(0)
    _checked(_libc().prctl(option, argument, zero, zero, zero), f"prctl {option}")
