"""Destroying, settling what a crash left, tearing down and proving it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pileus import (
    AsyncProvider,
    AuthenticationError,
    ConfigError,
    NotFoundError,
    PileusError,
    ServerFailedError,
    StateError,
    TearDownError,
)
from pileus.drivers.base import TAG_DEPLOYMENT, TAG_NAME
from pileus.testing.rules import DeleteEndsInError, EndInError, Fail, Slow, SlowDelete
from pileus.testing.simulator_process import SimulatorProcess

from .conftest import Maker, SimulatedAccount


async def spawn(provider: AsyncProvider, n: int = 1) -> list[str]:
    flavor = await provider.cheapest_server_flavor(1, 512)
    return [server.id async for server in provider.spawn_many(n, "", "", flavor)]


async def test_destroying_waits_until_it_is_gone_and_may_be_repeated(
    provider: AsyncProvider, account: SimulatedAccount
) -> None:
    [server_id] = await spawn(provider)
    server = (await provider.servers(all=True))[server_id]
    await server.destroy()
    assert account.servers() == []
    assert server.destroyed
    await server.destroy()
    assert await provider.servers(all=True) == {}
    assert not await server.alive()
    assert not await server.not_bad()


async def test_destroying_what_is_not_ours_is_refused(provider: AsyncProvider, account: SimulatedAccount) -> None:
    for other in account.planted:
        with pytest.raises(NotFoundError):
            await provider.destroy_server(other)
    with pytest.raises(NotFoundError):
        await provider.destroy_server("no such id")


async def test_many_destroyed_together_share_a_request(provider: AsyncProvider, account: SimulatedAccount) -> None:
    ids = await spawn(provider, 30)
    account.cloud.forget_calls()
    await asyncio.gather(*(provider.destroy_server(server_id) for server_id in ids))
    assert account.cloud.counts["delete_servers"] == 1
    assert account.servers() == []


async def test_a_delete_that_fails_or_ends_in_error_is_repeated(
    provider: AsyncProvider, account: SimulatedAccount
) -> None:
    first, second = await spawn(provider, 2)
    account.cloud.add_rules(Fail(operation="delete_servers", nth=1))
    await provider.destroy_server(first)
    account.cloud.clear_rules()
    account.cloud.add_rules(DeleteEndsInError(nth=1))
    await provider.destroy_server(second)
    assert account.servers() == []


async def test_tear_down_visits_everything_goes_on_after_a_failure_and_names_what_is_left(
    make: Maker, account: SimulatedAccount
) -> None:
    provider = make()
    await provider.deploy()
    ids = await spawn(provider, 3)
    account.cloud.add_rules(Fail(operation="delete_server", nth=1, error="AuthenticationError", times=0))
    account.cloud.add_rules(
        *(Fail(operation="delete_resource", nth=n, error="AuthenticationError") for n in range(1, 9))
    )
    with pytest.raises(TearDownError) as caught:
        await provider.tear_down()
    left = account.servers()
    assert len(left) == 1
    assert left[0] in ids
    assert any(left[0] in line for line in caught.value.leftovers)
    assert left[0] in str(caught.value)
    with pytest.raises(StateError, match="torn down"):
        await provider.deploy()
    account.cloud.clear_rules()
    await provider.tear_down()
    assert account.ours() == []
    await provider.tear_down()


async def test_after_tear_down_the_secrets_are_gone_and_a_new_deployment_has_another_id(
    make: Maker, account: SimulatedAccount, tmp_path: Path
) -> None:
    provider = make()
    await provider.deploy()
    await spawn(provider)
    first, key = provider.deployment_id, provider.private_key
    secret = key.splitlines()[2].encode()
    assert any(secret in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    await provider.tear_down()
    assert provider.private_key == ""
    assert provider.deployment_id == ""
    assert not any(secret in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    await provider.deploy()
    assert provider.deployment_id != first
    assert provider.private_key != key
    await provider.tear_down()


async def test_nothing_to_tear_down_is_success_but_wrong_credentials_are_an_error(
    make: Maker, account: SimulatedAccount
) -> None:
    provider = make()
    await provider.tear_down()
    account.cloud.add_rules(Fail(operation="*", every=1, error="AuthenticationError"))
    with pytest.raises(AuthenticationError):
        await provider.tear_down()


async def test_deployments_whose_names_begin_the_same_never_see_each_other(
    make: Maker, account: SimulatedAccount
) -> None:
    two, twenty = make("lab-2"), make("lab-20")
    await two.deploy()
    await twenty.deploy()
    ours = await spawn(two)
    theirs = await spawn(twenty)
    assert list(await two.servers(all=True)) == ours
    assert {item.resource_name for item in await two.audit()} == {"lab-2"}
    with pytest.raises(NotFoundError):
        await two.destroy_server(theirs[0])
    await two.tear_down()
    assert account.servers() == theirs
    assert {item.resource_name for item in await twenty.audit()} == {"lab-20"}
    await twenty.tear_down()
    assert account.ours() == []


async def test_a_tear_down_without_its_state_finds_everything_by_the_name(
    make: Maker, provider: AsyncProvider, account: SimulatedAccount, tmp_path: Path
) -> None:
    await spawn(provider, 2)
    elsewhere = make(save_path=tmp_path / "elsewhere")
    await elsewhere.tear_down()
    assert account.ours() == []


async def test_a_server_that_vanished_behind_our_back_is_noticed(
    provider: AsyncProvider, account: SimulatedAccount
) -> None:
    [server_id] = await spawn(provider)
    server = (await provider.servers(all=True))[server_id]
    account.cloud.remove(server_id)
    assert not await server.alive()
    await server.destroy()
    assert server.destroyed


async def test_a_slow_delete_is_waited_for(provider: AsyncProvider, account: SimulatedAccount) -> None:
    [server_id] = await spawn(provider)
    account.cloud.add_rules(SlowDelete(seconds=0.4))
    await provider.destroy_server(server_id)
    assert account.servers() == []


async def test_the_audit_shows_everything_with_our_tags(provider: AsyncProvider, account: SimulatedAccount) -> None:
    [server_id] = await spawn(provider)
    tags = {TAG_DEPLOYMENT: "d-3333333333333333", TAG_NAME: "other"}
    account.planted.add(account.cloud.plant(name="z", tags=tags))
    mine = {item.id: item for item in await provider.audit()}
    assert mine[server_id].ours
    assert mine[server_id].known
    assert mine[server_id].kind == "server"
    assert {item.deployment_id for item in mine.values()} == {provider.deployment_id}
    all_ids = {item.deployment_id for item in await provider.audit(every_deployment=True)}
    assert "d-3333333333333333" in all_ids


CLIENT = """
import asyncio, sys, json
from pileus import AsyncProvider
async def main():
    provider = AsyncProvider("simulator", "lab-1", sys.argv[2], settings={"url": sys.argv[1], "poll_interval_s": "0.05",
        "request_timeout_s": "2"})
    await provider.deploy()
    flavor = await provider.cheapest_server_flavor(1, 512)
    print("asking", flush=True)
    async for server in provider.spawn_many(3, "", "", flavor):
        print(json.dumps(server.id), flush=True)
