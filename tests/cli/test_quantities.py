from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pileus.cli import quantities
from pileus.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4096", 4096),
        ("4G", 4096),
        ("4g", 4096),
        ("500M", 500),
        ("1.5GiB", 1536),
        ("2 GB", 2048),
        ("1T", 1048576),
        ("0", 0),
    ],
)
def test_memory_is_read_in_megabytes(text: str, expected: int) -> None:
    assert quantities.megabytes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("20", 20), ("20G", 20), ("1T", 1024), ("1500M", 2), ("0.5", 1), ("0", 0)]
)
def test_disk_is_read_in_gigabytes_and_rounded_up(text: str, expected: int) -> None:
    assert quantities.gigabytes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86400), ("1h30m", 5400), ("0.5", 0.5)],
)
def test_durations_are_read_in_seconds(text: str, expected: float) -> None:
    assert quantities.duration(text) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "-4G", "4X", "1e9", "nan", "inf", "G", "4 4", "4GG", "٤", "9999999T", "1..5"]
)
def test_what_is_no_size_is_refused_and_the_setting_named(text: str) -> None:
    with pytest.raises(ConfigError, match="swap") as caught:
        quantities.megabytes(text, setting="swap")
    assert caught.value.setting == "swap"


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "10 m 5", "1h30", "5y", "nan", "inf", "1.2.3", "99999d", "m", "1h-5m", "٤"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="10m"):
        quantities.duration(text)


@pytest.mark.parametrize("value", [True, float("nan"), float("inf"), -1, 1e30])
def test_numbers_of_a_file_are_checked_like_text(value: float) -> None:
    for read in (quantities.megabytes, quantities.gigabytes, quantities.cores, quantities.duration):
        with pytest.raises(ConfigError):
            read(value)


def test_cores_may_be_fractions_but_have_no_unit() -> None:
    assert quantities.cores("0.5") == 0.5
    assert quantities.cores(2) == 2
    with pytest.raises(ConfigError, match=r"2 or 0\.5"):
        quantities.cores("2G")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.31, "0.3s"), (42.9, "42s"), (190, "3m10s"), (3600, "1h"), (7500, "2h5m"), (360000, "4d4h"), (-3, "0.0s")],
)
def test_durations_are_shown_in_two_units_at_most(seconds: float, shown: str) -> None:
    assert quantities.show_duration(seconds) == shown


@given(st.integers(0, 10**7))
def test_a_shown_duration_can_be_read_again_and_is_never_longer(seconds: int) -> None:
    again = quantities.duration(quantities.show_duration(seconds))
    assert again <= seconds
    assert seconds - again < max(1, seconds / 24)


@pytest.mark.parametrize(
    ("megabytes", "shown"),
    [(500, "500M"), (4096, "4G"), (1536, "1.5G"), (1024**2 * 2, "2T"), (1023, "1023M"), (0, "0M")],
)
def test_memory_is_shown_briefly(megabytes: int, shown: str) -> None:
    assert quantities.show_megabytes(megabytes) == shown


def test_bytes_are_shown_in_decimal_units() -> None:
    assert [quantities.show_bytes(n) for n in (17, 1500, 2_000_000, 3e15)] == ["17 B", "1.5 kB", "2 MB", "3000 TB"]
