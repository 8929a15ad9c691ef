"""The choice of an image, and whether it goes with a flavor."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pileus.errors import ConfigError, NoImageError, UnsupportedError
from pileus.models import Flavor, Image
from pileus.policy import flavors, space

DEFAULT_VOLUME_GB = 10
"""The root volume on a flavor that brings no disk, when neither the image nor the user says a size."""


def find(images: Sequence[Image], os: str) -> Image:
    """Find the image that is meant.

    In this order: the exact id; the exact name; an id or name that begins with `os`. Of several in one step, the newest by
    `created` wins (one without a date is older than any with), then the last in natural order of the names (`jammy-10`
    after `jammy-9`), then the last by id.

    Args:
        images: what can be booted, the provider's default first.
        os: an id, a name, or the beginning of one; empty for the first of `images`.

    Raises:
        NoImageError: nothing matches; the message lists all names there are.
    """
    if not os and images:
        return images[0]
    steps = (
        [image for image in images if image.id == os],
        [image for image in images if image.name == os],
        [image for image in images if os and (image.name.startswith(os) or image.id.startswith(os))],
    )
    for matching in steps:
        if matching:
            return max(matching, key=_newest)
    if not images:
        raise NoImageError("the provider lists no images at all", hint="check the account's project and region")
    names = sorted({image.name or image.id for image in images}, key=_natural)
    raise NoImageError(
        f"no image has the id or name {os!r}, nor one that begins with it; there are: {', '.join(names)}",
        hint="give the beginning of one of these names, in the same case, or nothing for the default",
    )


def root_disk(flavor: Flavor, image: Image, disk_gb: int, *, volumes: bool) -> int:
    """Tell how large the server's root disk becomes, in GB, or why this combination cannot boot.

    It is the largest of what was asked, the flavor's own, and the image's least; more than `flavor.disk` means that a volume
    of that size is needed. A flavor without a disk gets a volume of `DEFAULT_VOLUME_GB` when nothing says more.

    Args:
        flavor: of the server.
        image: that it boots.
        disk_gb: at least so much, 0 for whatever comes with the flavor.
        volumes: whether the provider can give a larger disk than the flavor's.

    Raises:
        ConfigError: `disk_gb` is negative, no whole number or absurd; the flavor has less RAM than the image needs, or is
            of another architecture.
        UnsupportedError: a larger disk than the flavor's is needed, and the provider has no volumes.
    """
    space.check_disk(disk_gb)
    if flavor.ram < image.min_ram:
        raise ConfigError(
            f"image {image.name} needs {image.min_ram} MB of RAM, and flavor {flavor.name} has {flavor.ram} MB",
            setting="flavor",
            hint=f"choose a flavor with at least {image.min_ram} MB",
        )
    if not flavors.same_architecture(flavor.architecture, image.architecture):
        raise ConfigError(
            f"image {image.name} is for {image.architecture}, and flavor {flavor.name} is {flavor.architecture}",
            setting="flavor",
            hint="choose an image and a flavor of the same architecture",
        )
    needed = max(disk_gb, flavor.disk, image.min_disk)
    if needed > flavor.disk and not volumes:
        who = f"image {image.name} needs" if image.min_disk > disk_gb else "you asked for"
        raise UnsupportedError(
            f"{who} a disk of {needed} GB, flavor {flavor.name} has {flavor.disk} GB, and this provider has no volumes",
            hint=f"choose a flavor with at least {needed} GB of disk",
        )
    return needed or (DEFAULT_VOLUME_GB if volumes else 0)


def _newest(image: Image) -> tuple[float, list[tuple[int, int, str]], str]:
    return (image.created.timestamp() if image.created else float("-inf"), _natural(image.name), image.id)


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort runs of digits as the numbers that they are; equal numbers (`07`, `7`) by their digits."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return [(0, int(part), part) if part[0] in "0123456789" else (1, 0, part) for part in parts]
