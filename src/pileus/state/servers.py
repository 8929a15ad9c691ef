"""The servers on record: what is known of each, and who may destroy it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pileus.errors import StateError, UsageError
from pileus.state.connection import dump
from pileus.state.holders import boot_id
from pileus.state.records import ServerRow
from pileus.state.room import Room

KEPT_DESTROYED = 1000
"""How many destroyed servers are remembered; the oldest go first."""

_NAMES = tuple(field.name for field in fields(ServerRow))
_COLUMNS = ", ".join(_NAMES)
_MARKS = ", ".join("?" for _ in _NAMES)
_JSON = frozenset({"flavor", "host_keys"})
_BOOLEAN = frozenset({"external", "is_head_node", "boot_key", "bad", "shared_disk"})
_FIXED = frozenset({"id", "intent_id"})
_FLAVOR, _HOST_KEYS = _NAMES.index("flavor"), _NAMES.index("host_keys")
_BOOLEAN_PLACES = tuple(place for place, name in enumerate(_NAMES) if name in _BOOLEAN)


class Servers(Room):
    """The rows of servers."""

    def servers(self, include_destroyed: bool = False) -> list[ServerRow]:
        """All servers that stand (also those that are being destroyed), in the order in which they were recorded.

        Args:
            include_destroyed: also those that are gone, as far back as they are remembered; their secrets are not.
        """
        where = "" if include_destroyed else " WHERE status <> 'destroyed'"
        read: dict[str, Any] = {}
        return [
            self._server(row, read) for row in self._all(f"SELECT {_COLUMNS} FROM servers{where} ORDER BY position")
        ]

    def server(self, id: str) -> ServerRow | None:
        """One server, destroyed or not, or None when it is not on record."""
        row = self._one(f"SELECT {_COLUMNS} FROM servers WHERE id = ?", (id,))
        return None if row is None else self._server(row)

    def _server(self, row: Any, read: dict[str, Any] | None = None) -> ServerRow:
        """Make the record; `read` remembers what JSON says, since many servers have the same flavor."""
        values = list(row)
        for place in _BOOLEAN_PLACES:
            values[place] = bool(values[place])
        text = values[_FLAVOR]
        read = {} if read is None else read
        if text not in read:
            read[text] = self._read(text)
        values[_FLAVOR] = read[text]
        values[_HOST_KEYS] = tuple(self._read(values[_HOST_KEYS]))
        return ServerRow(*values)

    def _add_server(self, server: ServerRow) -> None:
        """Record a server; nothing happens when its id is on record already."""
        row = _columns({name: getattr(server, name) for name in _NAMES})
        if server.external:
            heads = "SELECT 1 FROM servers WHERE is_head_node AND status <> 'destroyed' LIMIT 1"
            row["is_head_node"] = int(self._one(heads) is None)
        self._run(
            f"INSERT INTO servers ({_COLUMNS}) VALUES ({_MARKS}) ON CONFLICT DO NOTHING", [row[name] for name in _NAMES]
        )

    def update_server(self, id: str, /, **columns: Any) -> bool:
        """Change some columns of a server, named and typed as in `ServerRow`.

        `idle_since` is taken to be of this boot, unless `boot_id` says otherwise.

        Returns:
            False when a new `status` was given but the server is being destroyed, or is: nothing is changed then.

        Raises:
            UsageError: there is no such column, or it cannot be changed this way: an id, or a status that only
                `claim_destroy` and `mark_destroyed` give.
            StateError: there is no such server.
        """
        for name, value in columns.items():
            if name not in _NAMES or name in _FIXED:
                raise UsageError(f"a server has no column {name!r} that can be changed")
            if name == "status" and value not in ("spawned", "ready"):
                raise UsageError(f"a server's status becomes {value!r} by claim_destroy or mark_destroyed only")
        if not columns:
            return True
        values = _columns(columns)
        condition = " AND status IN ('spawned', 'ready')" if "status" in values else ""
        assignments = ", ".join(f"{name} = ?" for name in values)
        with self.transaction():
            changed = self._run(f"UPDATE servers SET {assignments} WHERE id = ?{condition}", [*values.values(), id])
            if not changed and self._one("SELECT 1 FROM servers WHERE id = ?", (id,)) is None:
                raise StateError(f"{self.path}: server {id} is not on record", path=str(self.path))
        return changed > 0

    def claim_destroy(self, id: str, *, if_idle: bool = False, now: float | None = None, session: str = "") -> bool:
        """Become the one who destroys a server: of all callers in all processes, only one is told True.

        Args:
            id: a server's.
            if_idle: only when it has a `ttd_s`, has been idle for as long, and nothing in any live session holds it, all judged
                in the same step, so that no allocation and no command can come between.
            now: seconds of the monotonic clock; the machine's own when None.
            session: the claimer's. When it dies, another session's claim is granted anew.

        Returns:
            Whether it is the caller's now. False as well when it is not on record.
        """
        now = time.monotonic() if now is None else now
        with self.transaction():
            row = self._one("SELECT status, ttd_s, idle_since, boot_id, claimed_by FROM servers WHERE id = ?", (id,))
            if row is None or not self._claimable(row[0], row[4], session):
                return False
            if if_idle and not (row[0] == "destroying" or self._idle_long_enough(id, *row[1:4], now=now)):
                return False
            self._run("UPDATE servers SET status = 'destroying', claimed_by = ? WHERE id = ?", (session, id))
            return True

    def _claimable(self, status: str, claimed_by: str, session: str) -> bool:
        if status in ("spawned", "ready"):
            return True
        return status == "destroying" and bool(session and claimed_by) and not self._is_live(claimed_by)

    def _idle_long_enough(self, id: str, ttd_s: float, idle_since: float | None, boot: str, *, now: float) -> bool:
        return (
            ttd_s > 0
            and idle_since is not None
            and boot == boot_id()
            and idle_since + ttd_s <= now
            and not self.usage(id).in_use
        )

    def mark_destroyed(self, id: str) -> bool:
        """Record that a server is gone, and forget its secrets and whatever was held of it.

        Returns:
            Whether that is news; False also when it is not on record.
        """
        with self.transaction():
            changed = self._run(
                "UPDATE servers SET status = 'destroyed', admin_pass = '', host_keys = '[]', script = x'', config_files = '',"
                " idle_since = NULL WHERE id = ? AND status <> 'destroyed'",
                (id,),
            )
            if changed:
                self._run("DELETE FROM allocations WHERE server_id = ?", (id,))
                self._run("DELETE FROM uses WHERE server_id = ?", (id,))
                self._run(
                    "UPDATE intents SET payload = '{}' WHERE id = (SELECT intent_id FROM servers WHERE id = ?)", (id,)
                )
                self._run(
                    "DELETE FROM servers WHERE status = 'destroyed' AND position <= (SELECT position FROM servers"
                    " WHERE status = 'destroyed' ORDER BY position DESC LIMIT 1 OFFSET ?)",
                    (KEPT_DESTROYED,),
                )
        return changed > 0


def _columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a record's values into a table's."""
    row = dict(values)
    for name in row:
        if name in _JSON:
            row[name] = dump(row[name])
        elif name in _BOOLEAN:
            row[name] = int(bool(row[name]))
    if row.get("idle_since") is not None and not row.get("boot_id"):
        row["boot_id"] = boot_id()
    return row
