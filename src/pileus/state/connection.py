"""One SQLite connection: transactions, errors in our words, and what may not be done with it."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pileus.errors import StateDamagedError, StateError, StateLockedError, UsageError
from pileus.state.filesystem import MOVE_AWAY
from pileus.state.holders import describe, writers
from pileus.state.locks import LockFile, session_byte


class Connection:
    """What the parts of `Store` stand on. May be used by several threads, one after another; not after a fork."""

    def __init__(self, db: sqlite3.Connection, path: Path, locks: LockFile, busy_timeout_s: float) -> None:
        self.path = path
        self.busy_timeout_s = busy_timeout_s
        self.commits = 0
        """How many transactions this Store has committed: each is one wait for the disk."""
        self._db = db
        self._locks = locks
        self._lock = threading.RLock()
        self._depth = 0
        self._pid = os.getpid()
        self._closed = False
        self._sessions: set[str] = set()

    # --- transactions ---

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything in the body happen as a whole, or not at all when it raises; on disk when this ends.

        Takes the write lock at once, so what is read in the body is still true when it is written. Within another
        transaction it is a part of that one: an error undoes the part, and the whole is committed by the outermost.

        Raises:
            StateLockedError: another process held the write lock for the whole of `busy_timeout_s`.
        """
        with self._lock:
            depth = self._depth
            self._run("BEGIN IMMEDIATE" if depth == 0 else f"SAVEPOINT part{depth}")
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth = depth
                self._undo(depth)
                raise
            self._depth = depth
            try:
                self._run("COMMIT" if depth == 0 else f"RELEASE part{depth}")
            except StateError:
                self._undo(depth)
                raise
            self.commits += depth == 0

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open on this connection."""
        return self._db.in_transaction

    def _undo(self, depth: int) -> None:
        # A full disk has SQLite end the whole transaction by itself; there is nothing left to undo then.
        if not self._db.in_transaction:
            return
        if depth == 0:
            self._run("ROLLBACK")
        else:
            self._run(f"ROLLBACK TO part{depth}")
            self._run(f"RELEASE part{depth}")

    # --- statements ---

    def _run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Execute one statement; the number of rows that it changed."""
        with self._lock:
            self._check()
            with explained(self.path, self.busy_timeout_s):
                return self._db.execute(sql, values).rowcount

    def _run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        with self._lock:
            self._check()
            with explained(self.path, self.busy_timeout_s):
                self._db.executemany(sql, rows)

    def _all(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            self._check()
            with explained(self.path, self.busy_timeout_s):
                return self._db.execute(sql, values).fetchall()

    def _one(self, sql: str, values: Sequence[Any] = ()) -> Any:
        """The first row, or None."""
        rows = self._all(sql, values)
        return rows[0] if rows else None

    def _read(self, text: str) -> Any:
        """Read a JSON column."""
        try:
            return json.loads(text)
        except ValueError as problem:
            raise damaged(self.path, f"a column that should hold JSON does not ({problem})") from problem

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise UsageError(
                f"{self.path}: this Store was opened before a fork, and cannot be used in the child",
                hint="open a new Store, or make a new Provider, in the child process",
            )
        if self._closed:
            raise UsageError(f"{self.path}: this Store is closed", hint="open it again")
        if self._depth and not self._db.in_transaction:
            # SQLite ended it by itself (a full disk), and whoever began it went on: what followed would be committed alone.
            raise StateError(
                f"{self.path}: the transaction has failed, nothing more can be written in it", path=str(self.path)
            )

    # --- sessions, as far as all parts need them ---

    def _is_live(self, session: str) -> bool:
        """Whether a session's process still lives; asks the kernel, not the database."""
        byte = session_byte(session)
        return byte >= 0 and self._locks.holder(byte) is not None

    def close(self) -> None:
        """End this Store's sessions and let go of the file; safe to repeat.

        What the sessions held is freed by whichever process looks next.
        """
        with self._lock:
            if self._closed or self._pid != os.getpid():
                return
            self._closed = True
            for session in self._sessions:
                self._locks.unlock(session_byte(session))
            self._sessions.clear()
            self._locks.let_go()
            self._db.close()


def dump(value: Any) -> str:
    """Write a JSON column."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    # Mappings that are no dicts, and sequences that are no lists, are welcome.
    if hasattr(value, "keys"):
        return dict(value)
    if hasattr(value, "__iter__"):
        return list(value)
    raise TypeError(f"{value!r} cannot be kept in the state: it is not JSON")


@contextlib.contextmanager
def explained(path: Path, busy_timeout_s: float) -> Iterator[None]:
    """Raise SQLite's errors in the body as ours."""
    try:
        yield
    except sqlite3.Error as problem:
        raise explain(problem, path, busy_timeout_s) from problem


def explain(problem: sqlite3.Error, path: Path, busy_timeout_s: float) -> StateError:
    """Turn an error of SQLite into one of ours. The cases: locked, damaged, read-only, full, refused, anything else."""
    code = getattr(problem, "sqlite_errorname", None) or ""
    where = str(path)
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        who = ", ".join(describe(pid) for pid in writers(path)) or "another process, which could not be found out,"
        return StateLockedError(
            f"{path}: {who} held the write lock for longer than {busy_timeout_s:g} s",
            path=where,
            hint="try again; if that process hangs, end it: nothing that it has committed is lost",
        )
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return damaged(path, str(problem))
    if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
        return read_only(path, str(problem))
    if code.startswith("SQLITE_FULL") or code == "SQLITE_IOERR_WRITE":
        return StateError(
            f"{path}: the disk is full ({problem}); what was being written was not, and the rest is as it was",
            path=where,
            hint=f"make room on it; or {MOVE_AWAY}",
        )
    if code.startswith("SQLITE_CONSTRAINT"):
        return StateError(f"{path}: this cannot be recorded, or not again: {problem}", path=where)
    return StateError(
        f"{path}: the state could not be used: {problem}" + (f" ({code})" if code else ""),
        path=where,
        hint="look at the disk and at the kernel's log if this comes again",
    )


def read_only(path: Path, why: str) -> StateError:
    """Say that the state cannot be written."""
    return StateError(
        f"{path}: the state, or its directory, cannot be written by this user: {why}",
        path=str(path),
        hint=f"make both writable; or {MOVE_AWAY}",
    )


def damaged(path: Path, why: str) -> StateDamagedError:
    """Say that a file is not a sound state of ours. Nothing has been changed in it."""
    return StateDamagedError(
        f"{path}: this is no sound state file: {why}. It was left as it is",
        path=str(path),
        hint="put a copy of it back, together with what stands beside it; or move it all away, and deploy again or adopt"
        " what `pileus audit` finds in the cloud",
    )
