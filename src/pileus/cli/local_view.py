"""Looks at a deployment's state without a provider: no cloud is asked, and no driver is imported."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pileus.cli.quantities import show_duration, show_megabytes
from pileus.cli.settings import Settings
from pileus.errors import ConfigError
from pileus.policy.names import check_resource_name
from pileus.state import Deployment, ServerRow, Store, Usage, boot_id, state_path
from pileus.state.records import NANO


@dataclass(frozen=True, slots=True)
class View:
    """What the state says at one moment.

    Attributes:
        servers: those that are not destroyed, the oldest first.
        usages: what is held of each, by the server's id; a server nobody ever used may be missing.
    """

    path: Path
    deployment: Deployment
    servers: tuple[ServerRow, ...]
    usages: Mapping[str, Usage]


def look(settings: Settings) -> View | None:
    """Read the state; None when there is no deployment (any more).

    Raises:
        BadResourceNameError, BadProviderError: no deployment can have such a name, or no provider.
        StateError: the state cannot be read.
    """
    check_resource_name(settings.name)
    path = state_path(settings.provider, settings.name, settings.save_path)
    if not Store.exists(path):
        _check_provider(settings.provider)
        return None
    store = Store.open(path, provider=settings.provider, resource_name=settings.name, create=False)
    try:
        deployment = store.deployment()
        if deployment is None or deployment.status == "gone":
            return None
        servers = sorted(store.servers(), key=lambda row: (row.created, row.name))
        return View(path, deployment, tuple(servers), store.usages())
    finally:
        store.close()


def require(settings: Settings) -> View:
    """Read the state of a deployment that must exist.

    Raises:
        ConfigError: there is none.
    """
    view = look(settings)
    if view is None:
        raise ConfigError(
            f"there is no deployment {settings.name!r} on {settings.provider}",
            setting="name",
            hint="name it with --name and --provider, or begin one with `pileus deploy` or `pileus run`",
        )
    return view


class Named(Protocol):
    """Anything with an id and a name."""

    @property
    def id(self) -> str:
        """The cloud's identifier."""
        ...

    @property
    def name(self) -> str:
        """Ours."""
        ...


N = TypeVar("N", bound=Named)


def find(servers: Sequence[N], wanted: str) -> N:
    """The server that a person means: its id or name, or the beginning of its id, name, or name's random end.

    Raises:
        ConfigError: none fits, or several do.
    """
    for row in servers:
        if wanted in (row.id, row.name):
            return row
    fitting = [
        row
        for row in servers
        if wanted and any(text.startswith(wanted) for text in (row.id, row.name, row.name.rpartition("-")[2]))
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ConfigError(
            f"{wanted!r} may mean {', '.join(row.name for row in fitting[:5])}{' …' if len(fitting) > 5 else ''}",
            setting="server",
            hint="write more of the name",
        )
    known = ", ".join(row.name for row in servers[:5]) or "none"
    raise ConfigError(
        f"there is no server {wanted!r}", setting="server", hint=f"`pileus list` shows them; known: {known}"
    )


def facts(row: ServerRow, usage: Usage | None, *, now: float, monotonic: float, boot: str) -> dict[str, Any]:
    """What `list --json` tells of one server. Pure; no secrets.

    Args:
        usage: what is held of it, None for nothing.
        now: epoch seconds.
        monotonic: seconds of the monotonic clock of the boot that `boot` names.
    """
    usage = usage or Usage(row.id)
    idle = None
    if row.idle_since is not None and row.boot_id == boot and not usage.in_use:
        idle = max(0.0, monotonic - row.idle_since)
    return {
        "id": row.id,
        "name": row.name,
        "status": "bad" if row.bad and row.status in ("spawned", "ready") else row.status,
        "problem": row.permanent_problem,
        "address": row.ip,
        "port": row.ssh_port,
        "user": row.user_name,
        "os": row.os,
        "flavor": row.flavor.get("name", ""),
        "cores": row.flavor.get("cores", 0),
        "ram_mb": row.flavor.get("ram", 0),
        "disk_gb": row.disk_gb,
        "allocated_cores": usage.nano_cores / NANO,
        "allocated_ram_mb": usage.ram_mb,
        "allocated_disk_gb": usage.disk_gb,
        "in_use": usage.in_use,
        "idle_s": None if idle is None else round(idle, 1),
        "ttd_s": row.ttd_s,
        "created": datetime.fromtimestamp(row.created, UTC),
        "age_s": round(max(0.0, now - row.created), 1),
        "external": row.external,
        "head_node": row.is_head_node,
    }


def all_facts(view: View) -> list[dict[str, Any]]:
    """`facts` of every server, now."""
    now, monotonic, boot = time.time(), time.monotonic(), boot_id()
    return [facts(row, view.usages.get(row.id), now=now, monotonic=monotonic, boot=boot) for row in view.servers]


def cells(server: Mapping[str, Any]) -> list[str]:
    """One line of the table that `list` shows, from `facts`."""
    host = f"[{server['address']}]" if ":" in server["address"] else server["address"]
    allocated = "-"
    if server["in_use"]:
        allocated = f"{server['allocated_cores']:g}/{server['cores']:g}, {show_megabytes(server['allocated_ram_mb'])}"
    idle = "in use" if server["in_use"] else "-" if server["idle_s"] is None else show_duration(server["idle_s"])
    limit = show_duration(server["ttd_s"]) if server["ttd_s"] else "never"
    return [
        server["name"],
        server["id"],
        server["status"],
        f"{host}:{server['port']}" if host else "-",
        server["flavor"] or "-",
        allocated,
        f"{idle}/{limit}",
        show_duration(server["age_s"]),
    ]


def _check_provider(name: str) -> None:
    """Refuse a name that no driver has, so that a slip of the pen does not look like an empty deployment."""
    from pileus.drivers import registry
    from pileus.errors import BadProviderError

    if name not in registry.names():
        raise BadProviderError(
            f"unknown provider {name!r}; installed are: {', '.join(registry.names()) or 'none'}",
            setting="provider",
            hint="use one of those, or install the package that brings it",
        )
