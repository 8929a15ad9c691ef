"""The choice of a flavor."""

import math
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pileus.errors import BadFlavorError, BadRegexError, ConfigError, NoFlavorError
from pileus.models import Flavor
from pileus.policy import flavors

SMALL = Flavor("1", "m1.small", 1, 2048, 20)
MEDIUM = Flavor("2", "m1.medium", 2, 4096, 40)
LARGE = Flavor("3", "m1.large", 4, 8192, 80)
FAT = Flavor("4", "r1.large", 4, 32768, 80)
ALL = [LARGE, SMALL, FAT, MEDIUM]

some_flavors = st.lists(
    st.builds(
        Flavor,
        id=st.integers(0, 10_000).map(str),
        name=st.sampled_from(["a", "b", "c", "d.large", "d.small"]),
        cores=st.integers(1, 4),
        ram=st.integers(1, 4).map(lambda number: number * 1024),
        disk=st.integers(0, 2),
        price_per_hour=st.sampled_from([None, 0.5, 1.0, 1.0, 2.0]),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda flavor: flavor.id,
)


@pytest.mark.parametrize(
    ("cores", "ram_mb", "regex", "chosen"),
    [
        (1, 1024, "", SMALL),
        (0, 0, "", SMALL),
        (1.5, 1, "", MEDIUM),
        (2, 4096, "", MEDIUM),
        (2, 4097, "", LARGE),
        (1, 1024, "^r1", FAT),
        (1, 1024, r"\.large$", LARGE),
    ],
)
def test_the_smallest_that_is_large_enough_and_matches_is_chosen(
    cores: float, ram_mb: int, regex: str, chosen: Flavor
) -> None:
    assert flavors.cheapest(ALL, cores, ram_mb, regex) is chosen


def test_price_decides_when_every_candidate_has_one() -> None:
    dear, cheap = Flavor("1", "dear", 1, 1024, 0, 2.0), Flavor("2", "cheap", 8, 8192, 0, 0.5)
    assert flavors.cheapest([dear, cheap], 1, 1024) is cheap


def test_one_unknown_price_among_the_candidates_makes_size_decide() -> None:
    dear, cheap = Flavor("1", "dear", 1, 1024, 0, 2.0), Flavor("2", "cheap", 8, 8192, 0, 0.5)
    unknown = Flavor("3", "unknown", 4, 8192)
    assert flavors.cheapest([dear, cheap, unknown], 1, 1024) is dear


def test_an_unknown_price_of_one_that_is_too_small_does_not_matter() -> None:
    dear, cheap = Flavor("1", "dear", 2, 1024, 0, 2.0), Flavor("2", "cheap", 8, 8192, 0, 0.5)
    assert flavors.cheapest([dear, cheap, Flavor("3", "tiny", 1, 512)], 2, 1024) is cheap


def test_a_price_of_zero_is_a_price_but_nan_is_none() -> None:
    free, dear = Flavor("1", "free", 8, 8192, 0, 0.0), Flavor("2", "dear", 1, 1024, 0, 1.0)
    assert flavors.cheapest([free, dear], 1, 1) is free
    assert flavors.cheapest([Flavor("3", "x", 8, 8192, 0, math.nan), dear], 1, 1) is dear


@given(some_flavors, st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order_of_the_flavors(all: list[Flavor], chance: random.Random) -> None:
    shuffled = all[:]
    chance.shuffle(shuffled)
    assert flavors.cheapest(shuffled, 1, 1024) == flavors.cheapest(all, 1, 1024)


@given(some_flavors)
def test_the_order_is_total_so_that_no_two_flavors_tie(all: list[Flavor]) -> None:
    keys = [flavors.order_among(all)(flavor) for flavor in all]
    assert len(set(keys)) == len(keys)


def test_only_the_architecture_asked_for_is_chosen_in_any_spelling() -> None:
    arm, intel = Flavor("1", "a", 1, 1024, architecture="aarch64"), Flavor("2", "b", 2, 1024, architecture="x86_64")
    assert flavors.cheapest([arm, intel], 1, 1) is arm
    assert flavors.cheapest([arm, intel], 1, 1, architecture="amd64") is intel
    with pytest.raises(NoFlavorError, match="is for riscv64"):
        flavors.cheapest([arm, intel], 1, 1, architecture="riscv64")


def test_too_large_a_wish_names_the_nearest() -> None:
    with pytest.raises(NoFlavorError, match=re.escape("64 cores and 16000 MB of RAM; the nearest: r1.large (4 cores")):
        flavors.cheapest(ALL, 64, 16000)


def test_a_regex_that_excludes_what_would_fit_is_blamed() -> None:
    with pytest.raises(NoFlavorError, match=re.escape("of the 2 server flavors with 4 cores")) as caught:
        flavors.cheapest(ALL, 4, 1, "gpu")
    assert "m1.large" in str(caught.value)
    assert "widen" in caught.value.hint


def test_no_flavors_at_all_is_said() -> None:
    with pytest.raises(NoFlavorError, match="none at all"):
        flavors.cheapest([], 1, 1)


@pytest.mark.parametrize("regex", ["(", "*", "[a", "a{2,1}"])
def test_a_bad_regex_is_refused_even_where_nothing_would_fit(regex: str) -> None:
    with pytest.raises(BadRegexError, match="not valid"):
        flavors.cheapest([], 1, 1, regex)


@pytest.mark.parametrize("cores", [-1, -0.1, math.nan, math.inf, 10**400, 1e9, True, "4", None])
def test_impossible_numbers_of_cores_are_refused(cores: float) -> None:
    with pytest.raises(ConfigError) as caught:
        flavors.cheapest(ALL, cores, 1)
    assert caught.value.setting == "cores"


@pytest.mark.parametrize("ram_mb", [-1, 1.5, 10**15, True, "4", None])
def test_impossible_amounts_of_ram_are_refused(ram_mb: int) -> None:
    with pytest.raises(ConfigError) as caught:
        flavors.cheapest(ALL, 1, ram_mb)
    assert caught.value.setting == "ram_mb"


def test_one_flavor_of_each_set_is_returned_in_the_order_that_is_best_overall() -> None:
    assert flavors.cheapest_of_sets(ALL, 1, 1, "", [["large"], ["small", "medium"]]) == [SMALL, LARGE]


def test_the_whole_set_of_a_found_flavor_is_struck_out() -> None:
    assert flavors.cheapest_of_sets(ALL, 1, 1, "", [["m1"], ["r1"]]) == [SMALL, FAT]


def test_a_found_flavor_outside_of_the_sets_ends_the_search() -> None:
    assert flavors.cheapest_of_sets(ALL, 1, 1, "", [["small"], ["r1"]]) == [SMALL]  # medium comes next: in no set


def test_sets_without_anything_that_fits_are_missing_from_the_answer() -> None:
    assert flavors.cheapest_of_sets(ALL, 4, 1, "", [["small"], ["r1"], ["m1.l"]]) == [LARGE, FAT]


def test_a_flavor_in_two_sets_strikes_out_the_first_of_them() -> None:
    assert flavors.cheapest_of_sets([SMALL, MEDIUM], 1, 1, "", [["small"], ["small", "medium"]]) == [SMALL, MEDIUM]


def test_regex_applies_to_sets_too() -> None:
    assert flavors.cheapest_of_sets(ALL, 1, 1, "large", [["m1"], ["r1"]]) == [LARGE, FAT]


def test_without_sets_the_one_cheapest_is_returned() -> None:
    assert flavors.cheapest_of_sets(ALL, 1, 1, "", []) == [SMALL]


def test_nothing_found_for_any_set_is_an_error() -> None:
    with pytest.raises(NoFlavorError, match="nearest"):
        flavors.cheapest_of_sets(ALL, 64, 1, "", [["m1"]])
    with pytest.raises(NoFlavorError, match="in none of the 1 sets"):
        flavors.cheapest_of_sets(ALL, 1, 1, "", [["r1"]])


def test_a_bad_regex_in_a_set_is_refused() -> None:
    with pytest.raises(BadRegexError):
        flavors.cheapest_of_sets(ALL, 1, 1, "", [["m1"], ["("]])


@given(some_flavors, st.lists(st.lists(st.sampled_from(["a", "b", "c", "d", "large"]), max_size=2), max_size=4))
def test_sets_give_distinct_flavors_from_best_to_worst(all: list[Flavor], sets: list[list[str]]) -> None:
    try:
        found = flavors.cheapest_of_sets(all, 1, 1024, "", sets)
    except NoFlavorError:
        return
    assert 1 <= len(found) <= max(1, len(sets))
    assert len(set(found)) == len(found)
    assert found[0] == flavors.cheapest(all, 1, 1024)


def test_find_prefers_an_id_to_a_name() -> None:
    named_like_an_id = Flavor("9", "2", 1, 1)
    assert flavors.find([named_like_an_id, MEDIUM], "2") is MEDIUM
    assert flavors.find([named_like_an_id, MEDIUM], "m1.medium") is MEDIUM


def test_find_takes_no_prefixes_and_lists_what_is_near() -> None:
    with pytest.raises(BadFlavorError, match=r"m1\.medium"):
        flavors.find(ALL, "m1.med")
    with pytest.raises(BadFlavorError, match="and 10 more"):
        flavors.find([Flavor(f"{number}", f"{number}", 1, 1) for number in range(20)], "zzz")
