from __future__ import annotations

import shlex

import pytest

from pileus.cli import run
from pileus.errors import BadRegexError, ConfigError


def test_one_word_goes_to_the_shell_as_it_is_and_several_are_quoted() -> None:
    assert run.join(["ls | wc -l"]) == "ls | wc -l"
    words = ["echo", "a b", "$HOME", "it's", "", "*"]
    assert shlex.split(run.join(words)) == words


@pytest.mark.parametrize(
    ("keep", "ttd", "usual", "expected"),
    [
        (None, None, None, (False, run.SAFETY_TTD_S)),
        (None, 600.0, None, (False, 600.0)),
        (None, None, 30.0, (False, 30.0)),
        (None, 0.0, None, (False, run.SAFETY_TTD_S)),
        (run.FOREVER, None, None, (True, 0.0)),
        (run.FOREVER, 600.0, None, (True, 600.0)),
        (run.FOREVER, None, 30.0, (True, 30.0)),
        ("2h", None, 30.0, (True, 7200.0)),
        ("2h", 7200.0, None, (True, 7200.0)),
    ],
)
def test_how_long_a_new_server_stays(
    keep: str | None, ttd: float | None, usual: float | None, expected: tuple[bool, float]
) -> None:
    assert run.read_keep(keep, ttd, usual) == expected


def test_a_command_in_the_place_of_a_duration_is_explained() -> None:
    with pytest.raises(ConfigError, match="put -- before the command"):
        run.read_keep("echo", None, None)


def test_two_different_durations_are_refused() -> None:
    with pytest.raises(ConfigError, match="different durations"):
        run.read_keep("2h", 60.0, None)


def test_variables_may_hold_anything_but_need_a_name() -> None:
    assert run.read_variables(["A=b=c", "_x1=", "B=\n'"]) == {"A": "b=c", "_x1": "", "B": "\n'"}
    for text in ("A", "=b", "1A=b", "A B=c", "ä=b"):
        with pytest.raises(ConfigError, match="KEY=VALUE"):
            run.read_variables([text])


def test_a_bad_expression_for_flavors_is_refused() -> None:
    run.check_flavor("^m1[.]")
    with pytest.raises(BadRegexError, match="flavor"):
        run.check_flavor("m1[")
