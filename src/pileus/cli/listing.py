"""The verb `list`: quick, since it reads nothing but the state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pileus.cli import local_view, render
from pileus.cli.invocation import Invocation
from pileus.cli.parameters import json_option, verb
from pileus.cli.render import Column

if TYPE_CHECKING:
    from pileus import AsyncProvider
    from pileus.cli.settings import Settings

COLUMNS = (
    Column("NAME", shrink=2),
    Column("ID", drop=True),
    Column("STATUS"),
    Column("ADDRESS"),
    Column("FLAVOR", shrink=1),
    Column("ALLOC"),
    Column("IDLE/TTD"),
    Column("AGE", right=True),
)


@verb("list")
@click.option("--live", is_flag=True, help="Also ask the cloud what it says of each.")
@json_option
def list_command(invocation: Invocation, live: bool, as_json: bool) -> None:
    """List the deployment's servers.

    Read from the state alone, so it is quick and asks no cloud. ALLOC is what jobs hold of each, in cores and memory;
    IDLE/TTD how long it has been idle and how long it may be.
    """
    servers = facts_of(invocation.settings)
    columns = list(COLUMNS)
    if live and servers:
        for server, status in zip(servers, _live(invocation, [server["id"] for server in servers]), strict=True):
            server["cloud_status"] = status
        columns.append(Column("CLOUD"))
    if as_json:
        render.show_json(servers)
        return
    if not servers:
        settings = invocation.settings
        invocation.progress.note(f"no servers in {settings.name} on {settings.provider}")
        return
    rows = [local_view.cells(server) + ([server["cloud_status"]] if live else []) for server in servers]
    render.show_table(columns, rows)


def facts_of(settings: Settings) -> list[dict[str, Any]]:
    """What the state says of each server now; nothing where nothing is deployed."""
    view = local_view.look(settings)
    return local_view.all_facts(view) if view else []


def _live(invocation: Invocation, ids: list[str]) -> list[str]:
    async def work(provider: AsyncProvider) -> list[str]:
        invocation.progress.doing(f"asking {provider.name}")
        seen = {item.id: item.status for item in await provider.audit() if item.kind == "server"}
        return [seen.get(server_id, "gone") for server_id in ids]

    return invocation.drive(work)
