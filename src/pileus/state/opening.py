"""Make a state file, or open one that is there; whatever is refused is left exactly as it was.

A new file is filled under another name and then renamed, so that under its own name it is whole from the first moment: an empty
file, or one cut short, can only be a damaged one.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from pileus.errors import StateError, StateVersionError
from pileus.state import schema
from pileus.state.connection import damaged, explain, explained, read_only
from pileus.state.filesystem import make_directory, sync_directory, tighten, unwritable
from pileus.state.locks import OperationLock

# With these, a look without the right to write is not possible though nothing is wrong: a journal must be rolled back first, or
# there is no shared memory yet.
_NEEDS_WRITING = ("SQLITE_READONLY", "SQLITE_CANTOPEN")


def locks_path(path: Path) -> Path:
    """The file whose bytes sessions and operations lock."""
    return path.with_name(path.name + ".sessions")


def create(path: Path, provider: str, resource_name: str, busy_timeout_s: float) -> None:
    """Make a new, empty state; nothing happens when another process was quicker.

    Raises:
        StateDamagedError: the file is gone, but what SQLite had not yet put into it is still there.
        StateError: it cannot be written.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        make_directory(path.parent)
        with OperationLock(locks_path(path), "create").held(busy_timeout_s):
            if path.exists():
                return
            _refuse_orphaned_journal(path)
            temporary.unlink(missing_ok=True)  # of one who was killed here
            os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            try:
                _fill(temporary, provider, resource_name, busy_timeout_s)
                temporary.rename(path)
            finally:
                temporary.unlink(missing_ok=True)
            sync_directory(path.parent)
    except OSError as problem:
        raise unwritable(path, problem) from problem


def _fill(temporary: Path, provider: str, resource_name: str, busy_timeout_s: float) -> None:
    with explained(temporary, busy_timeout_s), contextlib.closing(_connect(temporary, "rw", busy_timeout_s)) as db:
        db.execute("PRAGMA journal_mode = MEMORY")  # nobody else sees it, and one who is killed here starts anew
        db.execute("PRAGMA synchronous = FULL")
        schema.fill(db, provider, resource_name)


def _refuse_orphaned_journal(path: Path) -> None:
    for suffix in ("-wal", "-journal"):
        journal = path.with_name(path.name + suffix)
        if journal.exists() and journal.stat().st_size:
            raise damaged(
                path, f"it is missing, but {journal.name}, which belongs to it and may hold what it lacks, is there"
            )


def connect(path: Path, provider: str, resource_name: str, busy_timeout_s: float) -> sqlite3.Connection:
    """Open an existing state for writing, after looking at it without the right to write.

    Raises:
        StateError: it cannot be read or written; or is damaged, of another deployment, of a newer version, or locked.
    """
    if not path.is_file():
        raise damaged(path, "it is not a regular file")
    if path.stat().st_size == 0:
        # SQLite would take it for a new database, and throw its write-ahead log away.
        raise damaged(path, "it was emptied")
    for each in (path, path.parent):
        if not os.access(each, os.R_OK | os.W_OK):
            raise read_only(path, f"{each} is not writable")
    tighten(path)
    inspected = _inspect_unwritten(path, provider, resource_name, busy_timeout_s)
    with explained(path, busy_timeout_s):
        db = _connect(path, "rw", busy_timeout_s)
        try:
            if not inspected:
                inspect(db, path, provider, resource_name)
            _configure(db)
            schema.migrate(db)
        except BaseException:
            db.close()
            raise
    return db


def _connect(path: Path, mode: str, busy_timeout_s: float) -> sqlite3.Connection:
    # A URI, since only that can say that no file is to be made; and it must be escaped.
    kept = b"/._-~"
    escaped = "".join(chr(c) if (chr(c).isalnum() and c < 128) or c in kept else f"%{c:02X}" for c in os.fsencode(path))
    return sqlite3.connect(
        f"file:{escaped}?mode={mode}",
        uri=True,
        timeout=busy_timeout_s,
        isolation_level=None,
        check_same_thread=False,
    )


def _inspect_unwritten(path: Path, provider: str, resource_name: str, busy_timeout_s: float) -> bool:
    """Inspect with a connection that cannot write, not even on closing; False where that is not possible."""
    try:
        with contextlib.closing(_connect(path, "ro", busy_timeout_s)) as db:
            inspect(db, path, provider, resource_name)
    except sqlite3.Error as problem:
        if str(getattr(problem, "sqlite_errorname", "")).startswith(_NEEDS_WRITING):
            return False
        raise explain(problem, path, busy_timeout_s) from problem
    return True


def inspect(db: sqlite3.Connection, path: Path, provider: str, resource_name: str) -> None:
    """Read enough of a file to know that it is ours, sound, and of this deployment.

    Raises:
        StateVersionError: a newer version wrote it.
        StateDamagedError: anything else is wrong with it.
        sqlite3.Error: SQLite itself could not read it.
    """
    if db.execute("PRAGMA application_id").fetchone()[0] != schema.APPLICATION_ID:
        raise damaged(path, "it was cut short, or never was one of Pileus")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > schema.VERSION:
        raise StateVersionError(
            f"{path}: this state was written by a newer version of Pileus (format {version}; this one knows"
            f" {schema.VERSION}). It was left as it is",
            path=str(path),
            hint="upgrade Pileus: pip install --upgrade pileus",
        )
    if version < 1:
        raise damaged(path, f"its format is {version}, which never existed")
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise damaged(path, verdict)
    found = db.execute("SELECT provider, resource_name FROM identity").fetchone()
    if found is None:
        raise damaged(path, "it does not say whose it is")
    if tuple(found) != (provider, resource_name):
        raise damaged(
            path, f"it belongs to {found[1]!r} on provider {found[0]!r}, not to {resource_name!r} on {provider!r}"
        )


def _configure(db: sqlite3.Connection) -> None:
    if db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        # Where the file system cannot do it, this says so by returning another mode, and the rollback journal does.
        with contextlib.suppress(sqlite3.OperationalError):
            db.execute("PRAGMA journal_mode = WAL").fetchone()
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA secure_delete = ON")
    db.execute("PRAGMA temp_store = MEMORY")  # else secrets could pass through files in /tmp


def missing(path: Path) -> StateError:
    """Say that there is no state."""
    return StateError(f"{path}: there is no such deployment on record", path=str(path), hint="deploy it first")
