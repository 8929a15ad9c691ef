"""A local provider of a test's own, and the proof that the test left nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from pileus.boot import BootPlan, render
from pileus.drivers.base import TAG_DEPLOYMENT, TAG_INTENT, Call, ServerRecord, ServerRequest
from pileus.drivers.local import LocalDriver, processes
from pileus.drivers.local.cards import Card, listed

CLIENT_KEY = asyncssh.generate_private_key("ssh-ed25519")
LEVELS = ("namespaces", "subreaper", "marker")


def call(seconds: float = 30.0) -> Call:
    return Call(secrets.token_hex(4), time.monotonic() + seconds)


def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.005)


@dataclass
class Place:
    directory: Path
    isolation: str = "auto"
    deployment: str = field(default_factory=lambda: f"d-{secrets.token_hex(6)}")
    ids: list[str] = field(default_factory=list)
    host_keys: dict[str, asyncssh.SSHKey] = field(default_factory=dict)

    def driver(self, **settings: str) -> LocalDriver:
        return LocalDriver(
            {
                "dir": str(self.directory),
                "overcommit": "10000",
                "isolation": self.isolation,
                "helper_idle": "5",
                **settings,
            }
        )

    def request(self, user_data: bytes | None = None, **changes: Any) -> ServerRequest:
        driver = self.driver()
        intent_id = f"i-{secrets.token_hex(8)}"
        image = driver.images(call())[0]
        key = asyncssh.generate_private_key("ssh-ed25519")
        target = driver.boot_target(intent_id)
        self.ids.append(Path(target.root).name)
        self.host_keys[self.ids[-1]] = key
        plan = BootPlan(
            target=target,
            host_name="box",
            user_name=image.default_user,
            authorized_key=CLIENT_KEY.export_public_key().decode(),
            host_private_key=key.export_private_key().decode(),
            host_public_key=key.export_public_key().decode(),
        )
        values: dict[str, Any] = {
            "intent_id": intent_id,
            "name": f"box-{secrets.token_hex(3)}",
            "flavor": driver.flavors(call())[0],
            "image": image,
            "user_name": image.default_user,
            "disk_gb": 0,
            "external_ip": True,
            "tags": {TAG_DEPLOYMENT: self.deployment, TAG_INTENT: intent_id},
            "user_data": render(plan) if user_data is None else user_data,
        }
        return ServerRequest(**{**values, **changes})

    def spawn(self, user_data: bytes | None = None, **changes: Any) -> ServerRecord:
        (outcome,) = self.driver().create_servers([self.request(user_data, **changes)], call())
        if outcome.error is not None:
            raise outcome.error
        assert outcome.record is not None
        return outcome.record

    def card(self, server_id: str) -> Card:
        return next(card for card in listed(self.deployment) if card.id == server_id)

    def list(self) -> list[ServerRecord]:
        return self.driver().list_servers(self.deployment, call())

    def tree(self, record: ServerRecord) -> Path:
        return self.directory / record.id

    def delete(self, *records: ServerRecord) -> None:
        ids = [record.id for record in records]
        outcomes = self.driver().delete_servers(ids, call())
        assert [outcome.error for outcome in outcomes] == [None] * len(ids)
        eventually(lambda: not {record.id for record in self.list()} & set(ids))

    @contextlib.asynccontextmanager
    async def connect(self, record: ServerRecord, **changes: Any) -> AsyncIterator[asyncssh.SSHClientConnection]:
        """Connect as soon as it answers; the host key must be the one that its user-data brought."""
        key = self.host_keys[record.id]
        known = asyncssh.import_known_hosts(
            f"[{record.address}]:{record.port} {key.export_public_key().decode()}".strip() + "\n"
        )
        options: dict[str, Any] = {
            "username": self.driver().images(call())[0].default_user,
            "client_keys": [CLIENT_KEY],
            "known_hosts": known,
            "config": None,
            "agent_path": None,
            **changes,
        }
        until = time.monotonic() + 20
        while True:
            try:
                connection = await asyncssh.connect(record.address, record.port, **options)
                break
            except (OSError, asyncssh.PermissionDenied):  # the boot script is not that far yet
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.01)
        async with connection:
            yield connection

    async def run(self, record: ServerRecord, command: str) -> str:
        async with self.connect(record) as connection:
            done = await connection.run(command, check=True)
        assert isinstance(done.stdout, str)
        return done.stdout.strip()

    def clean_up(self) -> None:
        left = self.list()
        self.driver().delete_servers([record.id for record in left], call())
        eventually(lambda: not self.list())
        for server_id in self.ids:
            assert processes.marked(server_id) == set(), "a process was left"
        assert not self.directory.exists() or os.listdir(self.directory) == [], "a tree was left"
