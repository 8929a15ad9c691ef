"""The choice of an image."""

import itertools
from datetime import UTC, datetime

import pytest

from pileus.errors import ConfigError, NoImageError, UnsupportedError
from pileus.models import Flavor, Image
from pileus.policy import images

OLD = Image("aaa-1", "Ubuntu 22.04", created=datetime(2023, 1, 1, tzinfo=UTC))
NEW = Image("aaa-2", "Ubuntu 20.04", created=datetime(2024, 1, 1, tzinfo=UTC))
DEBIAN = Image("bbb", "Debian 12")
ALL = [DEBIAN, OLD, NEW]


def test_no_name_is_the_providers_default() -> None:
    assert images.find(ALL, "") is DEBIAN


@pytest.mark.parametrize(
    ("os", "found"), [("aaa-1", OLD), ("Ubuntu 22.04", OLD), ("Deb", DEBIAN), ("bb", DEBIAN), ("Debian 12", DEBIAN)]
)
def test_an_image_is_found_by_id_name_or_the_beginning_of_either(os: str, found: Image) -> None:
    assert images.find(ALL, os) is found


def test_of_several_with_a_prefix_the_newest_is_meant_in_whatever_order_they_are_listed() -> None:
    assert {images.find(list(order), "Ubuntu") for order in itertools.permutations(ALL)} == {NEW}


def test_without_dates_the_last_in_natural_order_is_meant() -> None:
    numbered = [Image("1", "os-9"), Image("2", "os-10"), Image("3", "os-10-beta"), Image("0", "os-2")]
    assert images.find(numbered[:2], "os").name == "os-10"
    assert {images.find(list(order), "os").id for order in itertools.permutations(numbered)} == {"3"}


def test_an_exact_name_wins_over_a_newer_one_that_it_begins() -> None:
    exact = Image("1", "Ubuntu")
    assert images.find([NEW, exact], "Ubuntu") is exact


def test_an_exact_id_wins_over_an_exact_name() -> None:
    assert images.find([Image("1", "bbb"), DEBIAN], "bbb") is DEBIAN


def test_names_that_begin_with_digits_and_with_letters_can_be_compared() -> None:
    assert images.find([Image("p1", "9 os"), Image("p2", "os 9")], "p").id == "p2"
    assert images.find([Image("p1", "os 9b"), Image("p2", "os 9")], "p").id == "p1"


def test_nothing_that_matches_lists_all_there_is() -> None:
    with pytest.raises(NoImageError, match=r"there are: Debian 12, Ubuntu 20\.04, Ubuntu 22\.04"):
        images.find(ALL, "Windows")


@pytest.mark.parametrize("os", ["", "x"])
def test_no_images_at_all_is_said(os: str) -> None:
    with pytest.raises(NoImageError, match="no images at all"):
        images.find([], os)


FLAVOR = Flavor("1", "small", 1, 2048, 20, architecture="x86_64")


@pytest.mark.parametrize(
    ("disk_gb", "min_disk", "volumes", "size"),
    [(0, 0, False, 20), (20, 0, False, 20), (30, 0, True, 30), (0, 40, True, 40), (10, 5, True, 20)],
)
def test_the_root_disk_is_as_large_as_the_largest_wish(disk_gb: int, min_disk: int, volumes: bool, size: int) -> None:
    assert images.root_disk(FLAVOR, Image("1", "os", min_disk=min_disk), disk_gb, volumes=volumes) == size


def test_a_flavor_without_a_disk_gets_a_volume_where_there_are_any() -> None:
    diskless = Flavor("1", "small", 1, 2048)
    assert images.root_disk(diskless, DEBIAN, 0, volumes=True) == images.DEFAULT_VOLUME_GB
    assert images.root_disk(diskless, DEBIAN, 3, volumes=True) == 3
    assert images.root_disk(diskless, DEBIAN, 0, volumes=False) == 0


def test_a_larger_disk_without_volumes_is_unsupported_and_says_whose_wish_it_was() -> None:
    with pytest.raises(UnsupportedError, match="you asked for a disk of 30 GB"):
        images.root_disk(FLAVOR, DEBIAN, 30, volumes=False)
    with pytest.raises(UnsupportedError, match="image os needs a disk of 25 GB"):
        images.root_disk(FLAVOR, Image("1", "os", min_disk=25), 0, volumes=False)


def test_too_little_ram_for_the_image_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs 4096 MB of RAM"):
        images.root_disk(FLAVOR, Image("1", "os", min_ram=4096), 0, volumes=True)


def test_another_architecture_is_refused_and_another_spelling_is_not() -> None:
    with pytest.raises(ConfigError, match="is for arm64"):
        images.root_disk(FLAVOR, Image("1", "os", architecture="arm64"), 0, volumes=True)
    assert images.root_disk(FLAVOR, Image("1", "os", architecture="amd64"), 0, volumes=True) == 20


@pytest.mark.parametrize("disk_gb", [-1, 1.5, 10**12, True, "20"])
def test_impossible_disks_are_refused(disk_gb: int) -> None:
    with pytest.raises(ConfigError) as caught:
        images.root_disk(FLAVOR, DEBIAN, disk_gb, volumes=True)
    assert caught.value.setting == "disk_gb"
