"""Verbs on servers: spawn, push, pull, destroy."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from pileus.cli import listing, local_view, render, transfers
from pileus.cli.invocation import Invocation
from pileus.cli.parameters import (
    DURATION,
    complete_server,
    external_ip_option,
    json_option,
    size_options,
    verb,
    yes_option,
)
from pileus.cli.quantities import show_duration, show_megabytes
from pileus.errors import ConfigError, PileusError, ServerGoneError, SpawnError

if TYPE_CHECKING:
    from pileus import AsyncProvider, AsyncServer, Flavor
    from pileus.cli.progress import Progress
    from pileus.cli.settings import Settings

DEFAULT_CORES = 1.0
DEFAULT_RAM_MB = 512


def describe(flavor: Flavor) -> str:
    """A flavor's size in a few words."""
    return f"{flavor.cores} core{'s' * (flavor.cores != 1)}, {show_megabytes(flavor.ram)}"


def external_ip(provider: AsyncProvider, said: bool | None) -> bool:
    """Whether new servers get an address that is reached from outside: as was said, or as we need it to reach them."""
    return said if said is not None else provider.capabilities.external_ips and not provider.in_cloud


async def choose_flavor(provider: AsyncProvider, settings: Settings) -> Flavor:
    """The flavor that the settings name, else the cheapest that is large enough and fits their expression.

    Raises:
        NoFlavorError, BadRegexError: none fits, or the expression is none.
    """
    from pileus import BadFlavorError

    if settings.flavor:
        try:
            flavor = await provider.server_flavor(settings.flavor)
        except BadFlavorError:
            pass
        else:
            if flavor.cores >= (settings.cores or 0) and flavor.ram >= (settings.ram or 0):
                return flavor
            raise ConfigError(
                f"the flavor {flavor.name} has {describe(flavor)}, less than was asked for",
                setting="flavor",
            )
    return await provider.cheapest_server_flavor(*wanted_size(settings), settings.flavor)


def wanted_size(settings: Settings) -> tuple[float, int]:
    """Cores and memory (MB) that were asked for, or the defaults."""
    return (
        DEFAULT_CORES if settings.cores is None else settings.cores,
        DEFAULT_RAM_MB if settings.ram is None else settings.ram,
    )


def server_called(invocation: Invocation, wanted: str) -> str:
    """The id of the server that a person means, from the state alone.

    Raises:
        ConfigError: there is no deployment, no server fits, or several do.
    """
    return local_view.find(local_view.require(invocation.settings).servers, wanted).id


async def server_of(provider: AsyncProvider, server_id: str) -> AsyncServer:
    """The server with that id.

    Raises:
        ServerGoneError: it was destroyed since we looked.
    """
    server = (await provider.servers(all=True)).get(server_id)
    if server is None:
        raise ServerGoneError(f"the server {server_id} is being destroyed, or gone", server_id=server_id)
    return server


@verb("spawn")
@size_options
@click.option("--count", "-n", type=click.IntRange(1), default=1, metavar="N", help="How many [default: 1].")
@click.option("--ttd", type=DURATION, help="Idle time after which each is destroyed: 90, 10m, 2h, 1d [default: never].")
@external_ip_option
@click.option(
    "--max-lifetime", type=DURATION, default=0, help="Age past which each may be destroyed even in use [default: none]."
)
@click.option(
    "--files", default="", metavar="LIST", help="Files to copy there first: comma-separated; ~/ and LOCAL:REMOTE work."
)
@click.option(
    "--script", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A script to run there once."
)
@click.option("--timeout", type=DURATION, help="How long to wait for each [default: the provider's own idea].")
@json_option
def spawn_command(invocation: Invocation, as_json: bool, **options: Any) -> None:
    """Start servers and wait until they can be used.

    They stay until they are destroyed, or have been idle for as long as --ttd says. Deploys first if needed. Prints
    each one's name, as soon as it can be used. When it is interrupted, those that were not ready are destroyed.
    """
    import asyncio

    settings = invocation.settings
    progress = invocation.progress
    count: int = options["count"]
    ttd = options["ttd"] if options["ttd"] is not None else (settings.ttd or 0)
    script: bytes = options["script"].read_bytes() if options["script"] else b""

    async def work(provider: AsyncProvider) -> tuple[list[AsyncServer], list[PileusError]]:
        await deploy_if_needed(provider, invocation)
        flavor = await choose_flavor(provider, settings)
        progress.doing(f"spawning {count} x {flavor.name} ({describe(flavor)})")
        ready: list[AsyncServer] = []
        failed: list[PileusError] = []

        async def prepare(server: AsyncServer) -> None:
            try:
                await server.wait_until_ready(options["files"], script, timeout=options["timeout"])
            except BaseException as problem:
                await server.destroy()
                if not isinstance(problem, PileusError):
                    raise
                failed.append(problem)
            else:
                ready.append(server)
                progress.doing(f"{len(ready)} of {count} ready")
                if not as_json:
                    progress.stop()
                    render.show(server.name)

        spawning = provider.spawn_many(
            count,
            settings.os,
            settings.user,
            flavor,
            settings.disk or 0,
            ttd,
            external_ip(provider, options["external_ip"]),
            timeout=options["timeout"],
            max_lifetime=options["max_lifetime"],
        )
        async with (
            asyncio.TaskGroup() as group,
            contextlib.aclosing(cast("AsyncGenerator[AsyncServer, None]", spawning)) as arriving,
        ):
            try:
                async for server in arriving:
                    group.create_task(prepare(server))
            except SpawnError as problem:
                failed.extend(cast("tuple[PileusError, ...]", problem.exceptions))
        return ready, failed

    servers, failed = invocation.drive(work)
    if as_json:
        keys = {server.id for server in servers}
        render.show_json([server for server in listing.facts_of(settings) if server["id"] in keys])
    lasting = f"destroyed after {show_duration(ttd)} of idleness" if ttd else "there until you destroy them"
    if servers:
        progress.note(f"{len(servers)} ready, {lasting}")
    fail_with(failed, progress)


