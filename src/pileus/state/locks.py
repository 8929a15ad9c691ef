"""Locks that the kernel frees when their process ends, however it ends: for the liveness of sessions, and for operations.

They are POSIX record locks on single bytes of one file beside the state, `<path>.sessions`, which stays empty. Such locks
belong to a process (a fork does not inherit them), and they have two traps, for which this module exists:

- Closing *any* descriptor of a file drops *all* locks that the process has on it. So a process opens the file once, whatever the
  number of its Stores, and closes it when nothing needs it any more.
- A process never conflicts with itself. So which bytes are ours is known from memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from pileus.errors import StateLockedError, UsageError
from pileus.state.filesystem import unwritable
from pileus.state.holders import describe

_SESSIONS_AT = 1 << 50
_OPERATIONS_AT = 1 << 40
_SESSION_DIGITS = 12

# `struct flock`: type, whence, start, length, pid; or start, length, pid, type, whence.
_BSD = sys.platform != "linux"
_FLOCK = "@qqihh" if _BSD else "@hhqqi0q"

POLL_S = 0.05
"""Seconds between two looks at an operation lock that somebody else holds."""


def new_session_id() -> str:
    """An id that no other session ever has."""
    return os.urandom(_SESSION_DIGITS // 2).hex()


def session_byte(session: str) -> int:
    """Which byte a session locks, -1 for what is no session's id."""
    try:
        return _SESSIONS_AT + int(session, 16) if len(session) == _SESSION_DIGITS else -1
    except ValueError:
        return -1


def operation_byte(name: str) -> int:
    """Which byte an operation locks."""
    return _OPERATIONS_AT + zlib.crc32(name.encode())


class LockFile:
    """The one descriptor that this process has on a lock file. Get it from `acquire`, give it back with `let_go`."""

    def __init__(self, handle: int, path: Path, inode: tuple[int, int]) -> None:
        self.path = path
        self._handle = handle
        self._inode = inode
        self._users = 0
        self._held: set[int] = set()
        self._forked = False

    @classmethod
    def acquire(cls, path: Path) -> LockFile:
        """Open the lock file, or take the one that is open already.

        Raises:
            StateError: it cannot be made or written.
        """
        with _mutex:
            try:
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    known = _open_files.get((status.st_dev, status.st_ino))
                    if known is not None:
                        known._users += 1
                        return known
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as problem:
                raise unwritable(path, problem) from problem
            status = os.fstat(handle)
            inode = (status.st_dev, status.st_ino)
            if inode in _open_files:
                # It was swapped between the two looks. Closing this descriptor would drop the locks: rather leak it.
                known = _open_files[inode]
            else:
                known = _open_files[inode] = cls(handle, path, inode)
            known._users += 1
            return known

    def let_go(self) -> None:
        """Be one user fewer; the last one's leaving closes the file, and with it drops every lock."""
        with _mutex:
            self._users -= 1
            if self._users <= 0 and not self._forked and _open_files.get(self._inode) is self:
                del _open_files[self._inode]
                os.close(self._handle)

    def try_lock(self, byte: int) -> bool:
        """Take a byte, unless another process or another user in this one has it."""
        with _mutex:
            self._check()
            if byte in self._held:
                return False
            try:
                fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            except (BlockingIOError, PermissionError):
                return False
            self._held.add(byte)
            return True

    def unlock(self, byte: int) -> None:
        """Give a byte back; nothing happens when it is not ours."""
        with _mutex:
            if byte in self._held and not self._forked:
                self._held.discard(byte)
                fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, byte)

    def is_ours(self, byte: int) -> bool:
        """Whether this process holds a byte; no I/O."""
        return byte in self._held and not self._forked

    def holder(self, byte: int) -> int | None:
        """The pid of the process that holds a byte (ours too; 0 when it is not visible from here), or None for nobody.

        Only asks the kernel: nothing is locked for it even for a moment, which others could mistake for life.
        """
        with _mutex:
            self._check()
            if byte in self._held:
                return os.getpid()
            if _BSD:
                asked = struct.pack(_FLOCK, byte, 1, 0, fcntl.F_WRLCK, os.SEEK_SET)
                _, _, pid, kind, _ = struct.unpack(_FLOCK, fcntl.fcntl(self._handle, fcntl.F_GETLK, asked))
            else:
                asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
                kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(self._handle, fcntl.F_GETLK, asked))
            return None if kind == fcntl.F_UNLCK else max(0, int(pid))

    def _check(self) -> None:
        if self._forked:
            raise UsageError(
                "this Store was opened before a fork, and its locks stayed with the parent",
                hint="open a new Store, or make a new Provider, in the child process",
            )


class OperationLock:
    """An exclusive lock on one kind of operation (`deploy`, …), over all processes and threads. Not reentrant.

    It is freed by the kernel when its process dies.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._path = path
        self._byte = operation_byte(name)
        self._file: LockFile | None = None

    def try_acquire(self) -> bool:
        """Take it now or not at all."""
        file = LockFile.acquire(self._path)
        if file.try_lock(self._byte):
            self._file = file
            return True
        file.let_go()
        return False

    def release(self) -> None:
        """Give it back; safe to repeat."""
        file, self._file = self._file, None
        if file is not None:
            file.unlock(self._byte)
            file.let_go()

    def refusal(self, timeout_s: float) -> StateLockedError:
        """The error that names who holds it."""
        file = LockFile.acquire(self._path)
        try:
            pid = file.holder(self._byte)
        finally:
            file.let_go()
        who = "another process, which has just ended" if pid is None else describe(pid)
        return StateLockedError(
            f"{self._path}: {self.name} is going on already: {who} holds its lock, also after {timeout_s:g} s",
            path=str(self._path),
            hint="wait until it is done, or end that process",
        )

    @contextlib.contextmanager
    def held(self, timeout_s: float) -> Iterator[None]:
        """Hold it for the body, after waiting for it up to `timeout_s` seconds (blocks).

        Raises:
            StateLockedError: it is still held by another.
        """
        deadline = time.monotonic() + timeout_s
        while not self.try_acquire():
            if time.monotonic() >= deadline:
                raise self.refusal(timeout_s)
            time.sleep(POLL_S)
        try:
            yield
        finally:
            self.release()


_mutex = threading.RLock()
_open_files: dict[tuple[int, int], LockFile] = {}


def _after_fork_in_child() -> None:
    """Locks stay with the parent: what the child has of them is worth nothing."""
    global _mutex
    _mutex = threading.RLock()  # the parent's may have been held by a thread that does not exist here
    for file in _open_files.values():
        file._forked = True
        with contextlib.suppress(OSError):
            os.close(file._handle)
    _open_files.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
