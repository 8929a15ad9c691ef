"""What the local provider decides without making anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_place import Place, call

from pileus.drivers.base import TAG_DEPLOYMENT
from pileus.drivers.local import LocalDriver, cards, host, namespaces, settings, trees
from pileus.drivers.local.namespaces import Way
from pileus.errors import BadFlavorError, ConfigError, NoImageError
from pileus.models import Flavor, Image


def test_flavors_double_up_to_the_whole_machine() -> None:
    assert [flavor.id for flavor in host.flavors(6, 6000, 1000)] == ["local-1", "local-2", "local-4", "local-6"]
    assert [flavor.ram for flavor in host.flavors(6, 6000, 1000)] == [1000, 2000, 4000, 6000]
    assert [flavor.disk for flavor in host.flavors(6, 6000, 1000)] == [10, 20, 40, 60]
    assert host.flavors(1, 512, 3)[0] == Flavor(
        "local-1", "local-1", 1, 512, 1, None, host.flavors(1, 1, 1)[0].architecture
    )


@given(cores=st.integers(1, 512), ram=st.integers(1, 10**7), disk=st.integers(0, 10**6))
def test_flavors_are_distinct_ordered_and_within_the_machine(cores: int, ram: int, disk: int) -> None:
    found = host.flavors(cores, ram, disk)
    assert [flavor.cores for flavor in found] == sorted({flavor.cores for flavor in found})
    assert (found[-1].cores, found[-1].ram) == (cores, ram)
    assert all(flavor.ram >= 1 and flavor.disk >= 1 for flavor in found)


def test_the_machine_is_found_as_an_image_by_what_people_call_it() -> None:
    image = host.image()
    assert image.default_user == host.user_name()
    assert image.id
    assert image.name


@pytest.mark.parametrize(
    ("given_settings", "environment", "setting"),
    [
        ({"overcommit": "many"}, {}, "overcommit"),
        ({}, {"PILEUS_LOCAL_OVERCOMMIT": "0"}, "overcommit"),
        ({}, {"PILEUS_LOCAL_OVERCOMMIT": "-1"}, "overcommit"),
        ({}, {"PILEUS_LOCAL_OVERCOMMIT": "nan"}, "overcommit"),
        ({}, {"PILEUS_LOCAL_OVERCOMMIT": "inf"}, "overcommit"),
        ({}, {"PILEUS_LOCAL_ISOLATION": "total"}, "isolation"),
        ({}, {"PILEUS_LOCAL_HELPER_IDLE": "soon"}, "helper_idle"),
        ({"colour": "blue"}, {}, "colour"),
        ({"dir": "a\0b"}, {}, "dir"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(
    given_settings: dict[str, str], environment: dict[str, str], setting: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        settings.read(given_settings, environment)
    assert caught.value.setting == setting


def test_settings_win_over_the_environment() -> None:
    environment = {"PILEUS_LOCAL_OVERCOMMIT": "3", "PILEUS_LOCAL_DIR": "/elsewhere"}
    read = settings.read({"overcommit": "2.5"}, environment)
    assert (read.overcommit, read.directory) == (2.5, Path("/elsewhere"))


def test_an_empty_home_does_not_make_the_root_directory_ours() -> None:
    assert settings.read({}, {"HOME": ""}).directory.parts[1] != ".local"


def test_the_quota_is_the_machine_times_the_overcommit(tmp_path: Path) -> None:
    quota = LocalDriver({"dir": str(tmp_path), "overcommit": "3"}).quota(call())
    assert quota.max_cores == 3 * host.cores()
    assert quota.max_ram == 3 * host.ram_mb()
    assert quota.max_instances == 0


@given(st.text(max_size=300), st.integers(0, 2**32 - 2), st.integers(1, 2**22))
def test_a_mark_fits_its_socket_and_shows_where_it_ends(deployment: str, user_id: int, pid: int) -> None:
    card = cards.Card(
        id=trees.server_id("x"), name="", tags={TAG_DEPLOYMENT: deployment}, flavor="", image="", cores=1, ram=1,
        volume_gb=0, external=False, created="", user_name="", tree="", keeper=pid,
    )  # fmt: skip
    name = cards.mark_name(card, user_id)
    assert len(name.encode()) <= 107
    assert name.count("/") == 4
    assert not any(character.isspace() for character in name)


def test_deployments_that_look_alike_have_other_marks() -> None:
    keys = {cards.deployment_key(one) for one in ("lab-1", "lab-10", "lab-1/", "lab 1", "", "~", "l" * 32, "l" * 33)}
    assert len(keys) == 8


def test_what_is_tried_to_keep_servers_apart() -> None:
    assert namespaces.ways("auto", root=False, linux=True) == [
        Way("namespaces", "own"),
        Way("subreaper"),
        Way("marker"),
    ]
    assert [way.ids for way in namespaces.ways("namespaces", root=True, linux=True)] == ["all", "own", "none"]
    assert namespaces.ways("subreaper", root=True, linux=True) == [Way("subreaper")]
    assert namespaces.ways("auto", root=False, linux=False) == [Way("marker")]
    assert namespaces.ways("namespaces", root=False, linux=False) == []


def test_a_servers_tree_is_known_from_its_intent_alone(tmp_path: Path) -> None:
    driver = LocalDriver({"dir": str(tmp_path)})
    assert driver.boot_target("i-1") == driver.boot_target("i-1")
    assert driver.boot_target("i-1").root != driver.boot_target("i-2").root
    assert not tmp_path.joinpath("anything").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"flavor": Flavor("local-9999", "local-9999", 9999, 1)}, BadFlavorError),
        ({"image": Image("windows", "Windows")}, NoImageError),
        ({"disk_gb": -1}, ConfigError),
        ({"user_name": "../../etc"}, ConfigError),
        ({"user_name": ""}, ConfigError),
        ({"name": "two words"}, ConfigError),
        ({"tags": {}}, ConfigError),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_made(
    place: Place, changes: dict[str, Any], error: type[Exception]
) -> None:
    (outcome,) = place.driver().create_servers([place.request(b"", **changes)], call())
    assert isinstance(outcome.error, error)
    assert place.list() == []
    assert not place.directory.exists()


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = Place(tmp_path / "file" / "local")
    (outcome,) = place.driver().create_servers([place.request(b"")], call())
    assert outcome.error is not None
    assert str(place.directory) in str(outcome.error)
    (item,) = [item for item in place.driver().check(call()) if item.name == "directory"]
    assert not item.ok
    assert "PILEUS_LOCAL_DIR" in item.hint