def fail_with(problems: Sequence[PileusError], progress: Progress) -> None:
    """Show all but the last of several problems, and raise that one; nothing when there is none."""
    for problem in problems[:-1]:
        progress.warn(str(problem))
    if problems:
        raise problems[-1]


async def deploy_if_needed(provider: AsyncProvider, invocation: Invocation) -> None:
    """Deploy with the defaults where that was not done; first refuse a flavor or an image that there is not."""
    from pileus.policy import images

    if not provider.deployed:
        await choose_flavor(provider, invocation.settings)
        images.find(await provider.images(), invocation.settings.os)
        invocation.progress.doing(f"deploying {provider.resource_name} on {provider.name}")
        await provider.deploy()


@verb("push")
@click.argument("server", shell_complete=complete_server)
@click.argument("local")
@click.argument("remote", required=False, default="")
def push_command(invocation: Invocation, server: str, local: str, remote: str) -> None:
    """Send a file or directory to a server.

    REMOTE counts from the home there; by default it is LOCAL's last part. It ends in a slash where it is the directory
    to put LOCAL in.
    """
    escaped = local.replace(":", "\\:") + (":" + remote if remote else "")
    push = transfers.read_push(escaped)
    server_id = server_called(invocation, server)

    async def work(provider: AsyncProvider) -> None:
        found = await server_of(provider, server_id)
        report = invocation.progress.transfer(f"sending {push.local} to {found.name}")
        await found.upload_file(push.local, push.remote, progress=report)

    invocation.drive(work)


@verb("pull")
@click.argument("server", shell_complete=complete_server)
@click.argument("remote")
@click.argument("local", required=False, default="")
def pull_command(invocation: Invocation, server: str, remote: str, local: str) -> None:
    """Bring a file or directory back from a server.

    REMOTE counts from the home there; LOCAL is its last part in the working directory by default, or the directory to
    put it in.
    """
    pull = transfers.read_pull(remote.replace(":", "\\:") + (":" + local.replace(":", "\\:") if local else ""))
    server_id = server_called(invocation, server)

    async def work(provider: AsyncProvider) -> None:
        found = await server_of(provider, server_id)
        report = invocation.progress.transfer(f"bringing {pull.remote} from {found.name}")
        await found.download_file(pull.remote, pull.local, progress=report)

    invocation.drive(work)


@verb("destroy")
@click.argument("servers", nargs=-1, shell_complete=complete_server)
@click.option("--all", "everyone", is_flag=True, help="All servers of the deployment.")
@yes_option
def destroy_command(invocation: Invocation, servers: tuple[str, ...], everyone: bool, yes: bool) -> None:
    """Destroy servers.

    First lists them and asks. Visits all of them, also after a failure.
    """
    import asyncio

    if bool(servers) == everyone:
        raise click.UsageError("name the servers, or say --all")
    view = local_view.look(invocation.settings) if everyone else local_view.require(invocation.settings)
    if view is None or not view.servers:
        invocation.progress.note("there are no servers")
        return
    found = {row.id: row for row in (local_view.find(view.servers, name) for name in servers)}
    chosen = view.servers if everyone else tuple(found.values())
    in_use = {server_id for server_id, usage in view.usages.items() if usage.in_use}
    things = [
        f"server {row.name} ({row.id}, {row.ip or 'no address'}){', in use' if row.id in in_use else ''}"
        for row in chosen
    ]
    invocation.confirm(things, f"Destroy {'these' if len(chosen) > 1 else 'this'}?", yes=yes)

    async def work(provider: AsyncProvider) -> list[PileusError]:
        invocation.progress.doing(f"destroying {len(chosen)} server{'s' * (len(chosen) > 1)}")
        results = await asyncio.gather(*(provider.destroy_server(row.id) for row in chosen), return_exceptions=True)
        problems: list[PileusError] = []
        for result in results:
            if isinstance(result, PileusError):
                problems.append(result)
            elif isinstance(result, BaseException):
                raise result
        return problems

    fail_with(invocation.drive(work), invocation.progress)
    invocation.progress.note(f"destroyed {', '.join(row.name for row in chosen)}")
