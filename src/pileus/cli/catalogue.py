"""Verbs on what there is to choose from: flavors, images, quota."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pileus.cli import render
from pileus.cli.invocation import Invocation
from pileus.cli.parameters import CORES, MEMORY, json_option, verb
from pileus.cli.quantities import show_megabytes
from pileus.cli.render import Column

if TYPE_CHECKING:
    from pileus import AsyncProvider, Flavor, Image, Quota


@verb("flavors")
@click.option("--cores", type=CORES, default=0, help="Only those with that many cores.")
@click.option("--ram", type=MEMORY, default=0, help="Only those with that much memory: 4G, 500M, or MB.")
@json_option
def flavors_command(invocation: Invocation, cores: float, ram: int, as_json: bool) -> None:
    """List the sizes of server on offer, the smallest first."""

    async def work(provider: AsyncProvider) -> list[Flavor]:
        invocation.progress.doing(f"asking {provider.name} for its flavors")
        return await provider.flavors()

    found = [flavor for flavor in invocation.drive(work) if flavor.cores >= cores and flavor.ram >= ram]
    found.sort(key=lambda flavor: (flavor.cores, flavor.ram, flavor.disk, flavor.name))
    if as_json:
        render.show_json([asdict(flavor) for flavor in found])
        return
    columns = [
        Column("NAME"),
        Column("ID", shrink=True),
        *(Column(t, right=True) for t in ("CORES", "RAM", "DISK", "PER HOUR")),
    ]
    render.show_table(
        columns,
        [
            [
                flavor.name,
                flavor.id,
                str(flavor.cores),
                show_megabytes(flavor.ram),
                f"{flavor.disk}G" if flavor.disk else "-",
                "unknown" if flavor.price_per_hour is None else f"{flavor.price_per_hour:.4f}",
            ]
            for flavor in found
        ],
    )


@verb("images")
@json_option
def images_command(invocation: Invocation, as_json: bool) -> None:
    """List what servers can boot from, the default first."""

    async def work(provider: AsyncProvider) -> list[Image]:
        invocation.progress.doing(f"asking {provider.name} for its images")
        return await provider.images()

    found = invocation.drive(work)
    if as_json:
        render.show_json([asdict(image) for image in found])
        return
    columns = [
        Column("NAME", shrink=2),
        Column("ID", shrink=1),
        Column("USER"),
        Column("MIN RAM", right=True),
        Column("MIN DISK", right=True),
    ]
    render.show_table(
        columns,
        [
            [
                image.name,
                image.id,
                image.default_user or "-",
                show_megabytes(image.min_ram) if image.min_ram else "-",
                f"{image.min_disk}G" if image.min_disk else "-",
            ]
            for image in found
        ],
    )


@verb("quota")
@json_option
def quota_command(invocation: Invocation, as_json: bool) -> None:
    """Show what the account may use, and uses."""

    async def work(provider: AsyncProvider) -> Quota:
        invocation.progress.doing(f"asking {provider.name} for its quota")
        return await provider.quota()

    quota = invocation.drive(work)
    if as_json:
        render.show_json(asdict(quota))
        return
    rows = [
        ["cores", str(quota.used_cores), _limit(quota.max_cores, str)],
        ["memory", show_megabytes(quota.used_ram), _limit(quota.max_ram, show_megabytes)],
        ["servers", str(quota.used_instances), _limit(quota.max_instances, str)],
        ["volumes", f"{quota.used_volume}G", _limit(quota.max_volume, lambda size: f"{size}G")],
    ]
    render.show_table([Column("WHAT"), Column("USED", right=True), Column("LIMIT", right=True)], rows)


def _limit(value: int, shown: Callable[[int], str]) -> str:
    return shown(value) if value else "unlimited"
