"""Servers arrive, or nothing is left of them, whatever the cloud does."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from pileus import (
    AsyncProvider,
    BadFlavorError,
    ConfigError,
    NoHardwareError,
    NoImageError,
    QuotaError,
    ServerFailedError,
    ServerGoneError,
    ServerTimeoutError,
    SpawnError,
)
from pileus.testing.rules import (
    EndInError,
    Hang,
    LoseReply,
    NoHardware,
    OverQuota,
    StuckBuilding,
    Throttle,
    Vanish,
)

from .conftest import Maker, SimulatedAccount


async def flavor_id(provider: AsyncProvider) -> str:
    return (await provider.cheapest_server_flavor(1, 512)).id


async def test_a_spawned_server_runs_and_has_an_address(provider: AsyncProvider, account: SimulatedAccount) -> None:
    told = []
    server = await provider.spawn(
        "", "", await flavor_id(provider), external_ip=True, on_using_quota=lambda: told.append(account.servers())
    )
    assert told == [[server.id]]
    assert server.ip
    assert server.is_head_node
    assert provider.head_node is server
    assert await provider.servers() == {server.id: server}
    assert await server.alive()


async def test_the_callback_comes_before_the_server_runs(provider: AsyncProvider, account: SimulatedAccount) -> None:
    account.cloud.add_rules(StuckBuilding(seconds=0.5))
    told = asyncio.Event()
    task = asyncio.create_task(provider.spawn("", "", await flavor_id(provider), on_using_quota=told.set))
    await told.wait()
    assert not task.done()
    await task


async def test_a_callback_that_fails_does_not_cost_the_server(provider: AsyncProvider) -> None:
    def fail() -> None:
        raise ValueError("a defect of the caller's")

    server = await provider.spawn("", "", await flavor_id(provider), on_using_quota=fail)
    assert await server.alive()


async def test_many_are_handed_over_as_each_gets_ready_and_a_straggler_blocks_nobody(
    provider: AsyncProvider, account: SimulatedAccount
) -> None:
    account.cloud.add_rules(StuckBuilding(nth=1, seconds=1.0))
    arrived = []
    stuck_while = []
    async for server in provider.spawn_many(5, "", "", await flavor_id(provider)):
        arrived.append(server)
        states = Counter(t.status.value for t in account.cloud.everything() if t.id in account.servers())
        stuck_while.append(states["building"])
    assert len(arrived) == 5
    assert stuck_while == [1, 1, 1, 1, 0]
    assert account.cloud.counts["create_servers"] == 1


async def test_leaving_the_loop_early_destroys_what_was_not_handed_over(
    provider: AsyncProvider, account: SimulatedAccount
) -> None:
    loop = provider.spawn_many(6, "", "", await flavor_id(provider))
    async for server in loop:  # noqa: B007  (used below)
        break
    await loop.aclose()  # type: ignore[attr-defined]
    assert account.servers() == [server.id]
    assert list(await provider.servers(all=True)) == [server.id]


async def test_failures_among_many_come_at_the_end_as_a_group_with_those_that_arrived(
    provider: AsyncProvider, account: SimulatedAccount
) -> None:
    account.cloud.add_rules(NoHardware(nth=2), EndInError(nth=3, fault="disk on fire", after_s=0.02))
    seen = []
    flavor = await flavor_id(provider)

    async def take_all() -> None:
        async for server in provider.spawn_many(4, "", "", flavor):
            seen.append(server)

    with pytest.raises(SpawnError) as caught:
        await take_all()
    assert len(seen) == 2
    assert list(caught.value.servers) == seen
    assert {type(error) for error in caught.value.exceptions} == {NoHardwareError, ServerFailedError}
    assert "disk on fire" in str(caught.value)
    assert provider.is_no_hardware(caught.value)
    assert sorted(account.servers()) == sorted(server.id for server in seen)


async def test_a_lost_reply_costs_nothing_and_makes_nothing_twice(
    provider: AsyncProvider, account: SimulatedAccount
) -> None:
    flavor = await flavor_id(provider)
    account.cloud.add_rules(LoseReply(operation="create_servers", nth=1))
    servers = await asyncio.gather(*(provider.spawn("", "", flavor) for _ in range(3)))
    assert sorted(account.servers()) == sorted(server.id for server in servers)


async def test_a_request_without_any_answer_is_carried_on_when_it_was_carried_out(
    provider: AsyncProvider, account: SimulatedAccount
) -> None:
    account.cloud.add_rules(Hang(operation="create_servers", nth=1, carried_out=True))
    server = await provider.spawn("", "", await flavor_id(provider))
    assert account.servers() == [server.id]


async def test_throttled_creates_all_arrive_and_none_twice(provider: AsyncProvider, account: SimulatedAccount) -> None:
    account.cloud.add_rules(Throttle(operation="create_server", every=3, times=4, retry_after_s=0.05))
    servers = [server async for server in provider.spawn_many(9, "", "", await flavor_id(provider))]
    assert len({server.id for server in servers}) == 9
    assert sorted(account.servers()) == sorted(server.id for server in servers)


async def test_a_disk_larger_than_the_flavors_is_a_volume_that_goes_with_the_server(
    provider: AsyncProvider, account: SimulatedAccount
) -> None:
    flavor = await provider.server_flavor(await flavor_id(provider))
    server = await provider.spawn("", "", flavor, disk_gb=flavor.disk + 30)
    volumes = [t for t in account.cloud.everything() if getattr(t, "kind", "") == "volume"]
    assert len(volumes) == 1
    assert server.disk == flavor.disk + 30
    await server.destroy()
    assert [t for t in account.cloud.everything() if getattr(t, "kind", "") == "volume"] == []


async def test_what_is_over_quota_is_refused_before_it_is_asked_for(make: Maker, account: SimulatedAccount) -> None:
    account.cloud._inventory.limits = type(account.cloud._inventory.limits)(max_instances=5)
    provider = make()
    await provider.deploy()
    with pytest.raises(SpawnError) as caught:
        async for _ in provider.spawn_many(4, "", "", await flavor_id(provider)):
            pass
    assert "instances" in str(caught.value)
    assert account.cloud.counts["create_servers"] == 0
    await provider.tear_down()


async def test_the_clouds_own_refusal_is_taken_as_the_truth(provider: AsyncProvider, account: SimulatedAccount) -> None:
    account.cloud.add_rules(OverQuota(nth=1))
    with pytest.raises(QuotaError):
        await provider.spawn("", "", await flavor_id(provider))
    assert account.servers() == []


async def test_a_limit_on_the_deployment_is_kept(make: Maker, account: SimulatedAccount) -> None:
    provider = make()
    await provider.deploy(max_servers=2)
    servers = [server async for server in provider.spawn_many(2, "", "", await flavor_id(provider))]
    with pytest.raises(QuotaError, match="max_servers"):
        await provider.spawn("", "", await flavor_id(provider))
    await servers[0].destroy()
    await provider.spawn("", "", await flavor_id(provider))
    await provider.tear_down()


async def test_no_hardware_is_told_from_other_failures(provider: AsyncProvider, account: SimulatedAccount) -> None:
    account.cloud.add_rules(NoHardware(nth=1))
    with pytest.raises(NoHardwareError) as caught:
        await provider.spawn("", "", await flavor_id(provider))
    assert provider.is_no_hardware(caught.value)
    assert not provider.is_no_hardware(QuotaError("no"))


async def test_a_server_that_ends_in_error_is_destroyed_and_its_console_shown(
    provider: AsyncProvider, account: SimulatedAccount
) -> None:
    account.cloud.add_rules(EndInError(nth=1, after_s=0.02, fault="no valid host was found"))
    with pytest.raises(ServerFailedError, match="no valid host") as caught:
        await provider.spawn("", "", await flavor_id(provider))
    assert caught.value.console
    assert caught.value.provider == "simulator"
    assert caught.value.operation == "spawn"
    assert account.servers() == []


async def test_a_server_that_vanishes_while_booting_is_an_error(
    provider: AsyncProvider, account: SimulatedAccount
) -> None:
    account.cloud.add_rules(StuckBuilding(nth=1), Vanish(nth=1, after_s=0.2))
    with pytest.raises(ServerGoneError, match="vanished"):
        await provider.spawn("", "", await flavor_id(provider))
    assert await provider.servers(all=True) == {}


async def test_a_server_that_never_boots_is_given_up_in_time_and_destroyed(
    provider: AsyncProvider, account: SimulatedAccount
) -> None:
    account.cloud.add_rules(StuckBuilding(nth=1))
    with pytest.raises(ServerTimeoutError, match="not active"):
        await provider.spawn("", "", await flavor_id(provider), timeout=0.3)
    assert account.servers() == []


async def test_a_cancelled_spawn_leaves_nothing(provider: AsyncProvider, account: SimulatedAccount) -> None:
    account.cloud.add_rules(StuckBuilding(seconds=None))
    for moment in (0.0, 0.001, 0.01, 0.1):
        task = asyncio.create_task(provider.spawn("", "", await flavor_id(provider)))
        await asyncio.sleep(moment)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert account.servers() == [], f"cancelled after {moment} s"


async def test_bad_input_is_refused_before_anything_is_created(
    provider: AsyncProvider, account: SimulatedAccount
) -> None:
    flavor = await flavor_id(provider)
    before = account.cloud.counts["create_servers"], len(account.ours())
    with pytest.raises(NoImageError, match="there"):
        await provider.spawn("no such image", "", flavor)
    with pytest.raises(BadFlavorError):
        await provider.spawn("", "", "no such flavor")
    for bad in ({"disk_gb": -1}, {"ttd": -1}, {"ttd": float("nan")}, {"timeout": "soon"}, {"disk_gb": 10**12}):
        with pytest.raises(ConfigError):
            await provider.spawn("", "", flavor, **bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        async for _ in provider.spawn_many(-1, "", "", flavor):
            pass
    assert (account.cloud.counts["create_servers"], len(account.ours())) == before


async def test_waiting_for_many_costs_one_listing_per_tick(provider: AsyncProvider, account: SimulatedAccount) -> None:
    account.cloud.boot_s = 0.5
    flavor = await flavor_id(provider)
    account.cloud.forget_calls()
    servers = await asyncio.gather(*(provider.spawn("", "", flavor) for _ in range(200)))
    assert len({server.id for server in servers}) == 200
    counts = account.cloud.counts
    assert counts["create_servers"] == 1
    assert counts["quota"] == 1
    times = [call.at for call in account.cloud.calls if call.operation == "list_servers"]
    assert len(times) <= (times[-1] - times[0]) / 0.03 + 2
