"""Options that several verbs take, the types of their values, and what the shell completes them with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from pileus.cli import quantities
from pileus.cli.invocation import Invocation
from pileus.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])


class Quantity(click.ParamType[Any]):
    """A number with a unit, read by one of the functions of `quantities`."""

    def __init__(self, name: str, read: Callable[..., Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read what was written; a default that is a number already stays."""
        if not isinstance(value, str):
            return value
        try:
            return self._read(value, setting="")
        except ConfigError as problem:
            self.fail(problem.message, param, ctx)


CORES = Quantity("number", quantities.cores)
MEMORY = Quantity("size", quantities.megabytes)
DISK = Quantity("size", quantities.gigabytes)
DURATION = Quantity("duration", quantities.duration)


def _remember(key: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def callback(ctx: click.Context, _: click.Parameter, value: Any) -> Any:
        if value is not None:
            ctx.ensure_object(Invocation).given[key] = value
        return value

    return callback


def _be_verbose(ctx: click.Context, _: click.Parameter, value: int) -> None:
    ctx.ensure_object(Invocation).verbose += value


def _be_quiet(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.ensure_object(Invocation).quiet |= value


def _complete_provider(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from pileus.drivers import registry

    return [CompletionItem(name) for name in registry.names() if name.startswith(incomplete)]


def complete_server(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the deployment's servers, from its state; nothing where that cannot be read."""
    from pileus.cli.local_view import look
    from pileus.errors import PileusError

    try:
        view = look(ctx.ensure_object(Invocation).settings)
    except PileusError:
        return []
    return [CompletionItem(row.name) for row in view.servers if row.name.startswith(incomplete)] if view else []


def verb(name: str, **attributes: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a verb: its first argument is the invocation, and the options that all verbs share come last."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def call(**values: Any) -> Any:
            invocation = click.get_current_context().ensure_object(Invocation)
            invocation.start_logging()
            return function(invocation, **values)

        make: Callable[[Callable[..., Any]], click.Command] = click.command(name, **attributes)
        command = make(call)
        command.params.extend(shared_parameters())
        return command

    return decorate


def shared_parameters() -> list[click.Parameter]:
    """The options that stand before or after the verb; a new list of new ones."""
    return [
        click.Option(
            ["--provider"],
            metavar="NAME",
            callback=_remember("provider"),
            expose_value=False,
            shell_complete=_complete_provider,
            help="Where servers come from [default: local].",
        ),
        click.Option(
            ["--name"],
            metavar="NAME",
            callback=_remember("name"),
            expose_value=False,
            help="The deployment's resource name [default: one of your own].",
        ),
        click.Option(
            ["--save-path"],
            metavar="PREFIX",
            callback=_remember("save_path"),
            expose_value=False,
            help="Keep the state in PREFIX.NAME.",
        ),
        click.Option(
            ["--verbose", "-v"],
            count=True,
            callback=_be_verbose,
            expose_value=False,
            help="Log to standard error; twice for more.",
        ),
        click.Option(
            ["--quiet", "-q"],
            is_flag=True,
            callback=_be_quiet,
            expose_value=False,
            help="No progress on standard error.",
        ),
    ]


def size_options(command: F) -> F:
    """What a server must have at least, and what it boots; they are remembered as settings."""
    options = [
        _setting("--cores", "cores", CORES, "Cores, at least [default: 1]."),
        _setting("--ram", "ram", MEMORY, "Memory, at least: 4G, 500M, or MB [default: 512M]."),
        _setting("--disk", "disk", DISK, "Disk, at least: 20G, or GB [default: the flavor's]."),
        _setting("--os", "os", None, "Image: an id, a name, or how one begins [default: the provider's]."),
        _setting("--user", "user", None, "Who logs in [default: the image's user]."),
        _setting("--flavor", "flavor", None, "Flavor: an id, a name, or a regular expression for names."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _setting(flag: str, key: str, kind: click.ParamType[Any] | None, text: str) -> Callable[[F], F]:
    metavar = None if kind is not None else key.upper()
    return click.option(flag, key, type=kind, metavar=metavar, callback=_remember(key), expose_value=False, help=text)


def external_ip_option(command: F) -> F:
    """`--external-ip`, for verbs that spawn; None where nothing is said."""
    return click.option(
        "--external-ip/--no-external-ip",
        default=None,
        help="An address that is reached from outside [default: if there are such, and we are outside].",
    )(command)


def json_option(command: F) -> F:
    """`--json`, for verbs whose output scripts read."""
    return click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output.")(command)


def yes_option(command: F) -> F:
    """`--yes`, for verbs that destroy."""
    return click.option("--yes", "-y", is_flag=True, help="Do not ask.")(command)
