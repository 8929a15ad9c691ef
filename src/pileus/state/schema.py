"""The tables, their version, and the way from an older version to this one."""

from __future__ import annotations

import sqlite3

APPLICATION_ID = 0x50494C45
"""What SQLite's header says to show that a file is ours: `PILE`."""

CREATE = """
CREATE TABLE identity (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    provider TEXT NOT NULL,
    resource_name TEXT NOT NULL
);
CREATE TABLE deployment (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id TEXT NOT NULL,
    provider TEXT NOT NULL,
    resource_name TEXT NOT NULL,
    owner TEXT NOT NULL,
    created REAL NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('deploying', 'deployed', 'tearing-down', 'gone')),
    config TEXT NOT NULL,
    public_key TEXT NOT NULL,
    private_key TEXT NOT NULL
);
CREATE TABLE intents (
    id TEXT PRIMARY KEY NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    request_id TEXT NOT NULL,
    session TEXT NOT NULL,
    created REAL NOT NULL,
    deadline REAL NOT NULL,
    payload TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'done', 'failed')),
    resource_id TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX open_intents ON intents (kind) WHERE status = 'open';
CREATE TABLE resources (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    intent_id TEXT NOT NULL,
    attributes TEXT NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE TABLE servers (
    position INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    intent_id TEXT NOT NULL,
    name TEXT NOT NULL,
    os TEXT NOT NULL,
    image_id TEXT NOT NULL,
    user_name TEXT NOT NULL,
    flavor TEXT NOT NULL,
    disk_gb INTEGER NOT NULL,
    ttd_s REAL NOT NULL,
    external INTEGER NOT NULL,
    is_head_node INTEGER NOT NULL,
    ip TEXT NOT NULL,
    ssh_port INTEGER NOT NULL,
    admin_pass TEXT NOT NULL,
    host_keys TEXT NOT NULL,
    boot_key INTEGER NOT NULL,
    script BLOB NOT NULL,
    config_files TEXT NOT NULL,
    created REAL NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('spawned', 'ready', 'destroying', 'destroyed')),
    bad INTEGER NOT NULL,
    permanent_problem TEXT NOT NULL,
    idle_since REAL,
    boot_id TEXT NOT NULL,
    shared_disk INTEGER NOT NULL,
    max_lifetime_s REAL NOT NULL,
    claimed_by TEXT NOT NULL DEFAULT ''
);
CREATE INDEX standing_servers ON servers (position) WHERE status <> 'destroyed';
CREATE INDEX destroyed_servers ON servers (position) WHERE status = 'destroyed';
CREATE INDEX head_nodes ON servers (position) WHERE is_head_node AND status <> 'destroyed';
CREATE TABLE sessions (
    id TEXT PRIMARY KEY NOT NULL,
    pid INTEGER NOT NULL,
    started REAL NOT NULL
);
CREATE TABLE allocations (
    server_id TEXT NOT NULL REFERENCES servers (id) ON DELETE CASCADE,
    session TEXT NOT NULL,
    nano_cores INTEGER NOT NULL CHECK (nano_cores >= 0),
    ram_mb INTEGER NOT NULL CHECK (ram_mb >= 0),
    disk_gb INTEGER NOT NULL CHECK (disk_gb >= 0),
    allocations INTEGER NOT NULL CHECK (allocations > 0),
    empty INTEGER NOT NULL CHECK (empty >= 0),  -- those of the allocations that are of nothing at all
    PRIMARY KEY (server_id, session)
) WITHOUT ROWID;
CREATE INDEX allocations_of_session ON allocations (session);
CREATE TABLE uses (
    server_id TEXT NOT NULL REFERENCES servers (id) ON DELETE CASCADE,
    session TEXT NOT NULL,
    uses INTEGER NOT NULL CHECK (uses > 0),
    PRIMARY KEY (server_id, session)
) WITHOUT ROWID;
CREATE INDEX uses_of_session ON uses (session);
CREATE TABLE events (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX events_by_time ON events (time);
"""
"""The tables of the current version. `position` keeps the order in which rows came."""

MIGRATIONS: tuple[str, ...] = ()
"""Step `i` leads from version `i + 1` to `i + 2`. A step once released never changes; `CREATE` shows where they all lead."""

VERSION = 1 + len(MIGRATIONS)
"""What `PRAGMA user_version` says in a file of this version. 0 is never a version: an emptied file says that."""


def statements(script: str) -> list[str]:
    """Cut a script into its statements.

    `executescript` would commit a transaction that is open, so it cannot be used within one.
    """
    found, rest = [], ""
    for line in script.splitlines(keepends=True):
        rest += line
        if sqlite3.complete_statement(rest):
            found.append(rest)
            rest = ""
    return found


def fill(db: sqlite3.Connection, provider: str, resource_name: str) -> None:
    """Make the tables in an empty database, in one transaction."""
    db.execute("BEGIN IMMEDIATE")
    for statement in statements(CREATE):
        db.execute(statement)
    db.execute("INSERT INTO identity VALUES (1, ?, ?)", (provider, resource_name))
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {VERSION}")
    db.execute("COMMIT")


def migrate(db: sqlite3.Connection, steps: tuple[str, ...] = MIGRATIONS) -> None:
    """Bring an older file to the version that `steps` leads to, in one transaction: all of them or none.

    Safe when several processes try: the version is read again once the write lock is ours.
    """
    if db.execute("PRAGMA user_version").fetchone()[0] > len(steps):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        for step in steps[version - 1 :]:
            for statement in statements(step):
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {1 + len(steps)}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
