"""What one call of the command shares between its options and its verb."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pileus.cli.progress import Progress
from pileus.cli.settings import Settings, load
from pileus.errors import ConfigError

if TYPE_CHECKING:
    from pileus import AsyncProvider

T = TypeVar("T")


class Invocation:
    """The options that every verb takes, and what is made of them when it is needed first.

    Attributes:
        given: settings that the command line named, by key.
        verbose: how often `--verbose` was said.
        quiet: whether `--quiet` was said.
    """

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.verbose = 0
        self.quiet = False

    @functools.cached_property
    def settings(self) -> Settings:
        """Command line, environment, file and defaults, joined."""
        return load(self.given)

    @functools.cached_property
    def progress(self) -> Progress:
        """The display on standard error."""
        return Progress(quiet=self.quiet, live=False if self.verbose else None)

    def start_logging(self) -> None:
        """Send the library's log to standard error, as far as `--verbose` asks for it."""
        if not self.verbose:
            return
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s: %(message)s"))
        logger = logging.getLogger("pileus")
        logger.addHandler(handler)
        logger.setLevel(logging.INFO if self.verbose == 1 else logging.DEBUG)

    def drive(self, work: Callable[[AsyncProvider], Awaitable[T]]) -> T:
        """Do some work with a provider, which is closed at the end (that destroys nothing); signals cancel the work.

        Raises:
            Interrupted: a signal came, and what the work does to clean up is done.
            PileusError: whatever the provider raises.
        """
        from pileus import AsyncProvider
        from pileus.cli import loop

        chosen = self.settings

        async def whole() -> T:
            provider = AsyncProvider(chosen.provider, chosen.name, chosen.save_path, settings=chosen.driver)
            async with provider:
                return await work(provider)

        try:
            return loop.drive(whole, self.progress)
        finally:
            self.progress.stop()

    def confirm(self, things: list[str], question: str, *, yes: bool) -> None:
        """List what is about to be destroyed and ask, unless the answer was given beforehand.

        Raises:
            ConfigError: nobody can be asked, and nothing was answered beforehand.
            click.Abort: the answer is no.
        """
        self.progress.stop()
        for thing in things:
            click.echo(f"  {thing}", err=True)
        if yes:
            return
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise ConfigError(
                "this destroys things, and there is no terminal to ask on; nothing was done",
                setting="yes",
                hint="say --yes if you mean it",
            )
        if not click.confirm(question, err=True):
            raise click.Abort
