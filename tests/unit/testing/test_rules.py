"""What can go wrong in the simulated cloud, one rule at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from pileus.drivers.base import ResourceRequest, ServerStatus
from pileus.errors import (
    AuthenticationError,
    BadRegexError,
    ConfigError,
    NoHardwareError,
    PileusError,
    ProviderError,
    QuotaError,
    RateLimitError,
)
from pileus.testing import rules

from .conftest import Ground, call


def errors_of(ground: Ground, *names: str) -> list[str]:
    return [type(outcome.error).__name__ if outcome.error else "" for outcome in ground.create(*names)]


def test_the_nth_server_fails_with_the_named_error_and_the_others_are_made(ground: Ground) -> None:
    ground.cloud.add_rules(rules.Fail(operation="create_server", nth=3, error="QuotaError", message="enough"))
    assert errors_of(ground, "a", "b", "c", "d") == ["", "", "QuotaError", ""]
    assert set(ground.listed()) == {"a", "b", "d"}


def test_every_other_call_fails(ground: Ground) -> None:
    ground.cloud.add_rules(rules.Fail(operation="list_servers", every=2))
    for _ in range(3):
        ground.driver.list_servers("d1", call())
        with pytest.raises(ProviderError) as caught:
            ground.driver.list_servers("d1", call())
    problem = caught.value
    assert (problem.provider, problem.operation, problem.request_id) == ("simulator", "list_servers", "request-1")


def test_a_probability_is_repeated_by_its_seed(make_ground: Callable[..., Ground]) -> None:
    histories = []
    for _ in range(2):
        ground = make_ground()
        ground.cloud.add_rules(rules.Fail(operation="create_server", probability=0.5, seed=7))
        histories.append(errors_of(ground, *(f"s{number}" for number in range(40))))
    assert histories[0] == histories[1]
    assert 5 < sum(bool(error) for error in histories[0]) < 35


def test_a_delete_fails_so_many_times_and_then_works(ground: Ground) -> None:
    record = ground.server()
    ground.cloud.add_rules(rules.Fail(operation="delete_server", times=2))
    failed = [ground.driver.delete_servers([record.id], call())[0].error is not None for _ in range(3)]
    assert failed == [True, True, False]


def test_throttling_names_the_wish_of_the_cloud(ground: Ground) -> None:
    ground.cloud.add_rules(rules.Throttle(times=1, retry_after_s=7.5))
    with pytest.raises(RateLimitError) as caught:
        ground.driver.quota(call())
    assert caught.value.retry_after_s == 7.5
    ground.driver.quota(call())


def test_no_hardware_is_for_the_flavors_that_match(ground: Ground) -> None:
    ground.cloud.add_rules(rules.NoHardware(flavor="sim-1-.*"))
    assert isinstance(ground.create("small")[0].error, NoHardwareError)
    assert ground.create("large", flavor=1)[0].error is None


def test_over_quota_comes_whatever_the_quota_says(ground: Ground) -> None:
    ground.cloud.add_rules(rules.OverQuota(server_name="b"))
    assert errors_of(ground, "a", "b") == ["", "QuotaError"]
    assert isinstance(ground.create("b")[0].error, QuotaError)


def test_a_server_is_stuck_in_building_for_a_while_or_for_ever(ground: Ground) -> None:
    ground.cloud.add_rules(rules.StuckBuilding(nth=1, seconds=90), rules.StuckBuilding(nth=2))
    ground.create("slow", "stuck", "good")
    ground.clock.tick(10)
    assert ground.listed() == {"slow": "building", "stuck": "building", "good": "active"}
    ground.clock.tick(90)
    assert ground.listed() == {"slow": "active", "stuck": "building", "good": "active"}


def test_a_server_ends_in_error_with_the_clouds_words(ground: Ground) -> None:
    ground.cloud.add_rules(rules.EndInError(after_s=4, fault="no valid host"))
    ground.server()
    ground.clock.tick(3.9)
    assert ground.listed() == {"server": "building"}
    ground.clock.tick(10)
    [shown] = ground.driver.list_servers("d1", call())
    assert (shown.status, shown.fault) == (ServerStatus.ERROR, "no valid host")


def test_a_server_vanishes_and_frees_its_quota(ground: Ground) -> None:
    ground.cloud.add_rules(rules.Vanish(after_s=30))
    ground.server()
    ground.clock.tick(30)
    assert ground.listed() == {}
    assert ground.driver.quota(call()).used_instances == 0


def test_a_delete_is_accepted_and_ends_in_error_and_the_next_one_works(ground: Ground) -> None:
    record = ground.server()
    ground.cloud.add_rules(rules.DeleteEndsInError(times=1, fault="locked"))
    assert ground.driver.delete_servers([record.id], call())[0].error is None
    ground.clock.tick(2)
    [shown] = ground.driver.list_servers("d1", call())
    assert (shown.status, shown.fault) == (ServerStatus.ERROR, "locked")
    ground.driver.delete_servers([record.id], call())
    ground.clock.tick(2)
    assert ground.listed() == {}


def test_a_delete_can_take_for_ever(ground: Ground) -> None:
    record = ground.server()
    ground.cloud.add_rules(rules.SlowDelete(times=1))
    ground.driver.delete_servers([record.id], call())
    ground.clock.tick(10_000)
    assert ground.listed() == {"server": "deleting"}


def test_a_lost_reply_leaves_the_thing_and_an_unknown_outcome(ground: Ground) -> None:
    ground.cloud.add_rules(rules.LoseReply(operation="create_servers", nth=1))
    with pytest.raises(ProviderError) as caught:
        ground.create("a", "b")
    assert caught.value.outcome_unknown
    assert set(ground.listed()) == {"a", "b"}
    ground.cloud.add_rules(rules.LoseReply(operation="create_server", nth=1))
    lost, good = ground.create("c", "d")
    assert isinstance(lost.error, ProviderError)
    assert lost.error.outcome_unknown
    assert good.record
    assert set(ground.listed()) == {"a", "b", "c", "d"}


def test_a_lost_reply_of_a_listing_is_not_an_unknown_outcome(ground: Ground) -> None:
    ground.cloud.add_rules(rules.LoseReply(operation="list_servers"))
    with pytest.raises(ProviderError) as caught:
        ground.listed()
    assert not caught.value.outcome_unknown


def test_a_lost_reply_of_a_resource_leaves_it(ground: Ground) -> None:
    ground.cloud.add_rules(rules.LoseReply(operation="create_resource"))
    with pytest.raises(ProviderError) as caught:
        ground.driver.create_resource(ResourceRequest("n", "network", "net", {}), {}, call())
    assert caught.value.outcome_unknown
    assert len(ground.cloud.everything()) == 1


def test_credentials_expire_after_so_many_calls(ground: Ground) -> None:
    request = ground.request()
    ground.cloud.add_rules(rules.ExpireCredentials(after_calls=2))
    ground.driver.quota(call())
    ground.driver.create_servers([request], call())
    for ask in (ground.driver.quota, ground.driver.flavors, ground.driver.images):
        with pytest.raises(AuthenticationError):
            ask(call())
    assert [item.ok for item in ground.driver.check(call())] == [False]
    ground.cloud.clear_rules()
    assert ground.listed() == {"server": "building"}
    assert [item.ok for item in ground.driver.check(call())] == [True]


@pytest.mark.parametrize("carried_out", [False, True])
def test_a_call_hangs_until_its_deadline(ground: Ground, carried_out: bool) -> None:
    request = ground.request()
    ground.cloud.add_rules(rules.Hang(operation="create_servers", carried_out=carried_out))
    late = call(0.05)
    with pytest.raises(ProviderError, match="deadline") as caught:
        ground.driver.create_servers([request], late)
    assert caught.value.outcome_unknown
    assert time.monotonic() >= late.deadline
    assert len(ground.cloud.everything()) == int(carried_out)


def test_a_hang_ends_when_the_clouds_clock_has_moved_by_the_time_allowed(ground: Ground) -> None:
    ground.cloud.add_rules(rules.Hang(operation="list_servers"))
    with ground.clock.auto(quiet_s=0.001), pytest.raises(ProviderError, match="deadline"):
        ground.driver.list_servers("d1", call(3600))
    assert ground.clock.monotonic() == pytest.approx(3600, abs=5)


def test_a_slow_call_is_carried_out_late(ground: Ground) -> None:
    request = ground.request()
    ground.cloud.add_rules(rules.Slow(operation="create_servers", seconds=20))
    with ground.clock.auto(quiet_s=0.001):
        [outcome] = ground.driver.create_servers([request], call(3600))
    assert outcome.record
    assert ground.clock.monotonic() == 20.0


def test_a_call_slower_than_its_deadline_is_carried_out_and_unknown(ground: Ground) -> None:
    request = ground.request()
    ground.cloud.add_rules(rules.Slow(operation="create_servers", seconds=20))
    with ground.clock.auto(quiet_s=0.001), pytest.raises(ProviderError) as caught:
        ground.driver.create_servers([request], call(10))
    assert caught.value.outcome_unknown
    assert len(ground.cloud.everything()) == 1


def test_a_reply_can_be_held_back_after_the_work_was_done(ground: Ground) -> None:
    request = ground.request()
    ground.cloud.add_rules(rules.Slow(operation="create_servers", seconds=5, carried_out_first=True))
    thread = threading.Thread(target=ground.driver.create_servers, args=([request], call()))
    thread.start()
    while not ground.clock.sleeping:
        time.sleep(0.001)
    assert len(ground.cloud.everything()) == 1
    [open_call] = [entry for entry in ground.cloud.calls if entry.ended is None]
    assert open_call.operation == "create_servers"
    ground.clock.tick(5)
    thread.join(10)
    assert not thread.is_alive()


def test_a_past_deadline_reaches_the_cloud_with_nothing(ground: Ground) -> None:
    request = ground.request()
    with pytest.raises(ProviderError) as caught:
        ground.driver.create_servers([request], call(-1))
    assert not caught.value.outcome_unknown
    assert ground.cloud.everything() == []


@pytest.mark.parametrize("kind", rules.KINDS.values(), ids=lambda kind: kind.__name__)
def test_a_rule_survives_the_way_through_json(kind: type[rules.Rule]) -> None:
    operation = {} if "operation" in vars(kind) else {"operation": "create_servers"}
    extra = {"seconds": 3.0} if kind is rules.Slow else {}
    rule = kind(nth=2, times=1, **operation, **extra)  # type: ignore[arg-type]
    assert rules.rule_from_json(rules.rule_to_json(rule)) == rule


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: rules.Fail(operation="create_srv"), ConfigError),
        (lambda: rules.Fail(operation="create_server", error="ValueError"), ConfigError),
        (lambda: rules.Fail(operation="create_server", error="ServerError"), ConfigError),
        (lambda: rules.NoHardware(flavor="("), BadRegexError),
        (lambda: rules.Fail(operation="list_servers", flavor="x"), ConfigError),
        (lambda: rules.rule_from_json({"rule": "Explode"}), ConfigError),
        (lambda: rules.rule_from_json({"rule": "Vanish", "when": 3}), ConfigError),
    ],
)
def test_a_rule_that_cannot_be_is_refused(make: Callable[[], object], error: type[PileusError]) -> None:
    with pytest.raises(error):
        make()


@pytest.mark.parametrize(
    "rule",
    [
        lambda: rules.StuckBuilding(operation="list_servers"),
        lambda: rules.Vanish(operation="create_servers"),
        lambda: rules.Slow(operation="create_server", seconds=1),
        lambda: rules.DeleteEndsInError(operation="create_server"),
        lambda: rules.Hang(operation="delete_server"),
    ],
)
def test_a_rule_for_an_operation_where_it_would_do_nothing_is_refused(rule: Callable[[], rules.Rule]) -> None:
    with pytest.raises(ConfigError, match="operation"):
        rule()
