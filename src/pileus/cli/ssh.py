"""Verbs for those who come by SSH: ssh, ssh-config, inventory."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pileus.cli import local_view, render, sshconfig
from pileus.cli.invocation import Invocation
from pileus.cli.local_view import View
from pileus.cli.parameters import complete_server, verb
from pileus.cli.run import join
from pileus.cli.servers import server_called, server_of
from pileus.cli.sshconfig import Files, Target

if TYPE_CHECKING:
    from pileus import AsyncProvider


@verb("ssh", context_settings={"allow_interspersed_args": False})
@click.option("--built-in", is_flag=True, help="Use our own client even if OpenSSH's is there.")
@click.argument("server", shell_complete=complete_server)
@click.argument("command", nargs=-1)
def ssh_command(invocation: Invocation, server: str, command: tuple[str, ...], built_in: bool) -> int:
    """Log in to a server, or run a command there.

    Uses the `ssh` of OpenSSH with a configuration of ours where it is installed, a terminal of our own where not. While
    it lasts, the server is in use, and so not destroyed for being idle. The exit status is that of `ssh`, or the
    command's.

    A command of several words is quoted word by word; one word goes to the server's shell as it is.
    """
    from pileus.cli import terminal

    client = None if built_in else shutil.which("ssh")
    line = join(command) if command else ""
    server_id = server_called(invocation, server)

    async def work(provider: AsyncProvider) -> int:
        found = await server_of(provider, server_id)
        held = await found.allocate(0, 0, 0)
        if not held:  # a bad server may be logged in to all the same
            invocation.progress.warn(f"{found.name} is not to be used any more, and may vanish")
        try:
            if client is None:
                return await terminal.built_in(found, line)
            view = local_view.require(invocation.settings)
            configuration = write_files(view, view.path)
            return await terminal.open_ssh([client, "-F", str(configuration), found.name, *([line] if line else [])])
        finally:
            if held:
                await found.release(0, 0, 0)

    return invocation.drive(work)


@verb("ssh-config")
@click.argument("servers", nargs=-1, shell_complete=complete_server)
def ssh_config_command(invocation: Invocation, servers: tuple[str, ...]) -> None:
    """Print a configuration for OpenSSH.

    Of all servers, or those named. Host keys are verified against a file of ours beside the state, under the server's
    id. Use it as `pileus ssh-config > FILE; ssh -F FILE SERVER`, or with an `Include FILE` at the top of ~/.ssh/config.
    """
    view = local_view.require(invocation.settings)
    targets = targets_of(view)
    if servers:
        targets = [local_view.find(targets, name) for name in servers]
    write_files(view, view.path)
    sys.stdout.write(sshconfig.config(targets, files_of(view.path)))


@verb("inventory")
@click.option("--list", "everything", is_flag=True, help="All hosts with their variables; what is done by default.")
@click.option("--host", metavar="NAME", help="The variables of one host.")
def inventory_command(invocation: Invocation, everything: bool, host: str | None) -> None:
    """Print an inventory for Ansible.

    In the form that Ansible asks inventory scripts for. Host keys are verified against a file of ours beside the state.
    """
    if everything and host is not None:
        raise click.UsageError("--list and --host exclude each other")
    view = local_view.look(invocation.settings)
    targets = targets_of(view) if view else []
    if view is None:
        render.show_json({} if host is not None else {"_meta": {"hostvars": {}}})
        return
    write_files(view, view.path)
    files = files_of(view.path)
    if host is None:
        render.show_json(sshconfig.inventory(targets, files, invocation.settings.name))
    else:
        render.show_json(sshconfig.host_variables(local_view.find(targets, host), files))


def targets_of(view: View) -> list[Target]:
    """The servers that can be logged in to."""
    return [
        Target(row.name, row.id, row.ip, row.ssh_port, row.user_name, row.host_keys)
        for row in view.servers
        if row.ip and row.host_keys and row.status in ("spawned", "ready")
    ]


def files_of(state: Path) -> Files:
    """Where the private key and the known hosts of a deployment are, beside its state."""
    from pileus.state import key_path

    return Files(key_path(state).absolute(), sshconfig.side_files(state)[0].absolute())


def write_files(view: View, state: Path) -> Path:
    """Write the known hosts and a configuration beside the state, for ourselves only; gives the configuration's path.

    Each is replaced as a whole, so that an `ssh` that starts at the same time reads the one or the other.
    """
    targets: Sequence[Target] = targets_of(view)
    files = files_of(state)
    configuration = sshconfig.side_files(state)[1].absolute()
    _replace(files.known_hosts, sshconfig.known_hosts(targets))
    _replace(configuration, sshconfig.config(targets, files))
    return configuration


def _replace(path: Path, text: str) -> None:
    import tempfile

    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")  # made with mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
