"""From an error to what a person reads and what a script tests: the exit statuses."""

from __future__ import annotations

import signal
import sys
from typing import TextIO

from pileus.errors import (
    CommandError,
    ConfigError,
    PileusError,
    ProviderError,
    RemoteError,
    ServerError,
    SpawnError,
    StateError,
    TearDownError,
)

GENERAL = 1
USAGE = 2
CLOUD = 3
SERVER = 4
CONNECTION = 5
STATE = 6
LEFTOVERS = 7
TIMED_OUT = 124
"""As the command `timeout` has it."""
BROKEN_PIPE = 128 + signal.SIGPIPE

# A ladder: the first class that fits. TearDownError and SpawnError are groups, so they come before what they may hold.
_STATUSES: tuple[tuple[type[PileusError], int], ...] = (
    (TearDownError, LEFTOVERS),
    (ConfigError, USAGE),
    (ProviderError, CLOUD),
    (ServerError, SERVER),
    (CommandError, GENERAL),
    (RemoteError, CONNECTION),
    (StateError, STATE),
)


class Interrupted(KeyboardInterrupt):
    """A signal that asks us to end, raised in the main thread; `number` is the signal's."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number


def exit_status(error: BaseException) -> int:
    """The exit status for an error; that of a `SpawnError` is that of its first failure."""
    if isinstance(error, SpawnError) and error.exceptions:
        return exit_status(error.exceptions[0])
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return status
    if isinstance(error, KeyboardInterrupt):
        return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT)
    return GENERAL


def command_status(exit_status: int | None, exit_signal: str | None) -> int:
    """The status of a command as a shell would give it: its own, or 128 and the number of the signal that ended it.

    A command with neither was stopped at its time limit.
    """
    if exit_signal is not None:
        number = getattr(signal, f"SIG{exit_signal.removeprefix('SIG')}", None)
        return 128 + int(number) if number is not None else 255
    return TIMED_OUT if exit_status is None else exit_status


def show_error(error: BaseException, *, verbose: bool = False, stream: TextIO | None = None) -> None:
    """Write the error to standard error, its hint on a line of its own, after the traceback if wanted."""
    stream = stream or sys.stderr
    if verbose:
        import traceback

        traceback.print_exception(error, file=stream)
    expected = isinstance(error, PileusError | OSError)
    stream.write(f"pileus: error: {error if expected else f'{type(error).__name__}: {error}'}\n")
    if not expected and not verbose:
        stream.write("  try: the same with --verbose, and report what it shows\n")
