"""Verbs on the whole deployment: check, deploy, audit, teardown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from pileus.cli import render
from pileus.cli.invocation import Invocation
from pileus.cli.parameters import json_option, verb, yes_option
from pileus.cli.quantities import show_duration
from pileus.cli.render import Column
from pileus.cli.sshconfig import side_files
from pileus.models import DeployConfig

if TYPE_CHECKING:
    from pileus import AsyncProvider


@verb("check")
@json_option
def check_command(invocation: Invocation, as_json: bool) -> int:
    """Tell whether everything is there that is needed.

    Shows where the settings come from, asks the provider what it can tell, and creates nothing. The exit status is 1
    when something is missing.
    """
    settings = invocation.settings

    async def work(provider: AsyncProvider) -> list[Any]:
        invocation.progress.doing(f"checking {provider.name}")
        return list(await provider.check())

    items = [
        {"name": item.name, "ok": item.ok, "detail": item.detail, "hint": item.hint} for item in invocation.drive(work)
    ]
    settled = [
        {
            "name": key,
            "ok": True,
            "detail": f"{getattr(settings, key)} ({settings.origin.get(key, 'default')})",
            "hint": "",
        }
        for key in ("provider", "name")
    ]
    items = settled + items
    if as_json:
        render.show_json(items)
    else:
        for item in items:
            mark = "ok  " if item["ok"] else "FAIL"
            render.show(render.printable(f"{mark}  {item['name']}: {item['detail']}"))
            if item["hint"] and not item["ok"]:
                render.show(f"      try: {item['hint']}")
    return 0 if all(item["ok"] for item in items) else 1


@verb("deploy")
@click.option(
    "--port",
    "ports",
    type=click.IntRange(1, 65535),
    multiple=True,
    help="A TCP port to open; may be repeated [default: 22].",
)
@click.option("--open-to", metavar="CIDR", help="From where the ports may be reached [default: anywhere].")
@click.option("--cidr", metavar="CIDR", help="The subnet to make, or, on a server of the cloud, to use.")
@click.option("--gateway", metavar="ADDRESS", help="The subnet's gateway [default: its first address].")
@click.option("--dns", "name_servers", metavar="ADDRESS", multiple=True, help="A name server; may be repeated.")
@click.option("--config-drive", is_flag=True, help="Give servers a configuration drive, for networks without DHCP.")
@click.option(
    "--max-servers", type=click.IntRange(0), help="How many servers there may be at once [default: no limit]."
)
@json_option
def deploy_command(invocation: Invocation, as_json: bool, **options: Any) -> None:
    """Make what servers need: a key, a network, a firewall.

    May be repeated: what is there already is kept, and what an earlier call that was killed left behind is settled.
    `spawn` and `run` do this by themselves, with the defaults.
    """
    names = {
        "ports": "required_ports",
        "open_to": "ports_open_to",
        "cidr": "cidr",
        "gateway": "gateway_ip",
        "name_servers": "dns_name_servers",
        "config_drive": "use_config_drive",
        "max_servers": "max_servers",
    }
    fields = {names[key]: value for key, value in options.items() if value not in (None, (), False)}

    config = DeployConfig(**fields)

    async def work(provider: AsyncProvider) -> dict[str, Any]:
        invocation.progress.doing(f"deploying {provider.resource_name} on {provider.name}")
        await provider.deploy(config)
        return {
            "provider": provider.name,
            "name": provider.resource_name,
            "deployment_id": provider.deployment_id,
            "state": str(provider.state_path),
            "private_key": str(provider.private_key_path),  # the file's path, never what is in it
            "resources": dict(provider.resources.details),
        }

    made = invocation.drive(work)
    if as_json:
        render.show_json(made)
        return
    resources = made.pop("resources")
    for key, value in {**made, **resources}.items():
        render.show(f"{key}: {render.printable(str(value))}")


@verb("audit")
@click.option(
    "--all", "every_deployment", is_flag=True, help="Of every deployment that the account shows, not only this one."
)
@json_option
def audit_command(invocation: Invocation, every_deployment: bool, as_json: bool) -> None:
    """List all that exists in the cloud and is ours.

    The cloud's own listing, joined with the state: whatever carries our mark is shown, also what the state knows
    nothing of. Settles what a call that was killed left behind.
    """

    async def work(provider: AsyncProvider) -> Sequence[Any]:
        invocation.progress.doing(f"listing what exists on {provider.name}")
        return await provider.audit(every_deployment=every_deployment)

    items = invocation.drive(work)
    if as_json:
        keys = (
            "kind",
            "id",
            "name",
            "deployment_id",
            "resource_name",
            "owner",
            "created",
            "status",
            "known",
            "ours",
            "expires",
        )
        render.show_json([{key: getattr(item, key) for key in keys} for item in items])
        return
    if not items:
        invocation.progress.note("nothing exists")
        return
    now = datetime.now(UTC)
    columns = [
        Column("KIND"),
        Column("NAME", shrink=2),
        Column("ID", shrink=1),
        Column("DEPLOYMENT", shrink=2),
        Column("OWNER", shrink=2),
        Column("STATUS"),
        Column("AGE", right=True),
        Column("NOTES"),
    ]
    render.show_table(columns, [audit_cells(item, now) for item in items])


def audit_cells(item: Any, now: datetime) -> list[str]:
    """One line of the table that `audit` shows. Pure."""
    notes = [] if item.ours else ["another's"]
    if item.ours and not item.known:
        notes.append("not in the state")
    if item.expires is not None and item.expires <= now:
        notes.append("expired")
    age = "-" if item.created is None else show_duration((now - item.created).total_seconds())
    return [
        item.kind,
        item.name or "-",
        item.id,
        item.resource_name or item.deployment_id or "-",
        item.owner or "-",
        item.status or "-",
        age,
        ", ".join(notes) or "-",
    ]


@verb("teardown")
@yes_option
def teardown_command(invocation: Invocation, yes: bool) -> None:
    """Destroy everything of the deployment, and prove it.

    First lists what there is and asks. May be repeated, and nothing to destroy is success; what still exists at the end
    is named, and the exit status is then 7.
    """

    async def survey(provider: AsyncProvider) -> list[str]:
        invocation.progress.doing(f"listing what exists on {provider.name}")
        items = await provider.audit()  # of this name; without a state, what will be adopted is all of it
        return [f"{item.kind} {item.name or item.id}" for item in items if item.ours or not provider.deployment_id]

    async def work(provider: AsyncProvider) -> None:
        invocation.progress.doing(f"tearing down {provider.resource_name}")
        await provider.tear_down()
        for path in side_files(provider.state_path):
            path.unlink(missing_ok=True)

    name = invocation.settings.name
    things = [render.printable(thing) for thing in invocation.drive(survey)]
    if things:
        invocation.confirm(things, f"Destroy all of that ({name} on {invocation.settings.provider})?", yes=yes)
    invocation.drive(work)
    invocation.progress.note(f"nothing of {name} exists any more")