asyncio.run(main())
"""


async def test_what_a_killed_process_had_asked_for_is_settled_by_the_next(tmp_path: Path) -> None:
    with SimulatorProcess(boot_s=0.1, delete_s=0.05) as simulator:
        simulator.cloud.add_rules(Slow(operation="create_servers", seconds=30, carried_out_first=True))
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, simulator.url, str(tmp_path / "state")], stdout=subprocess.PIPE, text=True
        )
        assert client.stdout is not None
        assert client.stdout.readline().strip() == "asking"
        while sum(hasattr(thing, "status") for thing in simulator.cloud.everything()) < 3:
            assert client.poll() is None
            await asyncio.sleep(0.02)
        os.kill(client.pid, signal.SIGKILL)
        client.wait()
        client.stdout.close()
        simulator.cloud.clear_rules()
        settings = {"url": simulator.url, "poll_interval_s": "0.05", "request_timeout_s": "2"}
        async with AsyncProvider("simulator", "lab-1", tmp_path / "state", settings=settings) as provider:
            assert await provider.servers(all=True) == {}
            await provider.deploy()
            assert [thing for thing in simulator.cloud.everything() if hasattr(thing, "status")] == []
            assert len(await spawn(provider, 2)) == 2
            await provider.tear_down()
        assert simulator.cloud.everything() == []


async def test_secrets_are_in_no_repr_and_no_log(provider: AsyncProvider, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    ids = await spawn(provider)
    server = (await provider.servers(all=True))[ids[0]]
    shown = "\n".join([repr(provider), repr(server), repr(provider.resources), repr(server._row), caplog.text])
    shown += provider._repr_html_() + server._repr_html_() + json.dumps(server.name)
    secret = provider.private_key.splitlines()[2]
    assert secret not in shown
    assert "PRIVATE" not in shown


async def test_a_tear_down_destroys_what_is_listed_even_if_the_state_believes_it_gone(
    make: Maker, account: SimulatedAccount
) -> None:
    provider = make()
    await provider.deploy()
    first, second = await spawn(provider, 2)
    for server_id in (first, second):
        await provider._core.journal.store.write(lambda s, gone=server_id: s.claim_destroy(gone))
        await provider._core.journal.store.write(lambda s, gone=server_id: s.mark_destroyed(gone))
    assert await provider.servers(all=True) == {}
    assert sorted(account.servers()) == sorted([first, second])
    await provider.tear_down()
    assert account.ours() == []


async def test_what_is_shown_without_asking_is_as_new_as_the_servers_themselves(provider: AsyncProvider) -> None:
    flavor = await provider.cheapest_server_flavor(1, 512)
    server = await provider.spawn("", "", flavor, external_ip=True)
    await server.gone_bad("its disk lies")
    assert provider.resources.servers[server.id].permanent_problem == "its disk lies"
    assert provider.head_node is not None
    assert provider.head_node.permanent_problem == "its disk lies"
    assert server.name in provider._repr_html_()
    await server.destroy()
    assert server.name not in provider._repr_html_()


async def test_nonsense_is_refused_in_words(provider: AsyncProvider) -> None:
    with pytest.raises(ConfigError, match="flavor must be"):
        await provider.spawn("", "", None)  # type: ignore[arg-type]
    server = await provider.spawn("", "", await provider.cheapest_server_flavor(1, 512))
    with pytest.raises(ConfigError, match=r"shlex\.join"):
        await server.run_cmd(["a", "b"])  # type: ignore[arg-type]


async def test_a_tear_down_right_after_a_deploy_waits_for_the_listing_to_show_what_was_made(
    make: Maker, account: SimulatedAccount
) -> None:
    account.cloud.listing_lag_s = 1.0
    provider = make()
    await provider.deploy()
    await provider.tear_down()
    assert account.ours() == []


async def test_a_process_that_missed_a_tear_down_spawns_nothing_under_the_old_id(
    make: Maker, account: SimulatedAccount
) -> None:
    late, other = make(), make()
    await late.deploy()
    await other.tear_down()
    await other.deploy()
    flavor = await late.cheapest_server_flavor(1, 512)
    with pytest.raises(StateError, match="in its place"):
        await late.spawn("", "", flavor)
    assert account.servers() == []
    server = await late.spawn("", "", flavor)
    assert late.deployment_id == other.deployment_id
    assert server.id in await other.servers(all=True)
    await other.tear_down()
    assert account.ours() == []


async def test_a_state_deleted_while_in_use_is_noticed_before_anything_is_asked_for(
    make: Maker, account: SimulatedAccount, tmp_path: Path
) -> None:
    provider = make()
    await provider.deploy()
    provider.state_path.unlink()
    asked = account.cloud.counts["create_servers"]
    with pytest.raises(StateError, match="deleted"):
        await provider.spawn("", "", await provider.cheapest_server_flavor(1, 512))
    assert account.cloud.counts["create_servers"] == asked
    await provider.aclose()
    again = make(save_path=tmp_path / "elsewhere")
    await again.tear_down()
    assert account.ours() == []


async def test_the_key_of_a_deploy_that_died_early_goes_with_the_tear_down(make: Maker) -> None:
    provider = make()
    provider.private_key_path.write_text("a key of which nobody knows\n")
    await provider.tear_down()
    assert not provider.private_key_path.exists()


async def test_an_error_while_cleaning_up_does_not_hide_the_first(
    provider: AsyncProvider, account: SimulatedAccount
) -> None:
    account.cloud.add_rules(EndInError(nth=1, after_s=0.02, fault="the hypervisor broke"))
    account.cloud.add_rules(*(Fail(operation="delete_servers", nth=n, error="AuthenticationError") for n in (1, 2)))
    flavor = await provider.cheapest_server_flavor(1, 512)
    with pytest.raises(ServerFailedError, match="hypervisor broke") as caught:
        await provider.spawn("", "", flavor)
    assert any("could not be destroyed" in note for note in caught.value.__notes__)


async def test_closing_a_provider_ends_the_waiting_of_others_with_an_error(
    make: Maker, account: SimulatedAccount
) -> None:
    account.cloud.boot_s = 60.0
    provider = make()
    await provider.deploy()
    spawning = asyncio.create_task(provider.spawn("", "", await provider.cheapest_server_flavor(1, 512)))
    while not account.servers():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    await provider.aclose()
    with pytest.raises(PileusError):
        await spawning
    again = make()
    await again.tear_down()
    assert account.ours() == []
