"""The simulated cloud when nothing goes wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from pileus.drivers.base import TAG_DEPLOYMENT, ResourceRequest, ServerStatus
from pileus.errors import ConfigError, NoImageError, NotFoundError, ProviderError, QuotaError
from pileus.models import DeployConfig, Quota
from pileus.testing import ManualClock, SimulatedCloud, SimulatorDriver, cloud_named, forget_cloud, simulated_cloud

from .conftest import Ground, call


def test_a_server_boots_and_goes_by_the_clouds_clock(ground: Ground) -> None:
    record = ground.server()
    assert record.status is ServerStatus.BUILDING
    assert record.address == ""
    ground.clock.tick(9.9)
    assert ground.listed() == {"server": "building"}
    ground.clock.tick(0.1)
    [shown] = ground.driver.list_servers("d1", call())
    assert (shown.status, shown.address[:4], shown.port) == (ServerStatus.ACTIVE, "127.", 22)
    ground.driver.delete_servers([record.id], call())
    ground.clock.tick(1.9)
    assert ground.listed() == {"server": "deleting"}
    ground.clock.tick(0.1)
    assert ground.cloud.everything() == []


def test_a_server_deleted_while_it_builds_never_becomes_active(make_ground: Callable[..., Ground]) -> None:
    ground = make_ground(boot_s=1.0, delete_s=5.0)
    record = ground.server()
    ground.driver.delete_servers([record.id], call())
    ground.clock.tick(2)
    assert ground.listed() == {"server": "deleting"}


def test_two_creates_of_one_intent_make_two_servers(ground: Ground) -> None:
    request = ground.request()
    for _ in range(2):
        ground.driver.create_servers([request], call())
    assert len(ground.cloud.everything()) == 2


def test_what_is_new_is_listed_only_after_the_lag(make_ground: Callable[..., Ground]) -> None:
    ground = make_ground(listing_lag_s=3.0, boot_s=1.0)
    ground.server()
    assert ground.driver.capabilities.listing_lag_s == 3.0
    ground.clock.tick(2.9)
    assert ground.listed() == {}
    assert len(ground.cloud.everything()) == 1
    ground.clock.tick(0.1)
    assert ground.listed() == {"server": "active"}


def test_what_goes_before_it_was_listed_never_is(make_ground: Callable[..., Ground]) -> None:
    ground = make_ground(listing_lag_s=3.0, delete_s=0.0)
    record = ground.server()
    ground.driver.delete_servers([record.id], call())
    ground.clock.tick(5)
    assert ground.listed() == {}


@pytest.mark.parametrize(
    ("limits", "fitting"),
    [
        (Quota(max_instances=2), 2),
        (Quota(max_cores=3), 3),
        (Quota(max_ram=2 * 1024), 1),
    ],
)
def test_the_quota_is_enforced_and_freed_when_servers_are_gone(
    make_ground: Callable[..., Ground], limits: Quota, fitting: int
) -> None:
    ground = make_ground(limits=limits, delete_s=1.0)
    outcomes = ground.create("a", "b", "c", "d")
    assert [outcome.record is not None for outcome in outcomes] == [True] * fitting + [False] * (4 - fitting)
    assert all(isinstance(outcome.error, QuotaError) for outcome in outcomes[fitting:])
    used = ground.driver.quota(call())
    assert (used.used_instances, used.used_cores, used.used_ram) == (fitting, fitting, fitting * 2048)
    ids = [outcome.record.id for outcome in outcomes if outcome.record]
    ground.driver.delete_servers(ids, call())
    assert isinstance(ground.create("e")[0].error, QuotaError), "what is being deleted still counts"
    ground.clock.tick(1)
    assert ground.create("e")[0].record


def test_volumes_count_are_tied_to_their_server_and_go_with_it(make_ground: Callable[..., Ground]) -> None:
    ground = make_ground(limits=Quota(max_volume=50), delete_s=1.0)
    large = ground.request(disk_gb=40)
    [part] = ground.driver.server_parts(large)
    request = ResourceRequest("v1", part.kind, "server-boot", {TAG_DEPLOYMENT: "d1"}, part.spec)
    volume = ground.driver.create_resource(request, {}, call())
    assert ground.driver.quota(call()).used_volume == 40
    with pytest.raises(QuotaError):
        ground.driver.create_resource(request, {}, call())
    [outcome] = ground.driver.create_servers([replace(large, resources={"volume": volume})], call())
    assert outcome.record
    with pytest.raises(ProviderError, match="in use"):
        ground.driver.delete_resource(volume, call())
    [second] = ground.driver.create_servers([replace(large, resources={"volume": volume})], call())
    assert second.error
    assert "attached" in str(second.error)
    ground.driver.delete_servers([outcome.record.id], call())
    ground.clock.tick(1)
    assert ground.cloud.everything() == []
    assert ground.driver.quota(call()).used_volume == 0


def test_a_network_cannot_go_while_a_server_uses_it(ground: Ground) -> None:
    made = {}
    for planned in ground.driver.plan(DeployConfig(), "ssh-ed25519 AAAA"):
        request = ResourceRequest(planned.kind, planned.kind, planned.kind, {TAG_DEPLOYMENT: "d1"}, planned.spec)
        made[planned.kind] = ground.driver.create_resource(request, made, call())
    record = ground.server(resources=made)
    with pytest.raises(ProviderError, match="in use") as caught:
        ground.driver.delete_resource(made["network"], call())
    assert not isinstance(caught.value, NotFoundError)
    ground.driver.delete_servers([record.id], call())
    ground.clock.tick(2)
    ground.driver.delete_resource(made["network"], call())
    with pytest.raises(NotFoundError):
        ground.driver.delete_resource(made["network"], call())


def test_a_request_that_names_what_is_gone_is_refused(ground: Ground) -> None:
    request = ResourceRequest("n", "network", "n", {TAG_DEPLOYMENT: "d1"})
    network = ground.driver.create_resource(request, {}, call())
    ground.driver.delete_resource(network, call())
    [outcome] = ground.create("a", resources={"network": network})
    assert isinstance(outcome.error, NotFoundError)
    assert ground.cloud.everything() == []


def test_an_unknown_image_and_one_too_large_are_refused(ground: Ground) -> None:
    images = ground.driver.images(call())
    assert isinstance(ground.create("a", image=replace(images[0], id="none"))[0].error, NoImageError)
    assert isinstance(ground.create("b", image=images[2])[0].error, ProviderError)
    assert ground.cloud.everything() == []


def test_every_call_is_logged_with_its_time_its_size_and_its_end(ground: Ground) -> None:
    ground.cloud.forget_calls()
    ground.clock.tick(5)
    ground.driver.delete_servers(["x", "y"], call())
    with pytest.raises(NotFoundError):
        ground.driver.console("x", call())
    [deleting, console] = ground.cloud.calls
    assert (deleting.operation, deleting.at, deleting.count, deleting.request_id) == (
        "delete_servers",
        5.0,
        2,
        "request-1",
    )
    assert (deleting.ended, deleting.error) == (5.0, "")
    assert console.error == "NotFoundError"
    assert ground.cloud.counts == {"delete_servers": 1, "console": 1}


def test_planted_things_exist_beside_ours(ground: Ground) -> None:
    stranger = ground.cloud.plant(name="server")
    ours = ground.cloud.plant("network", name="net", tags={TAG_DEPLOYMENT: "d1"})
    assert {thing.id for thing in ground.cloud.everything()} == {stranger, ours}
    assert ground.driver.list_servers(None, call()) == []
    assert [one.id for one in ground.driver.list_resources("d1", call())] == [ours]


def test_servers_can_change_and_go_behind_everybodys_back(ground: Ground) -> None:
    one, two = ground.server("one"), ground.server("two")
    ground.cloud.change(one.id, ServerStatus.ERROR, fault="the host is on fire")
    ground.cloud.remove(two.id)
    [shown] = ground.driver.list_servers("d1", call())
    assert (shown.status, shown.fault) == (ServerStatus.ERROR, "the host is on fire")
    assert "on fire" in ground.driver.console(one.id, call())


def test_latency_holds_a_call_until_the_clock_moves(make_ground: Callable[..., Ground]) -> None:
    ground = make_ground(latency_s=2.0)
    with ground.clock.auto(quiet_s=0.001):
        ground.driver.images(call())
    assert ground.clock.monotonic() == 2.0


def test_an_endpoint_is_asked_where_servers_answer(make_ground: Callable[..., Ground]) -> None:
    ground = make_ground(endpoint=lambda request, number: ("127.0.0.1", 2200 + number), boot_s=0.0, keep_requests=True)
    one, two = ground.server("one"), ground.server("two", user_data=b"#!/bin/sh\n")
    assert {shown.id: shown.port for shown in ground.driver.list_servers("d1", call())} == {one.id: 2201, two.id: 2202}
    assert ground.cloud.requests[two.id].user_data == b"#!/bin/sh\n"


def test_listing_many_servers_builds_no_record_anew(ground: Ground) -> None:
    ground.driver.create_servers([ground.request(f"s{number}") for number in range(1000)], call())
    ground.clock.tick(10)
    first = ground.driver.list_servers("d1", call())
    second = ground.driver.list_servers("d1", call())
    assert len(first) == 1000
    assert all(one is other for one, other in zip(first, second, strict=True))


def test_drivers_that_name_one_cloud_share_it() -> None:
    with simulated_cloud("shared-by-two") as cloud:
        one, two = SimulatorDriver({"cloud": "shared-by-two"}), SimulatorDriver({"cloud": "shared-by-two"})
        assert one.cloud is two.cloud is cloud
        with pytest.raises(ConfigError, match="already"), simulated_cloud("shared-by-two"):
            pass
    try:
        assert cloud_named("shared-by-two") is not cloud
    finally:
        forget_cloud("shared-by-two")


def test_settings_make_the_cloud_and_tell_the_capabilities() -> None:
    settings = {
        "cloud": "by-settings",
        "boot_s": "3",
        "max_instances": "7",
        "max_batch": "50",
        "poll_interval_s": "0.5",
    }
    driver = SimulatorDriver(settings)
    try:
        assert isinstance(driver.cloud, SimulatedCloud)
        assert driver.cloud.boot_s == 3.0
        assert driver.quota(call()).max_instances == 7
        assert (driver.capabilities.max_batch, driver.capabilities.poll_interval_s) == (50, 0.5)
    finally:
        forget_cloud("by-settings")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"boots": "3"}, "boots"),
        ({"boot_s": "soon"}, "boot_s"),
        ({"boot_s": "-1"}, "boot_s"),
        ({"latency_s": "inf"}, "latency_s"),
        ({"max_cores": "1.5"}, "max_cores"),
        ({"url": "http://example.org"}, "url"),
        ({"url": "tcp://192.0.2.1:80"}, "url"),
        ({"url": "unix:///tmp/x?listing_lag_s=much"}, "url"),
    ],
)
def test_a_bad_setting_is_refused_and_named(settings: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SimulatorDriver(settings)
    assert caught.value.setting == named


def test_any_clock_with_two_methods_will_do() -> None:
    clock = ManualClock()

    class Watch:
        monotonic = staticmethod(clock.monotonic)
        now = staticmethod(clock.now)

    cloud = SimulatedCloud(Watch(), latency_s=0.01)
    began = time.monotonic()
    with pytest.raises(ProviderError, match="deadline"):  # that clock does not move while the call waits
        cloud.flavors(call(0.05))
    assert time.monotonic() - began >= 0.05
