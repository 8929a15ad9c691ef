"""Servers that nobody uses go; those in use by any process stay."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pileus import AsyncProvider, AsyncServer

from .conftest import Maker, SimulatedAccount


async def spawn(provider: AsyncProvider, ttd: float) -> AsyncServer:
    flavor = await provider.cheapest_server_flavor(2, 1024)
    return await provider.spawn("", "", flavor, ttd=ttd)


async def gone(account: SimulatedAccount, server: AsyncServer, within: float = 5.0) -> bool:
    for _ in range(int(within / 0.02)):
        if server.id not in account.servers():
            return True
        await asyncio.sleep(0.02)
    return False


async def test_a_server_without_ttd_is_never_idle(provider: AsyncProvider, account: SimulatedAccount) -> None:
    server = await spawn(provider, 0)
    assert not await gone(account, server, 0.5)


async def test_an_idle_server_is_destroyed_after_its_ttd(provider: AsyncProvider, account: SimulatedAccount) -> None:
    server = await spawn(provider, 0.2)
    assert await gone(account, server)
    assert server.destroyed
    assert await provider.servers(all=True) == {}


async def test_an_allocation_stops_the_idle_clock_and_the_last_release_starts_it(
    provider: AsyncProvider, account: SimulatedAccount
) -> None:
    server = await spawn(provider, 0.6)
    assert await server.allocate(1, 100, 0)
    assert await server.allocate(1, 100, 0)
    assert not await gone(account, server, 1.0)
    assert await server.release(1, 100, 0)
    assert not await gone(account, server, 1.0)
    assert await server.release(1, 100, 0)
    assert await gone(account, server)


async def test_another_process_takes_over_watching(
    provider: AsyncProvider, make: Maker, account: SimulatedAccount
) -> None:
    first = make()
    server = await spawn(first, 0.5)
    await first.aclose()
    async with make() as second:
        assert await gone(account, server, 8.0)
        assert await second.servers(all=True) == {}


HOLDER = """
import asyncio, sys
from pileus.state import Store, nano_cores
store = Store.open(sys.argv[1], provider="simulator", resource_name="lab-1")
session = store.begin_session()
assert store.allocate(sys.argv[2], session, nano_cores(1), 10, 0)
print("held", flush=True)
sys.stdin.read()
"""


async def test_what_another_process_holds_is_not_idle_until_that_process_is_dead(
    provider: AsyncProvider, account: SimulatedAccount, tmp_path: Path
) -> None:
    server = await spawn(provider, 0.8)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(provider.state_path), server.id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline().strip() == "held"
    assert not await gone(account, server, 1.5)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    holder.stdin.close()
    assert await gone(account, server, 15.0)


async def test_room_adds_up_exactly_and_never_over(provider: AsyncProvider) -> None:
    server = await spawn(provider, 0)
    cores = server.flavor.cores
    for _ in range(cores * 10):
        assert await server.allocate(0.1, 0, 0)
    assert not await server.allocate(0.1, 0, 0)
    assert await server.allocate(0, 1, 0)
    assert await server.has_space_for(0.1, 0, 0) == 0
    assert await server.has_space_for(0, 1, 0) == server.flavor.ram - 1
    for _ in range(cores * 10):
        assert await server.release(0.1, 0, 0)
    assert await server.has_space_for(1 / 3, 0, 0) == 3 * cores
    usage = (await provider.usage())[server.id]
    assert usage.cores == 0
    assert usage.busy


async def test_a_server_gone_bad_takes_nothing_until_it_is_not(provider: AsyncProvider) -> None:
    server = await spawn(provider, 0)
    await server.gone_bad()
    assert server.is_bad
    assert not await server.allocate(1, 1, 0)
    assert await server.has_space_for(1, 1, 0) == 0
    assert await server.not_bad()
    assert await server.allocate(1, 1, 0)
    await server.gone_bad("its disk lies")
    assert server.permanent_problem == "its disk lies"
    assert not await server.not_bad()
    assert server.is_bad


async def test_a_state_that_is_busy_for_a_while_does_not_end_the_watching(
    make: Maker, account: SimulatedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = AsyncProvider(
        "simulator",
        "lab-1",
        make().state_path.with_name("busy"),
        settings={"cloud": account.name, "poll_interval_s": "0.03"},
        busy_timeout=0.1,
    )
    monkeypatch.setattr("pileus.core.idle.LOOK_S", 0.3)
    async with provider:
        await provider.deploy()
        server = await spawn(provider, 0.8)
        with sqlite3.connect(provider.state_path) as other:
            other.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(1.5)
            other.rollback()
        other.close()
        assert await gone(account, server, 10.0)
        await provider.tear_down()


async def test_a_cancelled_use_or_allocation_leaves_the_server_free(
    provider: AsyncProvider, account: SimulatedAccount
) -> None:
    server = await spawn(provider, 1.5)
    for turns in range(6):
        for work in (server.run_cmd("true"), server.allocate(1, 1, 0)):
            task = asyncio.create_task(work)  # type: ignore[arg-type]
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert await gone(account, server, 10.0)
