"""The core on a simulated cloud: a cloud of its own for each test, look-alikes planted, and nothing left at the end."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from pileus import AsyncProvider
from pileus.drivers.base import TAG_DEPLOYMENT, TAG_NAME
from pileus.testing.cloud import SimulatedCloud
from pileus.testing.simulator import simulated_cloud

Maker = Callable[..., AsyncProvider]


class SimulatedAccount:
    """A simulated cloud with things of others in it, which must all be there at the end."""

    def __init__(self, name: str, cloud: SimulatedCloud) -> None:
        self.name = name
        self.cloud = cloud
        self.planted = {
            cloud.plant(name="lab-10-0123456789ab", tags={TAG_DEPLOYMENT: "d-0000000000000010", TAG_NAME: "lab-10"}),
            cloud.plant(name="lab-1-somebody", tags={}),
            cloud.plant("network", name="lab-1-network", tags={TAG_NAME: "lab-1x", TAG_DEPLOYMENT: "d-00000000000000"}),
        }

    def ours(self) -> list[str]:
        """What exists beside what was planted."""
        return [f"{thing.name} {thing.id}" for thing in self.cloud.everything() if thing.id not in self.planted]

    def servers(self) -> list[str]:
        """Ids of servers that exist beside those planted."""
        found = [thing for thing in self.cloud.everything() if thing.id not in self.planted]
        return [thing.id for thing in found if hasattr(thing, "status")]


@pytest.fixture
def account() -> Iterator[SimulatedAccount]:
    name = uuid.uuid4().hex
    with simulated_cloud(name, boot_s=0.15, delete_s=0.05) as cloud:
        account = SimulatedAccount(name, cloud)
        yield account
        cloud.clear_rules()
        standing = {thing.id for thing in cloud.everything()}
        assert account.planted <= standing, "a thing of somebody else was destroyed"


@pytest.fixture
async def make(account: SimulatedAccount, tmp_path: Path) -> AsyncIterator[Maker]:
    made: list[AsyncProvider] = []

    def maker(resource_name: str = "lab-1", *, save_path: Path | None = None, **settings: str) -> AsyncProvider:
        chosen = {"cloud": account.name, "poll_interval_s": "0.03", "request_timeout_s": "1.5", **settings}
        provider = AsyncProvider("simulator", resource_name, save_path or tmp_path / "state", settings=chosen)
        made.append(provider)
        return provider

    yield maker
    for provider in made:
        await provider.aclose()


@pytest.fixture
async def provider(make: Maker, account: SimulatedAccount) -> AsyncIterator[AsyncProvider]:
    provider = make()
    await provider.deploy()
    yield provider
    account.cloud.clear_rules()
    await provider.tear_down()
    assert account.ours() == []
