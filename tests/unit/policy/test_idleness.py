"""When an idle server is to go."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from pileus.policy import idleness


@dataclass(frozen=True)
class Row:
    ttd_s: float = 60.0
    idle_since: float | None = 100.0
    boot_id: str = "boot"


def test_a_server_is_idle_once_its_ttd_went_by() -> None:
    assert not idleness.is_idle(Row(), 159.9, "boot")
    assert idleness.is_idle(Row(), 160.0, "boot")


def test_a_server_without_ttd_or_in_use_is_never_idle() -> None:
    assert not idleness.is_idle(Row(ttd_s=0), 1e9, "boot")
    assert not idleness.is_idle(Row(idle_since=None), 1e9, "boot")


def test_moments_of_another_boot_say_nothing_and_the_clock_is_to_be_started_anew() -> None:
    assert not idleness.is_idle(Row(), 1e9, "other boot")
    assert idleness.has_stale_clock(Row(), "other boot")
    assert not idleness.has_stale_clock(Row(), "boot")
    assert not idleness.has_stale_clock(Row(idle_since=None), "other boot")
    assert not idleness.has_stale_clock(Row(ttd_s=0), "other boot")


def test_the_next_look_is_when_the_first_is_due() -> None:
    rows = [Row(ttd_s=80), Row(ttd_s=70), Row(ttd_s=0), Row(idle_since=None), Row(ttd_s=1, boot_id="other boot")]
    assert idleness.next_look(rows, 150.0, "boot") == 20.0
    assert idleness.next_look(rows, 175.0, "boot") == 0.0
    assert idleness.next_look(rows, 100.0, "boot") == idleness.LONGEST_S
    assert idleness.next_look([], 100.0, "boot") == idleness.LONGEST_S


@given(st.lists(st.builds(Row, st.floats(0, 100), st.none() | st.floats(0, 100))), st.floats(0, 300))
def test_looking_when_told_to_misses_no_idle_server(rows: list[Row], now: float) -> None:
    pause = idleness.next_look(rows, now, "boot")
    assert (pause == 0.0) == any(idleness.is_idle(row, now, "boot") for row in rows)
