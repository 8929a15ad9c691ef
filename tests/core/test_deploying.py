"""What a deployment makes, finds again, and finishes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pileus import AsyncProvider, BadCIDRError, ConfigError, ProviderError, StateError
from pileus.drivers.base import TAG_DEPLOYMENT, TAG_INTENT, TAG_NAME, TAG_OWNER
from pileus.testing.rules import Fail, LoseReply

from .conftest import Maker, SimulatedAccount


async def test_deploy_makes_what_the_driver_plans_and_tags_all_of_it(
    provider: AsyncProvider, account: SimulatedAccount
) -> None:
    things = [thing for thing in account.cloud.everything() if thing.id not in account.planted]
    assert sorted(thing.kind for thing in things) == ["firewall", "keypair", "network"]
    for thing in things:
        assert thing.tags[TAG_DEPLOYMENT] == provider.deployment_id
        assert thing.tags[TAG_NAME] == "lab-1"
        assert "@" in thing.tags[TAG_OWNER]
        assert thing.tags[TAG_INTENT]
    assert set(provider.resources.details) == {"firewall", "keypair", "network"}


async def test_deploying_again_makes_nothing_more(provider: AsyncProvider, account: SimulatedAccount) -> None:
    before = account.ours()
    await provider.deploy()
    assert account.ours() == before


async def test_the_private_key_is_on_disk_before_its_public_half_is_in_the_cloud(
    make: Maker, account: SimulatedAccount
) -> None:
    account.cloud.add_rules(Fail(operation="create_resource", nth=1, error="AuthenticationError"))
    provider = make()
    with pytest.raises(ProviderError):
        await provider.deploy()
    assert "PRIVATE KEY" in provider.private_key
    assert provider.private_key_path.read_text() == provider.private_key
    assert provider.private_key_path.stat().st_mode & 0o777 == 0o600
    account.cloud.clear_rules()
    await provider.tear_down()


async def test_a_deploy_that_failed_half_way_is_finished_by_the_next(make: Maker, account: SimulatedAccount) -> None:
    account.cloud.add_rules(Fail(operation="create_resource", nth=3, error="QuotaError"))
    provider = make()
    with pytest.raises(ProviderError):
        await provider.deploy()
    assert not provider.deployed
    first = set(account.ours())
    assert len(first) == 2
    account.cloud.clear_rules()
    await provider.deploy()
    assert first < set(account.ours())
    assert len(account.ours()) == 3
    await provider.tear_down()
    assert account.ours() == []


async def test_a_resource_whose_reply_was_lost_is_found_and_not_made_twice(
    make: Maker, account: SimulatedAccount
) -> None:
    account.cloud.add_rules(LoseReply(operation="create_resource", nth=2))
    provider = make()
    await provider.deploy()
    assert len(account.ours()) == 3
    await provider.tear_down()
    assert account.ours() == []


async def test_a_resource_deleted_behind_our_back_is_made_anew(
    provider: AsyncProvider, account: SimulatedAccount
) -> None:
    network = provider.resources.details["network"]
    [thing] = [thing for thing in account.cloud.everything() if thing.id == network]
    account.cloud._inventory.delete_resource(thing.id)
    await provider.deploy()
    assert provider.resources.details["network"] != network
    assert len(account.ours()) == 3


async def test_a_later_process_finds_key_and_deployment(provider: AsyncProvider, make: Maker) -> None:
    later = make()
    assert later.deployed
    assert later.private_key == provider.private_key
    assert later.deployment_id == provider.deployment_id


async def test_bad_configuration_is_refused_before_anything_is_asked(make: Maker, account: SimulatedAccount) -> None:
    provider = make()
    with pytest.raises(BadCIDRError):
        await provider.deploy(cidr="192.168.0.0/33")
    with pytest.raises(ConfigError, match="no_such_field"):
        await provider.deploy(no_such_field=1)
    with pytest.raises(ConfigError):
        await provider.deploy(required_ports=(0,))
    assert account.cloud.calls == []


async def test_spawning_without_a_deployment_says_what_to_do(make: Maker) -> None:
    provider = make()
    with pytest.raises(StateError, match="deploy"):
        await provider.spawn("", "", "m1")


async def test_with_its_state_lost_the_one_deployment_of_that_name_is_adopted(
    make: Maker, provider: AsyncProvider, account: SimulatedAccount, tmp_path: Path
) -> None:
    flavor = await provider.cheapest_server_flavor(1, 512)
    server = await provider.spawn("", "", flavor)
    elsewhere = make(save_path=tmp_path / "elsewhere")
    await elsewhere.deploy()
    assert elsewhere.deployment_id == provider.deployment_id
    found = await elsewhere.server_by_name(server.name)
    assert found is not None
    assert found.id == server.id
    assert len(account.ours()) == 4
    await found.destroy()
    assert account.servers() == []


async def test_with_several_deployments_of_that_name_one_must_be_chosen(
    make: Maker, account: SimulatedAccount, tmp_path: Path
) -> None:
    one, other = make(save_path=tmp_path / "one"), make(save_path=tmp_path / "other", cloud=account.name)
    account.cloud.plant(name="x", tags={TAG_DEPLOYMENT: "d-1111111111111111", TAG_NAME: "lab-1"})
    account.cloud.plant(name="y", tags={TAG_DEPLOYMENT: "d-2222222222222222", TAG_NAME: "lab-1"})
    with pytest.raises(StateError, match=r"d-1111111111111111.*d-2222222222222222"):
        await one.deploy()
    with pytest.raises(StateError, match="choose one"):
        await other.tear_down()
    chosen = AsyncProvider(
        "simulator",
        "lab-1",
        tmp_path / "chosen",
        settings={"cloud": account.name, "poll_interval_s": "0.03"},
        deployment_id="d-2222222222222222",
    )
    async with chosen:
        await chosen.tear_down()
    names = [thing.name for thing in account.cloud.everything()]
    assert "y" not in names
    assert "x" in names
