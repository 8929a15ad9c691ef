"""What to make of a server that is waited for."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pileus.drivers.base import ServerRecord, ServerStatus
from pileus.policy import waiting
from pileus.policy.waiting import Ending, SpawnTimeout


@dataclass
class Listed:
    status: ServerStatus
    address: str = "192.0.2.1"
    fault: str = ""


@pytest.mark.parametrize(
    ("status", "address", "ending"),
    [
        (ServerStatus.BUILDING, "", Ending.WAIT),
        (ServerStatus.UNKNOWN, "", Ending.WAIT),
        (ServerStatus.ACTIVE, "", Ending.WAIT),
        (ServerStatus.ACTIVE, "192.0.2.1", Ending.DONE),
        (ServerStatus.ERROR, "", Ending.FAILED),
        (ServerStatus.STOPPED, "192.0.2.1", Ending.FAILED),
        (ServerStatus.DELETING, "192.0.2.1", Ending.VANISHED),
    ],
)
def test_each_status_has_its_ending(status: ServerStatus, address: str, ending: Ending) -> None:
    assert waiting.judge(ServerRecord("1", "lab-1", status, address=address), True, 5, 30, 60).ending is ending


def test_every_status_of_the_drivers_is_judged() -> None:
    for status in ServerStatus:
        reason = waiting.judge(Listed(status), False, 5, 30, 60).reason
        assert (f"its status was {status.value!r}" == reason) == (status is ServerStatus.UNKNOWN)


def test_the_clouds_own_words_are_the_reason() -> None:
    assert waiting.judge(Listed(ServerStatus.ERROR, fault="No valid host"), True, 5, 30, 60).reason == "No valid host"
    assert waiting.judge(Listed(ServerStatus.ERROR), True, 5, 30, 60).reason


@pytest.mark.parametrize("seen_before", [False, True])
def test_a_server_may_be_missing_for_as_long_as_the_listing_may_lag(seen_before: bool) -> None:
    assert waiting.judge(None, seen_before, 30, 30, 60).ending is Ending.WAIT
    late = waiting.judge(None, seen_before, 30.1, 30, 60)
    assert late.ending is Ending.VANISHED
    assert ("did not list it" in late.reason) != seen_before


def test_what_is_still_waited_for_at_the_end_timed_out_and_says_how_it_stood() -> None:
    verdict = waiting.judge(Listed(ServerStatus.BUILDING), True, 60, 30, 60)
    assert verdict.ending is Ending.TIMEOUT
    assert verdict.reason == "it was not ready within 60 s; at the end it was being built"
    assert waiting.judge(None, False, 10, 30, 10).ending is Ending.TIMEOUT


def test_an_ending_in_the_last_moment_is_what_it_is() -> None:
    assert waiting.judge(Listed(ServerStatus.ACTIVE), True, 99, 30, 60).ending is Ending.DONE
    assert waiting.judge(Listed(ServerStatus.ERROR), True, 99, 30, 60).ending is Ending.FAILED
    assert waiting.judge(None, True, 99, 30, 60).ending is Ending.VANISHED


def test_the_first_server_may_take_twenty_minutes() -> None:
    assert SpawnTimeout().timeout_s(from_volume=False) == SpawnTimeout().timeout_s(from_volume=True) == 1200


def test_then_it_is_four_times_the_average_and_never_below_three_minutes() -> None:
    assert SpawnTimeout().after(10, from_volume=False).timeout_s(from_volume=False) == 180
    learnt = SpawnTimeout().after(100, from_volume=False).after(200, from_volume=False)
    assert learnt.timeout_s(from_volume=False) == pytest.approx(600)


def test_volumes_are_learnt_apart() -> None:
    learnt = SpawnTimeout().after(500, from_volume=True)
    assert learnt.timeout_s(from_volume=True) == 2000
    assert learnt.timeout_s(from_volume=False) == 1200


def test_a_change_of_the_clouds_pace_is_learnt() -> None:
    learnt = SpawnTimeout()
    for _ in range(100):
        learnt = learnt.after(50, from_volume=False)
    for _ in range(30):
        learnt = learnt.after(400, from_volume=False)
    assert learnt.timeout_s(from_volume=False) > 4 * 350


@given(st.lists(st.floats(0, 10_000), min_size=1))
def test_the_average_stays_among_what_was_seen(took: list[float]) -> None:
    learnt = SpawnTimeout()
    for each in took:
        learnt = learnt.after(each, from_volume=False)
    assert min(took) - 1e-6 <= learnt.disk.average_s <= max(took) + 1e-6
