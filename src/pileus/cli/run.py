"""The verb `run`: reads what the job is, and refuses what cannot work before anything is created."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from pileus.cli import transfers
from pileus.cli.invocation import Invocation
from pileus.cli.parameters import DURATION, external_ip_option, size_options, verb
from pileus.errors import ConfigError

if TYPE_CHECKING:
    from pileus import AsyncProvider
    from pileus.cli.transfers import Pull

SAFETY_TTD_S = 120.0
"""A server that a run will destroy itself is given this; should the run be killed, the server's own lease ends it."""

FOREVER = "forever"


@verb("run", context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@size_options
@click.option("--push", "pushes", metavar="LOCAL[:REMOTE]", multiple=True, help="Send this first; may be repeated.")
@click.option(
    "--pull", "pulls", metavar="REMOTE[:LOCAL]", multiple=True, help="Bring this back at the end; may be repeated."
)
@click.option("--pull-if-ok", is_flag=True, help="Bring results back only when the command ended with status 0.")
@click.option(
    "--keep",
    is_flag=False,
    flag_value=FOREVER,
    metavar="[DURATION]",
    help="Leave the server running; with a duration, until it has been idle for that long.",
)
@click.option(
    "--ttd", type=DURATION, help="Idle time after which a new server goes, whatever happens to us [default: 2m]."
)
@external_ip_option
@click.option("--new", is_flag=True, help="Use a new server even if there is room on one.")
@click.option(
    "--count", "-n", type=click.IntRange(1), default=1, metavar="N", help="Run it on N servers at once [default: 1]."
)
@click.option(
    "--env", "variables", metavar="KEY=VALUE", multiple=True, help="Set a variable for the command; may be repeated."
)
@click.option("--timeout", type=DURATION, help="Stop the command after that long; the exit status is then 124.")
@click.option(
    "--stdin", "use_stdin", is_flag=True, help="Read standard input to its end first, and give it to the command."
)
@click.argument("command", nargs=-1, required=True)
def run_command(invocation: Invocation, command: tuple[str, ...], use_stdin: bool, **options: Any) -> int:
    """Run a command on a server that fits, and let the server go.

    Uses a server of the deployment that has the room, or else a new one; sends what --push names, shows the command's
    output as it comes, brings back what --pull names (also when the command failed), and destroys the server if it was
    new. The exit status is the command's own, or 128 and the number of the signal that ended it. When this is
    interrupted, the command is ended and the new server destroyed.

    A command of several words is quoted word by word; one word goes to the server's shell as it is: pileus run -- 'ls |
    wc -l'.

    With --count each of the N gets its own server, the variables PILEUS_INDEX (from 0) and PILEUS_COUNT, and its name
    before each line of output; the exit status is the worst.
    """
    from pileus.cli.job import Job, Runner

    keep, ttd = read_keep(options["keep"], options["ttd"], invocation.settings.ttd)
    count: int = options["count"]
    check_flavor(invocation.settings.flavor)
    pulls = partial(read_pulls, options["pulls"], count)
    for index in range(count):  # read once now, for what is wrong with them
        pulls(index, f"server-{index}")
    job = Job(
        command=join(command),
        pushes=[transfers.read_push(text) for text in options["pushes"]],
        pulls=pulls,
        count=count,
        keep=keep,
        ttd=ttd,
        new=options["new"],
        external_ip=options["external_ip"],
        pull_if_ok=options["pull_if_ok"],
        timeout=options["timeout"],
        environment=read_variables(options["variables"]),
        stdin=sys.stdin.buffer.read() if use_stdin else b"",
    )

    async def work(provider: AsyncProvider) -> int:
        return await Runner(job, provider, invocation).run()

    return invocation.drive(work)


def join(words: Sequence[str]) -> str:
    """The command line for the remote shell: one word as it is, several quoted each."""
    return words[0] if len(words) == 1 else shlex.join(words)


def read_keep(keep: str | None, ttd: float | None, usual_ttd: float | None) -> tuple[bool, float]:
    """Whether a new server stays, and after how many idle seconds it goes by itself (0 for never). Pure.

    Args:
        keep: None, `FOREVER`, or a duration.
        ttd: what `--ttd` says.
        usual_ttd: what environment or file say.

    Raises:
        ConfigError: `keep` is no duration, or both say a duration.
    """
    from pileus.cli import quantities

    if keep is None:
        chosen = ttd if ttd is not None else usual_ttd
        # 0 is for never; a server that will not be kept is not to outlive us for ever.
        return False, chosen or SAFETY_TTD_S
    if keep == FOREVER:
        return True, ttd if ttd is not None else (usual_ttd or 0.0)
    try:
        duration = quantities.duration(keep, setting="keep")
    except ConfigError as problem:
        raise ConfigError(problem.message, setting="keep", hint="put -- before the command") from None
    if ttd is not None and ttd != duration:
        raise ConfigError("--keep and --ttd name different durations", setting="keep", hint="name one")
    return True, duration


def read_variables(texts: Sequence[str]) -> Mapping[str, str]:
    """Read `KEY=VALUE` words.

    Raises:
        ConfigError: one is none.
    """
    variables = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise ConfigError(f"--env: {text!r} will not do; write KEY=VALUE", setting="env")
        variables[key] = value
    return variables


def read_pulls(texts: Sequence[str], count: int, index: int, name: str) -> list[Pull]:
    """What to bring back from one server of several.

    Raises:
        ConfigError: as `transfers.read_pull`; or two would land in one place.
    """
    pulls = [transfers.read_pull(text, index=index, count=count, server=name) for text in texts]
    transfers.check_distinct(pulls)
    return pulls


def check_flavor(expression: str) -> None:
    """Refuse an expression that does not compile, before anything is created.

    Raises:
        BadRegexError: it does not.
    """
    from pileus.errors import BadRegexError

    try:
        re.compile(expression)
    except re.error as problem:
        raise BadRegexError(f"--flavor: {expression!r} is no regular expression: {problem}", setting="flavor") from None
