from __future__ import annotations

import io

import pytest

from pileus import errors
from pileus.cli import outcome
from pileus.models import CommandResult

STATUSES = {
    errors.PileusError: 1,
    errors.ConfigError: 2,
    errors.ProviderError: 3,
    errors.ServerError: 4,
    errors.RemoteError: 5,
    errors.StateError: 6,
    errors.UsageError: 1,
}


@pytest.mark.parametrize(("kind", "status"), STATUSES.items())
def test_each_branch_of_the_error_tree_has_its_status(kind: type[errors.PileusError], status: int) -> None:
    assert outcome.exit_status(kind("x")) == status


@pytest.mark.parametrize(
    "kind",
    [
        value
        for value in vars(errors).values()
        if isinstance(value, type)
        and issubclass(value, errors.PileusError)
        and not issubclass(value, ExceptionGroup | errors.CommandError)
    ],
)
def test_every_error_has_the_status_of_its_branch(kind: type[errors.PileusError]) -> None:
    expected = next((status for parent, status in STATUSES.items() if kind in _below(parent)), 1)
    assert outcome.exit_status(kind("x")) == expected


def _below(kind: type) -> set[type]:
    if kind is errors.PileusError:
        return {kind}
    return {kind}.union(*(_below(child) for child in kind.__subclasses__()))


def test_groups_and_failed_commands_have_theirs() -> None:
    quota = errors.QuotaError("no more")
    assert outcome.exit_status(errors.TearDownError("left", [quota])) == 7
    assert outcome.exit_status(errors.SpawnError("failed", [quota])) == 3
    assert outcome.exit_status(errors.CommandError("x", result=CommandResult("x", exit_status=9))) == 1
    assert outcome.exit_status(ValueError("x")) == 1
    assert outcome.exit_status(KeyboardInterrupt()) == 130
    assert outcome.exit_status(outcome.Interrupted(15)) == 143


@pytest.mark.parametrize(
    ("status", "signal", "expected"),
    [(0, None, 0), (3, None, 3), (None, "KILL", 137), (None, "SIGTERM", 143), (None, None, 124), (None, "ODD", 255)],
)
def test_a_commands_ending_becomes_a_status_as_in_a_shell(
    status: int | None, signal: str | None, expected: int
) -> None:
    assert outcome.command_status(status, signal) == expected


def test_an_error_is_shown_with_its_hint_and_only_when_asked_with_its_traceback() -> None:
    stream = io.StringIO()
    outcome.show_error(errors.QuotaError("no room", hint="ask for more"), stream=stream)
    assert stream.getvalue() == "pileus: error: no room\n  try: ask for more\n"
    try:
        raise errors.QuotaError("no room")
    except errors.QuotaError as error:
        outcome.show_error(error, verbose=True, stream=stream)
    assert "Traceback" in stream.getvalue()
