"""The command `pileus`: finds the verb, and turns whatever goes wrong into a message and an exit status."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

import click
from click.exceptions import NoArgsIsHelpError

from pileus.cli import outcome
from pileus.cli.invocation import Invocation
from pileus.cli.parameters import shared_parameters
from pileus.errors import PileusError

# Verb, the module with a command of that name in it (dashes as underscores), and what --help says. The text stands here
# so that `pileus --help` imports no verb; a test holds it against the command's own.
VERBS: dict[str, tuple[str, str]] = {
    "run": ("run", "Run a command on a server that fits, and let the server go."),
    "check": ("deployment", "Tell whether everything is there that is needed."),
    "deploy": ("deployment", "Make what servers need: a key, a network, a firewall."),
    "flavors": ("catalogue", "List the sizes of server on offer, the smallest first."),
    "images": ("catalogue", "List what servers can boot from, the default first."),
    "quota": ("catalogue", "Show what the account may use, and uses."),
    "spawn": ("servers", "Start servers and wait until they can be used."),
    "list": ("listing", "List the deployment's servers."),
    "ssh": ("ssh", "Log in to a server, or run a command there."),
    "push": ("servers", "Send a file or directory to a server."),
    "pull": ("servers", "Bring a file or directory back from a server."),
    "destroy": ("servers", "Destroy servers."),
    "teardown": ("deployment", "Destroy everything of the deployment, and prove it."),
    "audit": ("deployment", "List all that exists in the cloud and is ours."),
    "ssh-config": ("ssh", "Print a configuration for OpenSSH."),
    "inventory": ("ssh", "Print an inventory for Ansible."),
    "completion": ("completion", "Print a script that lets the shell complete."),
}


class Verbs(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, the main job first."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"pileus.cli.{VERBS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_") + "_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; a reader of our output that went away ends us quietly, before click makes it another status."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            _drop_output()
            ctx.exit(outcome.BROKEN_PIPE)
        return result


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from pileus import __version__

        click.echo(f"pileus {__version__}")
        ctx.exit()


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit statuses: 0 fine, 1 other, 2 usage or settings, 3 the cloud refused, 4 a server failed, 5 no "
    "connection, 6 the state, 7 something still exists, 130 interrupted; `run` and `ssh` pass on the command's own.",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show the version."
)
def app() -> None:
    """Turn a cloud account into servers you can use, and make them vanish again.

    Begin with: pileus run -- echo hello
    """


app.params.extend(shared_parameters())


def main() -> NoReturn:
    """Run the command line of this process, and leave."""
    _fill_standard_streams()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # else somebody (nohup) wants it ignored
            signal.signal(number, _interrupt)
    try:
        status = run(sys.argv[1:])
    except KeyboardInterrupt as interrupt:  # in a moment when nobody else minded it
        status = outcome.exit_status(interrupt)
    _leave(status)


def run(arguments: list[str]) -> int:
    """Run the command line with these arguments; gives the exit status."""
    invocation = Invocation()
    try:
        status = app.main(arguments, prog_name="pileus", standalone_mode=False, obj=invocation)
        return status if isinstance(status, int) else 0
    except click.Abort as abort:
        invocation.progress.stop()
        cause = abort.__cause__
        click.echo("pileus: interrupted" if cause else "pileus: nothing was done", err=True)
        return outcome.exit_status(cause) if isinstance(cause, KeyboardInterrupt) else outcome.GENERAL
    except click.ClickException as problem:
        if isinstance(problem, NoArgsIsHelpError):
            click.echo(problem.format_message(), err=True)
            return problem.exit_code
        if isinstance(problem, click.UsageError) and problem.ctx is not None:
            click.echo(f"{problem.ctx.get_usage()}\n  try: {problem.ctx.command_path} --help", err=True)
        click.echo(f"pileus: error: {problem.format_message()}", err=True)
        return problem.exit_code
    except PileusError as error:
        outcome.show_error(error, verbose=invocation.verbose > 0)
        return outcome.exit_status(error)
    except Exception as error:  # noqa: BLE001  (the outermost boundary: a person reads it)
        outcome.show_error(error, verbose=invocation.verbose > 0)
        return outcome.GENERAL


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    raise outcome.Interrupted(number)


def _fill_standard_streams() -> None:
    """Open what the caller closed (`>&-`), on nothing: else the next file opened would be taken for standard output."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        descriptor = os.dup(descriptor)
    os.close(descriptor)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115, PTH123


def _leave(status: int) -> NoReturn:
    """End the process at once.

    Everything is closed by now. An ordinary exit would take all modules apart first, object by object, which takes
    longer than many a verb (a quarter of a second once asyncssh is loaded).
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # nobody reads it, or it is closed
            status = status or outcome.BROKEN_PIPE
    os._exit(status)


def _drop_output() -> None:
    """Let the flush at the program's end find no closed pipe."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
