"""Quota."""

import pytest

from pileus.errors import QuotaError
from pileus.models import Quota
from pileus.policy import quota
from pileus.policy.quota import Need

ACCOUNT = Quota(
    max_ram=8192, max_cores=4, max_instances=3, max_volume=100, used_ram=4096, used_cores=2, used_instances=1
)


def test_what_fits_exactly_is_allowed() -> None:
    quota.check(ACCOUNT, Need(), Need(cores=2, ram_mb=4096, instances=2, volume_gb=100))


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Need(cores=3), "cores: 3 wanted, 2 left of 4 (2 in use)"),
        (Need(ram_mb=4097), "RAM: 4097 MB wanted, 4096 MB left of 8192 MB"),
        (Need(instances=3), "instances: 3 wanted, 2 left of 3"),
        (Need(volume_gb=101), "volume storage: 101 GB wanted, 100 GB left of 100 GB (0 in use)"),
    ],
)
def test_each_limit_is_named_with_its_numbers(wanted: Need, said: str) -> None:
    with pytest.raises(QuotaError) as caught:
        quota.check(ACCOUNT, Need(), wanted)
    assert said in str(caught.value)
    assert caught.value.hint


def test_what_was_just_asked_for_counts() -> None:
    quota.check(ACCOUNT, Need(cores=1), Need(cores=1))
    with pytest.raises(QuotaError, match="1 just asked for"):
        quota.check(ACCOUNT, Need(cores=1), Need(cores=2))


def test_all_limits_that_are_passed_are_named() -> None:
    with pytest.raises(QuotaError, match=r"instances: .*; cores: .*; RAM: "):
        quota.check(ACCOUNT, Need(), Need(cores=9, ram_mb=9000, instances=9))


def test_zero_means_unlimited() -> None:
    quota.check(Quota(used_cores=10), Need(cores=10), Need(10**6, 10**9, 10**6, 10**6))


def test_a_limit_that_is_already_passed_does_not_matter_to_who_wants_nothing_of_it() -> None:
    quota.check(Quota(max_volume=10, used_volume=20), Need(), Need(cores=1, instances=1))


def test_needs_add_up() -> None:
    assert Need(1, 2, 3, 4) * 2 + Need(1, 1, 1, 1) == Need(3, 5, 7, 9)


def test_max_servers_limits_and_zero_does_not() -> None:
    quota.check_max_servers(3, 1, 2)
    quota.check_max_servers(0, 100, 100)
    quota.check_max_servers(3, 5, 0)
    with pytest.raises(QuotaError, match="max_servers is 3: it has 1, and 3 more"):
        quota.check_max_servers(3, 1, 3)
