"""Time passes quickly where cloud and core share a clock that the test drives."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from pileus import AsyncProvider, ServerTimeoutError
from pileus.testing.clock import ManualClock
from pileus.testing.rules import StuckBuilding
from pileus.testing.simulator import simulated_cloud


async def test_minutes_of_booting_and_of_idleness_pass_at_once(tmp_path: Path) -> None:
    clock = ManualClock()
    began = time.monotonic()
    with simulated_cloud("slow", clock, boot_s=600.0, delete_s=60.0) as cloud:
        settings = {"cloud": "slow", "poll_interval_s": "30"}
        async with AsyncProvider("simulator", "lab", tmp_path / "s", settings=settings, clock=clock) as provider:
            with clock.auto():
                await provider.deploy()
                flavor = await provider.cheapest_server_flavor(1, 512)
                server = await provider.spawn("", "", flavor, ttd=600, timeout=3600)
                assert clock.monotonic() >= 600
                asked = clock.monotonic()
                while any(thing.id == server.id for thing in cloud.everything()):
                    await clock.sleep(60)
                    assert clock.monotonic() - asked < 1200
                assert clock.monotonic() - asked >= 600
                assert server.destroyed
                await provider.tear_down()
    assert time.monotonic() - began < 100


async def test_the_first_server_is_given_twenty_minutes(tmp_path: Path) -> None:
    clock = ManualClock()
    with simulated_cloud("stuck", clock, boot_s=10.0, delete_s=1.0) as cloud:
        cloud.add_rules(StuckBuilding())
        settings = {"cloud": "stuck", "poll_interval_s": "5"}
        async with AsyncProvider("simulator", "lab", tmp_path / "s", settings=settings, clock=clock) as provider:
            with clock.auto():
                await provider.deploy()
                flavor = await provider.cheapest_server_flavor(1, 512)
                asked = clock.monotonic()
                with pytest.raises(ServerTimeoutError, match="1200 s"):
                    await provider.spawn("", "", flavor)
                assert 1200 <= clock.monotonic() - asked < 1300
                await asyncio.sleep(0)
                await provider.tear_down()
        assert cloud.everything() == []
