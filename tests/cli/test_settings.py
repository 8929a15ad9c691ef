from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pileus.cli import settings
from pileus.errors import ConfigError
from pileus.policy.names import check_resource_name


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "my config.toml"


def load(file: Path, given: dict[str, Any] | None = None, **environ: str) -> settings.Settings:
    return settings.load(given or {}, {"PILEUS_CONFIG": str(file), **environ})


def test_the_command_line_comes_before_the_environment_and_that_before_the_file(file: Path) -> None:
    file.write_text('provider = "simulator"\nname = "file"\nos = "file"\nuser = "file"\n')
    found = load(file, {"name": "line", "os": None}, PILEUS_NAME="environment", PILEUS_OS="environment", PILEUS_USER="")
    assert (found.provider, found.name, found.os, found.user) == ("simulator", "line", "environment", "file")
    assert found.origin == {
        "provider": str(file),
        "name": "command line",
        "os": "PILEUS_OS",
        "user": str(file),
    }


def test_without_any_setting_it_is_the_local_provider_and_a_name_of_ones_own(home: Path) -> None:
    found = settings.load({})
    assert found.provider == "local"
    assert check_resource_name(found.name).startswith("pileus-")
    assert found.origin == {}


def test_the_file_in_the_users_configuration_directory_is_read(home: Path) -> None:
    (home / ".config/pileus").mkdir(parents=True)
    (home / ".config/pileus/config.toml").write_text('name = "mine"')
    assert settings.load({}).name == "mine"


def test_sizes_in_the_file_may_be_numbers_or_text(file: Path) -> None:
    file.write_text('cores = 1.5\nram = "4G"\ndisk = 20\nttd = "10m"')
    found = load(file)
    assert (found.cores, found.ram, found.disk, found.ttd) == (1.5, 4096, 20, 600.0)


def test_a_save_path_in_the_file_counts_from_the_file(file: Path) -> None:
    file.write_text('save_path = "state/x"')
    assert load(file).save_path == str(file.parent / "state/x")
    assert load(file, PILEUS_SAVE_PATH="here").save_path == "here"


def test_a_drivers_own_settings_are_handed_on_as_text(file: Path) -> None:
    file.write_text('[providers.local]\novercommit = 2\nfast = true\nword = "x"\n[providers.other]\na = "b"')
    assert load(file).driver == {"overcommit": "2", "fast": "true", "word": "x"}
    assert load(file, {"provider": "third"}).driver == {}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('nmae = "x"', ["nmae", "allowed", "provider", "save_path", "providers"]),
        ("name = 5", ["name", "a string", "a number"]),
        ("name = ['x']", ["name", "a string", "an array"]),
        ("name = 2020-01-01", ["name", "a string", "a date or time"]),
        ("cores = true", ["cores", "a number", "a boolean"]),
        ('ram = "lots"', ["ram", "lots", "4G"]),
        ("ttd = -1", ["ttd", "-1", "10m"]),
        ("name = ", ["TOML", "Invalid value"]),
        ('providers = "local"', ["providers", "table"]),
        ('[providers]\nlocal = "x"', ["providers", "table"]),
        ("[providers.local]\nx = [1]", ["providers.local.x", "an array"]),
    ],
)
def test_a_wrong_file_is_refused_and_file_key_and_what_is_allowed_are_named(
    file: Path, text: str, named: list[str]
) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    for word in [str(file), *named]:
        assert word in str(caught.value)


def test_a_file_that_is_not_text_is_refused(file: Path) -> None:
    file.write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match="is not TOML"):
        load(file)


def test_a_wrong_variable_is_refused_and_named(file: Path) -> None:
    file.write_text("")
    with pytest.raises(ConfigError, match=r"PILEUS_RAM.*lots"):
        load(file, PILEUS_RAM="lots")


def test_a_file_that_was_named_must_exist(file: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file") as caught:
        load(file)
    assert "PILEUS_CONFIG" in str(caught.value)


def test_a_directory_in_the_files_place_is_an_error_that_names_it(file: Path) -> None:
    file.mkdir()
    with pytest.raises(ConfigError, match=r"cannot read .*my config"):
        load(file)


@given(st.text(max_size=80))
def test_the_default_name_is_valid_whatever_the_login_name(login: str) -> None:
    check_resource_name(settings.default_name(login, 1000))


def test_a_plain_login_name_stays_readable() -> None:
    assert settings.default_name("anna", 5) == "pileus-anna"


def test_a_login_name_without_an_entry_gives_a_name_by_number() -> None:
    assert settings.default_name("", 1000) == "pileus-uid-1000"


def test_login_names_that_look_alike_get_different_names() -> None:
    names = [
        settings.default_name(login, 0) for login in ("j.doe", "j-doe", "j_doe", "J.Doe", "日本", "x" * 30, "x" * 31)
    ]
    assert len(set(names)) == len(names)
