"""Waiting for a server to be ready, when it never will be."""

from __future__ import annotations

import asyncio
import time

import pytest

from pileus import AsyncProvider, ServerFailedError, ServerGoneError, ServerTimeoutError
from pileus.drivers.base import ServerStatus

from .conftest import SimulatedAccount


async def test_a_server_that_vanishes_is_not_waited_for(provider: AsyncProvider, account: SimulatedAccount) -> None:
    server = await provider.spawn("", "", await provider.cheapest_server_flavor(1, 512))
    waiting = asyncio.create_task(server.wait_until_ready(timeout=60))
    await asyncio.sleep(0.2)
    account.cloud.remove(server.id)
    began = time.monotonic()
    with pytest.raises(ServerGoneError, match="vanished"):
        await waiting
    assert time.monotonic() - began < 30


async def test_a_server_that_stops_is_not_waited_for(provider: AsyncProvider, account: SimulatedAccount) -> None:
    server = await provider.spawn("", "", await provider.cheapest_server_flavor(1, 512))
    account.cloud.change(server.id, ServerStatus.ERROR, fault="its disk is on fire")
    with pytest.raises(ServerFailedError, match="on fire"):
        await server.wait_until_ready(timeout=60)


async def test_a_server_without_ssh_is_given_up_in_time_with_its_console(
    provider: AsyncProvider, account: SimulatedAccount
) -> None:
    server = await provider.spawn("", "", await provider.cheapest_server_flavor(1, 512))
    with pytest.raises(ServerTimeoutError, match="console") as caught:
        await server.wait_until_ready(timeout=0.5)
    assert server.name in str(caught.value)
    assert server.id in account.servers()
