"""The reference of commands, against the commands themselves."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from pileus.cli import app, outcome
from pileus.cli.parameters import shared_parameters

TEXT = (Path(__file__).parents[2] / "docs/reference/commands.md").read_text()
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", TEXT, flags=re.MULTILINE | re.DOTALL))
SHARED = {name for parameter in shared_parameters() for name in parameter.opts}


def documented(section: str) -> set[str]:
    """The options in the first column of a section's tables."""
    cells = re.findall(r"^\| (`-[^|]*) \|", SECTIONS[section], flags=re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(--?[a-z-]+)", cell)}


def command(verb: str) -> click.Command:
    found = app.app.get_command(click.Context(app.app), verb)
    assert found is not None
    return found


@pytest.mark.parametrize("verb", app.VERBS)
def test_each_verb_is_documented_with_exactly_its_options(verb: str) -> None:
    options = {
        name
        for parameter in command(verb).params
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    assert documented(verb) == options - SHARED


@pytest.mark.parametrize("verb", app.VERBS)
def test_each_verbs_arguments_are_documented(verb: str) -> None:
    usage = re.search(rf"`pileus {verb}([^`]*)`", SECTIONS[verb])
    assert usage is not None
    for parameter in command(verb).params:
        if isinstance(parameter, click.Argument):
            assert parameter.name is not None
            assert parameter.name.upper().removesuffix("S") in usage[1]


def test_no_verb_is_documented_that_does_not_exist() -> None:
    assert set(SECTIONS) - {"Shared options", "Exit statuses"} == set(app.VERBS)


def test_the_shared_options_are_documented() -> None:
    assert documented("Shared options") == SHARED | {"--help", "-h"}
    assert "`pileus --version`" in SECTIONS["Shared options"]


def test_each_exit_status_is_documented() -> None:
    statuses = {int(number) for number in re.findall(r"^\| (\d+) \|", SECTIONS["Exit statuses"], flags=re.MULTILINE)}
    assert statuses == {
        0,
        outcome.GENERAL,
        outcome.USAGE,
        outcome.CLOUD,
        outcome.SERVER,
        outcome.CONNECTION,
        outcome.STATE,
        outcome.LEFTOVERS,
        outcome.TIMED_OUT,
    }
    assert "141" in SECTIONS["Exit statuses"]
    assert outcome.BROKEN_PIPE == 141


def test_the_defaults_that_are_documented_hold() -> None:
    from pileus.cli.run import SAFETY_TTD_S
    from pileus.cli.servers import DEFAULT_CORES, DEFAULT_RAM_MB

    assert (DEFAULT_CORES, DEFAULT_RAM_MB, SAFETY_TTD_S) == (1, 512, 120)
