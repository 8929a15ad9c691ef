"""A simulated cloud on a clock that stands still."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from pileus.drivers.base import TAG_DEPLOYMENT, TAG_INTENT, Call, Outcome, ServerRecord, ServerRequest
from pileus.testing import ManualClock, SimulatedCloud, SimulatorDriver, simulated_cloud


def call(seconds: float = 30.0) -> Call:
    return Call("request-1", time.monotonic() + seconds)


@dataclass
class Ground:
    clock: ManualClock
    cloud: SimulatedCloud
    driver: SimulatorDriver

    def request(self, name: str = "server", flavor: int = 0, **changes: Any) -> ServerRequest:
        tags = {TAG_DEPLOYMENT: "d1", TAG_INTENT: f"intent-{name}"}
        values: dict[str, Any] = {
            "intent_id": f"intent-{name}",
            "name": name,
            "flavor": self.driver.flavors(call())[flavor],
            "image": self.driver.images(call())[0],
            "user_name": "sim",
            "disk_gb": 0,
            "external_ip": False,
            "tags": tags,
        }
        return ServerRequest(**{**values, **changes})

    def create(self, *names: str, **changes: Any) -> list[Outcome]:
        return self.driver.create_servers([self.request(name, **changes) for name in names], call())

    def server(self, name: str = "server", **changes: Any) -> ServerRecord:
        [outcome] = self.create(name, **changes)
        assert outcome.record is not None, outcome.error
        return outcome.record

    def listed(self) -> dict[str, str]:
        return {record.name: record.status.value for record in self.driver.list_servers("d1", call())}


@pytest.fixture
def make_ground() -> Iterator[Callable[..., Ground]]:
    opened: list[Any] = []

    def make(**options: Any) -> Ground:
        clock = ManualClock(settle_s=0.0)
        context = simulated_cloud(f"unit-{len(opened)}", clock, **options)
        opened.append(context)
        cloud = context.__enter__()
        return Ground(clock, cloud, SimulatorDriver({"cloud": f"unit-{len(opened) - 1}"}))

    yield make
    for context in opened:
        context.__exit__(None, None, None)


@pytest.fixture
def ground(make_ground: Callable[..., Ground]) -> Ground:
    return make_ground(boot_s=10.0, delete_s=2.0)
