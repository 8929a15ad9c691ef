"""Room on a server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pileus.errors import ConfigError
from pileus.policy import space

FREE = st.integers(-5, 60)
NEED = st.integers(0, 7)


@given(FREE, FREE, FREE, NEED, NEED, NEED)
def test_it_agrees_with_taking_away_one_after_the_other(
    nano_free: int, ram_free: int, disk_free: int, nano: int, ram: int, disk: int
) -> None:
    if nano == ram == disk == 0:
        assert space.how_many(nano_free, ram_free, disk_free, nano, ram, disk) == space.UNBOUNDED
        return
    left = [(nano_free, nano), (ram_free, ram), (disk_free, disk)]
    count = 0
    while all(free >= need for free, need in left if need):
        left = [(free - need, need) for free, need in left]
        count += 1
    assert space.how_many(nano_free, ram_free, disk_free, nano, ram, disk) == count


def test_work_without_cores_fits_on_a_server_whose_cores_are_all_taken() -> None:
    assert space.how_many(0, 1000, 10, 0, 100, 1) == 10
    assert space.how_many(-1, 1000, 10, 0, 0, 0) == space.UNBOUNDED


@pytest.mark.parametrize("needs", [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_negative_needs_are_refused(needs: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="0 or more"):
        space.how_many(1, 1, 1, *needs)
