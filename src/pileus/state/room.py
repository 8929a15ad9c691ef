"""Sessions, and what they hold of servers: allocations, and uses.

A session is alive exactly as long as its process holds a lock that the kernel frees (see `locks`). What a dead one held counts for
nothing from that moment on, and is struck off by whoever comes across it.
"""

from __future__ import annotations

import os
import time

from pileus.errors import ConfigError, StateError, UsageError
from pileus.state.connection import Connection
from pileus.state.holders import boot_id
from pileus.state.locks import new_session_id, session_byte
from pileus.state.records import Usage, nano_cores

KEPT_INTENTS_S = 7 * 24 * 3600.0
"""Seconds for which a settled intent is remembered when nothing on record came from it."""


class Room(Connection):
    """Who holds what of which server."""

    # --- sessions ---

    def begin_session(self) -> str:
        """Begin a session of this process; it lives until `end_session`, `close` or the end of the process, however it comes.

        A forked child has no part in it. Also strikes off what dead sessions held.
        """
        while True:
            session = new_session_id()
            # Locked before it is recorded: whoever finds it on record and not locked knows that it is dead.
            if self._locks.try_lock(session_byte(session)):
                break
        try:
            with self.transaction():
                self.drop_dead_sessions()
                self._run("INSERT INTO sessions VALUES (?, ?, ?)", (session, os.getpid(), time.time()))
                self._forget_old_intents()
        except BaseException:
            self._locks.unlock(session_byte(session))
            raise
        self._sessions.add(session)
        return session

    def end_session(self, session: str, now: float | None = None) -> None:
        """End a session of this Store, and free what it holds at once; safe to repeat."""
        if session in self._sessions:
            self._sessions.discard(session)
            self._locks.unlock(session_byte(session))
            self.drop_dead_sessions(now)

    def live_sessions(self) -> frozenset[str]:
        """The sessions on record whose processes live, and this process' own."""
        recorded = {row[0] for row in self._all("SELECT id FROM sessions")}
        return frozenset(session for session in recorded | self._sessions if self._is_live(session))

    def drop_dead_sessions(self, now: float | None = None) -> frozenset[str]:
        """Strike off dead sessions and what they held; servers that nobody holds any more are idle from `now` on.

        Idle moments that were read before the machine was last booted begin anew as well. Writes nothing when there is nothing
        to do.

        Args:
            now: seconds of the monotonic clock; the machine's own when None.

        Returns:
            The sessions that were struck off.
        """
        now = time.monotonic() if now is None else now
        holding = "SELECT id FROM sessions UNION SELECT session FROM allocations UNION SELECT session FROM uses"
        stale = "idle_since IS NOT NULL AND boot_id <> ? AND status <> 'destroyed'"
        dead = frozenset(row[0] for row in self._all(holding) if not self._is_live(row[0]))
        if not dead and self._one(f"SELECT 1 FROM servers WHERE {stale} LIMIT 1", (boot_id(),)) is None:
            return dead
        with self.transaction():
            self._run(f"UPDATE servers SET idle_since = ?, boot_id = ? WHERE {stale}", (now, boot_id(), boot_id()))
            freed: set[str] = set()
            for session in dead:
                for table in ("allocations", "uses"):
                    freed.update(
                        row[0] for row in self._all(f"SELECT server_id FROM {table} WHERE session = ?", (session,))
                    )
                    self._run(f"DELETE FROM {table} WHERE session = ?", (session,))
                self._run("DELETE FROM sessions WHERE id = ?", (session,))
            for server_id in freed:
                self._start_clock_if_unused(server_id, now)
        return dead

    def _forget_old_intents(self) -> None:
        self._run(
            "DELETE FROM intents WHERE status <> 'open' AND max(created, deadline) < ?"
            " AND id NOT IN (SELECT intent_id FROM servers) AND id NOT IN (SELECT intent_id FROM resources)",
            (time.time() - KEPT_INTENTS_S,),
        )

    # --- allocations ---

    def allocate(self, server_id: str, session: str, nano_cores: int, ram_mb: int, disk_gb: int) -> bool:
        """Take room on a server for a session, if there is as much, counting every live session's; stops the idle clock.

        Args:
            server_id: a server on record.
            session: one of this Store's own.
            nano_cores: as `nano_cores()` gives them; 0 is fine, as it is for the others.
            ram_mb: MB.
            disk_gb: GB.

        Returns:
            False when it does not fit, or the server is bad, being destroyed, or gone; nothing is changed then.

        Raises:
            ConfigError: an amount is negative or no integer.
            UsageError: the session is not this Store's, or has ended.
            StateError: there is no such server.
        """
        wanted = _amounts(nano_cores, ram_mb, disk_gb)
        self._check_own(session)
        with self.transaction():
            capacity = self._capacity(server_id)
            if capacity is None:
                return False
            taken = self._taken(server_id)
            if any(have + want > most for have, want, most in zip(taken[:3], wanted, capacity, strict=True)):
                return False
            self._run(
                "INSERT INTO allocations VALUES (?, ?, ?, ?, ?, 1, ?) ON CONFLICT DO UPDATE SET"
                " nano_cores = nano_cores + excluded.nano_cores, ram_mb = ram_mb + excluded.ram_mb,"
                " disk_gb = disk_gb + excluded.disk_gb, allocations = allocations + 1, empty = empty + excluded.empty",
                (server_id, session, *wanted, int(not any(wanted))),
            )
            self._stop_clock(server_id)
        return True

    def _capacity(self, server_id: str) -> tuple[int, int, int] | None:
        """What can be allocated on a server in all; None when nothing can, because of the state that it is in."""
        row = self._one("SELECT status, bad, flavor, disk_gb FROM servers WHERE id = ?", (server_id,))
        if row is None:
            raise self._unknown(server_id)
        if row[0] not in ("spawned", "ready") or row[1]:
            return None
        flavor = self._read(row[2])
        return nano_cores(flavor.get("cores", 0)), int(flavor.get("ram", 0)), row[3]

    def _taken(self, server_id: str) -> tuple[int, int, int, int]:
        """What live sessions hold of a server: nano cores, MB, GB, number of allocations."""
        cores = ram = disk = count = 0
        rows = self._all(
            "SELECT session, nano_cores, ram_mb, disk_gb, allocations FROM allocations WHERE server_id = ?",
            (server_id,),
        )
        for session, *held in rows:
            if self._is_live(session):
                cores, ram, disk, count = cores + held[0], ram + held[1], disk + held[2], count + held[3]
        return cores, ram, disk, count

    def release(
        self,
        server_id: str,
        session: str,
        nano_cores: int,
        ram_mb: int,
        disk_gb: int,
        now: float | None = None,
    ) -> bool:
        """Give room back. When nobody holds anything of the server any more, it is idle from `now` on.

        What was allocated in several steps may be released in one, and the other way round.

        Args:
            server_id: a server on record, or one that was.
            session: whose allocations they are.
            nano_cores: as for `allocate`.
            ram_mb: MB.
            disk_gb: GB.
            now: seconds of the monotonic clock; the machine's own when None.

        Returns:
            False when the session does not hold as much of each; nothing is changed then, since a release too many must
            not open room that somebody believes to have.

        Raises:
            ConfigError: an amount is negative or no integer.
        """
        given = _amounts(nano_cores, ram_mb, disk_gb)
        now = time.monotonic() if now is None else now
        with self.transaction():
            where = "WHERE server_id = ? AND session = ?"
            row = self._one(
                f"SELECT nano_cores, ram_mb, disk_gb, allocations, empty FROM allocations {where}", (server_id, session)
            )
            if row is None:
                return False
            left = tuple(have - give for have, give in zip(row[:3], given, strict=True))
            empty = row[4] - (0 if any(given) else 1)
            if min(left) < 0 or empty < 0:
                return False
            # How many allocations remain is a matter of counting only as long as something does.
            count = max(row[3] - 1, empty + 1) if any(left) else empty
            if count:
                self._run(
                    f"UPDATE allocations SET nano_cores = ?, ram_mb = ?, disk_gb = ?, allocations = ?, empty = ? {where}",
                    (*left, count, empty, server_id, session),
                )
            else:
                self._run(f"DELETE FROM allocations {where}", (server_id, session))
                self._start_clock_if_unused(server_id, now)
        return True

    def usage(self, server_id: str) -> Usage:
        """What live sessions hold of one server; all zeros when nothing, also for a server that is not on record."""
        uses = self._all("SELECT session, uses FROM uses WHERE server_id = ?", (server_id,))
        return Usage(server_id, *self._taken(server_id), sum(row[1] for row in uses if self._is_live(row[0])))

    def usages(self) -> dict[str, Usage]:
        """What live sessions hold, by the id of the server; only servers of which something is held are in it."""
        live = self.live_sessions()
        totals: dict[str, list[int]] = {}
        for server_id, session, *held in self._all(
            "SELECT server_id, session, nano_cores, ram_mb, disk_gb, allocations, 0 FROM allocations"
            " UNION ALL SELECT server_id, session, 0, 0, 0, 0, uses FROM uses"
        ):
            if session in live:
                total = totals.setdefault(server_id, [0, 0, 0, 0, 0])
                totals[server_id] = [have + more for have, more in zip(total, held, strict=True)]
        return {server_id: Usage(server_id, *total) for server_id, total in totals.items()}

    # --- uses ---

    def begin_use(self, server_id: str, session: str, count: int = 1) -> bool:
        """Say that `count` more commands, transfers or open sessions run on a server; stops the idle clock.

        Returns:
            False when the server is being destroyed, or gone: do not begin. A bad server may be used.

        Raises:
            UsageError: the session is not this Store's, or has ended.
            StateError: there is no such server.
        """
        self._check_own(session)
        if count < 1:
            raise ConfigError(f"count must be 1 or more, not {count!r}", setting="count")
        with self.transaction():
            row = self._one("SELECT status FROM servers WHERE id = ?", (server_id,))
            if row is None:
                raise self._unknown(server_id)
            if row[0] not in ("spawned", "ready"):
                return False
            self._run(
                "INSERT INTO uses VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET uses = uses + excluded.uses",
                (server_id, session, count),
            )
            self._stop_clock(server_id)
        return True

    def end_use(self, server_id: str, session: str, idle_since: float, count: int = 1) -> bool:
        """Say that `count` of them have ended; the server is idle from `idle_since` on when nobody holds anything more.

        Args:
            server_id: a server on record, or one that was.
            session: whose uses they are.
            idle_since: seconds of the monotonic clock.
            count: how many; never more of them are struck off than there are.

        Returns:
            False when the session had none; nothing is changed then.
        """
        with self.transaction():
            where = "WHERE server_id = ? AND session = ?"
            row = self._one(f"SELECT uses FROM uses {where}", (server_id, session))
            if row is None:
                return False
            if row[0] > count:
                self._run(f"UPDATE uses SET uses = uses - ? {where}", (count, server_id, session))
            else:
                self._run(f"DELETE FROM uses {where}", (server_id, session))
                self._start_clock_if_unused(server_id, idle_since)
        return True

    # --- the idle clock ---

    def _stop_clock(self, server_id: str) -> None:
        self._run("UPDATE servers SET idle_since = NULL WHERE id = ? AND idle_since IS NOT NULL", (server_id,))

    def _start_clock_if_unused(self, server_id: str, moment: float) -> None:
        if not self.usage(server_id).in_use:
            self._run(
                "UPDATE servers SET idle_since = ?, boot_id = ? WHERE id = ? AND status IN ('spawned', 'ready')"
                " AND (idle_since IS NULL OR idle_since < ? OR boot_id <> ?)",
                (moment, boot_id(), server_id, moment, boot_id()),
            )

    def _check_own(self, session: str) -> None:
        if session not in self._sessions:
            raise UsageError(
                f"{session!r} is no session of this Store, or has ended", hint="use the id that begin_session() gave"
            )

    def _unknown(self, server_id: str) -> StateError:
        return StateError(f"{self.path}: server {server_id} is not on record", path=str(self.path))


def _amounts(cores: int, ram_mb: int, disk_gb: int) -> tuple[int, int, int]:
    for setting, amount in (("nano_cores", cores), ("ram_mb", ram_mb), ("disk_gb", disk_gb)):
        if isinstance(amount, bool) or not isinstance(amount, int) or not 0 <= amount < 2**62:
            raise ConfigError(f"{setting} must be a whole number, 0 or more, not {amount!r}", setting=setting)
    return cores, ram_mb, disk_gb
