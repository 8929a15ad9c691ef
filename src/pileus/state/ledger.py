"""The deployment itself, intents and their outcomes, resources, events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pileus.errors import StateError, StateLockedError, UsageError
from pileus.state.connection import dump
from pileus.state.filesystem import erase, key_path
from pileus.state.records import (
    DEPLOYMENT_STATUSES,
    Deployment,
    Event,
    Intent,
    ResourceRow,
    ServerRow,
    Settled,
)
from pileus.state.servers import Servers

SERVER = "server"
"""The kind of intent that asks for a server; every other is for a resource."""

MAX_EVENTS = 10_000
"""How many events are kept; the oldest go first."""

INTENT_COLUMNS = "id, kind, name, request_id, session, created, deadline, payload, status, resource_id, detail"

Check = Callable[[Sequence[Intent], Sequence[ServerRow]], None]
"""Looks at the open intents and the servers that stand, and raises when the new intents may not be recorded."""


class Ledger(Servers):
    """What we asked the cloud for, and what came of it."""

    # --- the deployment ---

    def deployment(self) -> Deployment | None:
        """The deployment, or None when it was never deployed."""
        row = self._one(
            "SELECT id, provider, resource_name, owner, created, status, config, public_key, private_key FROM deployment"
        )
        return None if row is None else Deployment(*self._with_json(row, 6))

    def save_deployment(self, deployment: Deployment) -> None:
        """Record the deployment, or record it anew.

        After one that is `gone` another may be recorded; whatever still stood here of the old one is forgotten then.

        Raises:
            StateError: a deployment with another id is recorded, and is not gone; or the names are not those of this file.
        """
        with self.transaction():
            identity = self._one("SELECT provider, resource_name FROM identity")
            if identity != (deployment.provider, deployment.resource_name):
                raise self._refusal(
                    f"this is the state of {identity}, not of {(deployment.provider, deployment.resource_name)}"
                )
            _known("status", deployment.status, DEPLOYMENT_STATUSES)
            old = self._one("SELECT id, status FROM deployment")
            if old is not None and old[0] != deployment.id:
                if old[1] != "gone":
                    raise self._refusal(
                        f"deployment {old[0]} is recorded here and is not gone", "tear it down before deploying another"
                    )
                for table in ("intents", "resources", "servers", "deployment"):
                    self._run(f"DELETE FROM {table}")
            self._run(
                "INSERT OR REPLACE INTO deployment VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    deployment.id,
                    deployment.provider,
                    deployment.resource_name,
                    deployment.owner,
                    deployment.created,
                    deployment.status,
                    dump(deployment.config),
                    deployment.public_key,
                    deployment.private_key,
                ),
            )

    def set_status(self, status: str) -> None:
        """Say how far the deployment is.

        Raises:
            StateError: there is no deployment; or it shall be `gone` while servers, resources or open intents are on record,
                which may still be on the bill.
        """
        _known("status", status, DEPLOYMENT_STATUSES)
        with self.transaction():
            if status == "gone":
                left = self._left()
                if left:
                    raise self._refusal(f"the deployment is not gone: still on record are {left}", "tear it down")
            if not self._run("UPDATE deployment SET status = ?", (status,)):
                raise self._refusal("there is no deployment", "deploy first")

    def _left(self) -> str:
        counts = {
            "servers": "SELECT count(*) FROM servers WHERE status <> 'destroyed'",
            "resources": "SELECT count(*) FROM resources",
            "open intents": "SELECT count(*) FROM intents WHERE status = 'open'",
        }
        found = {name: self._all(sql)[0][0] for name, sql in counts.items()}
        return ", ".join(f"{count} {name}" for name, count in found.items() if count)

    def forget_secrets(self) -> None:
        """Wipe keys, admin passwords, host keys, scripts and the payloads of intents, also from beside the file.

        When this returns they are in none of the state's files. It rewrites the file, so it must not be called within a
        transaction. Safe to repeat.

        Raises:
            StateLockedError: another process was reading or writing all the time: they are unreachable by now, but may still be
                found in the raw files. Repeat it.
        """
        with self._lock:
            if self._depth:
                raise UsageError(
                    "secrets cannot be wiped within a transaction", hint="call forget_secrets() outside of it"
                )
            with self.transaction():
                self._run("UPDATE deployment SET public_key = '', private_key = ''")
                self._run("UPDATE servers SET admin_pass = '', host_keys = '[]', script = x'', config_files = ''")
                self._run("UPDATE intents SET payload = '{}'")
            erase(key_path(self.path))
            self._run("VACUUM")
            # Old versions of pages live on in the write-ahead log until it is cut to nothing.
            row = self._one("PRAGMA wal_checkpoint(TRUNCATE)")
            if row is not None and row[0]:
                raise StateLockedError(
                    f"{self.path}: the secrets are deleted, but another process kept their traces from being wiped",
                    path=str(self.path),
                    hint="repeat it once other programs that use this deployment have ended",
                )

    # --- intents ---

    def record_intents(
        self,
        intents: Sequence[Intent],
        check: Check | None = None,
        *,
        guard: Callable[[Any], None] | None = None,
        deployment_id: str = "",
    ) -> None:
        """Put the wish for things on disk, all in one commit, before anything is asked of the cloud.

        Args:
            intents: new ones, with new ids. For servers the deployment must be `deployed`, for other things it may also be
                `deploying`.
            check: called with all open intents and all servers that stand, while nobody else can add any; when it raises,
                nothing is recorded.

            guard: the same, given this store to ask what it needs; cheaper where there are thousands of either.
            deployment_id: the deployment that the things will be tagged with; another process may have made a new one meanwhile.

        Raises:
            StateError: the deployment's status does not allow it, it is another one, an id is known already, or the file was
                deleted behind our back. Nothing is recorded.
        """
        with self.transaction():
            self._refuse_by_status(intents)
            self._refuse_other(deployment_id)
            if guard is not None:
                guard(self)
            if check is not None:
                check(self.open_intents(), self.servers())
            self._run_many(
                f"INSERT INTO intents ({INTENT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [_intent_values(intent) for intent in intents],
            )

    def _refuse_by_status(self, intents: Sequence[Intent]) -> None:
        row = self._one("SELECT status FROM deployment")
        status = row[0] if row else ""
        if status == "deployed" or (status == "deploying" and all(intent.kind != SERVER for intent in intents)):
            return
        said = f"it is {status}" if row else "there is none on record"
        raise self._refusal(
            f"the deployment takes no new things: {said}",
            "wait until it is torn down, then deploy again" if status == "tearing-down" else "deploy first",
        )

    def _refuse_other(self, deployment_id: str) -> None:
        row = self._one("SELECT id FROM deployment")
        if deployment_id and row and row[0] != deployment_id:
            raise self._refusal(
                f"the deployment {deployment_id} was torn down, and {row[0]} deployed in its place by another process",
                "repeat; what was learnt of the old one is forgotten",
            )
        if not self.path.exists():
            raise self._refusal(
                "the file was deleted while it was in use",
                "make a new provider and deploy: what is in the cloud is found again by its tags",
            )

    def settle(self, outcomes: Sequence[Settled]) -> None:
        """Record what became of intents, and the things that they made, in one commit. Allowed in every status.

        Safe to repeat, and by two processes at once: `done` is final, and the row of a thing is written once only. A `failed`
        one becomes `done` when its thing turns up after all. An intent that is not on record is added when its thing comes with
        it: so is a deployment adopted whose state was lost. The first external server becomes the head node.

        Raises:
            StateError: an intent is not on record, and nothing was made. Nothing is recorded.
        """
        with self.transaction():
            for outcome in outcomes:
                self._settle_one(outcome)

    def _settle_one(self, outcome: Settled) -> None:
        _known("status", outcome.status, ("done", "failed"))
        thing = outcome.server or outcome.resource
        resource_id = outcome.resource_id or (thing.id if thing else "")
        row = self._one("SELECT status FROM intents WHERE id = ?", (outcome.intent_id,))
        if row is None:
            if thing is None:
                raise self._refusal(f"intent {outcome.intent_id} is not on record")
            kind = SERVER if outcome.server else getattr(thing, "kind", "")
            found = Intent(outcome.intent_id, kind, thing.name, created=getattr(thing, "created", 0.0))
            self._run_many(
                f"INSERT INTO intents ({INTENT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [_intent_values(found)],
            )
        elif row[0] == "done":
            return
        self._run(
            "UPDATE intents SET status = ?, resource_id = ?, detail = ? WHERE id = ?",
            (outcome.status, resource_id, outcome.detail, outcome.intent_id),
        )
        if outcome.server is not None:
            self._add_server(outcome.server)
        if outcome.resource is not None:
            self._add_resource(outcome.resource)

    def pending_servers(self) -> tuple[int, int, int, int]:
        """What open intents for servers will take: their number, cores, MB of RAM, GB of volumes."""
        row = self._one(
            "SELECT count(*), total(json_extract(payload, '$.cores')), total(json_extract(payload, '$.ram')),"
            " total(json_extract(payload, '$.disk')) FROM intents WHERE status = 'open' AND kind = 'server'"
        )
        count, cores, ram, disk = row or (0, 0, 0, 0)
        return int(count), int(cores), int(ram), int(disk)

    def count_servers(self) -> int:
        """How many servers stand."""
        return int(self._all("SELECT count(*) FROM servers WHERE status <> 'destroyed'")[0][0])

    def newest_intent(self) -> float:
        """When the newest intent was recorded, in epoch seconds; 0 when there is none."""
        row = self._one("SELECT max(created) FROM intents")
        return float(row[0] or 0.0) if row else 0.0

    def open_intents(self, kind: str | None = None) -> list[Intent]:
        """The intents whose outcome is not known, oldest first; of one kind only when `kind` is given."""
        where, values = ("", ()) if kind is None else (" AND kind = ?", (kind,))
        sql = f"SELECT {INTENT_COLUMNS} FROM intents WHERE status = 'open'{where} ORDER BY rowid"
        return [self._intent(row) for row in self._all(sql, values)]

    def intent(self, id: str) -> Intent | None:
        """One intent, or None when it is not on record."""
        row = self._one(f"SELECT {INTENT_COLUMNS} FROM intents WHERE id = ?", (id,))
        return None if row is None else self._intent(row)

    def _intent(self, row: Any) -> Intent:
        return Intent(*self._with_json(row, 7))

    # --- resources ---

    def resources(self) -> list[ResourceRow]:
        """All resources on record, in the order in which they came."""
        rows = self._all("SELECT kind, id, name, intent_id, attributes FROM resources ORDER BY rowid")
        return [ResourceRow(*self._with_json(row, 4)) for row in rows]

    def _add_resource(self, row: ResourceRow) -> None:
        self._run(
            "INSERT INTO resources VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (row.kind, row.id, row.name, row.intent_id, dump(row.attributes)),
        )

    def forget_resource(self, kind: str, id: str) -> bool:
        """Strike a resource off, once it is known to be gone; False when it was not on record."""
        with self.transaction():
            return self._run("DELETE FROM resources WHERE kind = ? AND id = ?", (kind, id)) > 0

    # --- events ---

    def add_events(self, events: Iterable[Event]) -> None:
        """Note what happened; of more than `MAX_EVENTS` the oldest are dropped. There must be no secret in them."""
        with self.transaction():
            self._run_many(
                "INSERT INTO events (time, kind, subject, detail) VALUES (?, ?, ?, ?)",
                [(event.time, event.kind, event.subject, dump(event.detail)) for event in events],
            )
            self._run("DELETE FROM events WHERE position <= (SELECT max(position) FROM events) - ?", (MAX_EVENTS,))

    def events(self, since: float = 0.0) -> list[Event]:
        """What happened at or after that moment (epoch seconds), in the order in which it was noted."""
        rows = self._all("SELECT time, kind, subject, detail FROM events WHERE time >= ? ORDER BY position", (since,))
        return [Event(*self._with_json(row, 3)) for row in rows]

    def _with_json(self, row: Any, place: int) -> list[Any]:
        """The row's values, with the JSON in one of them read."""
        values = list(row)
        values[place] = self._read(values[place])
        return values

    def _refusal(self, why: str, hint: str = "") -> StateError:
        return StateError(f"{self.path}: {why}", path=str(self.path), hint=hint)


def _intent_values(intent: Intent) -> tuple[Any, ...]:
    _known("status", intent.status, ("open",))
    return (
        intent.id,
        intent.kind,
        intent.name,
        intent.request_id,
        intent.session,
        intent.created,
        intent.deadline,
        dump(intent.payload),
        intent.status,
        intent.resource_id,
        intent.detail,
    )


def _known(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{what} must be one of {', '.join(allowed)}, not {value!r}")
