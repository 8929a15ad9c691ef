"""Checks of what a driver says of itself and of what there is to choose from."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import astuple, replace

from pileus.drivers.base import Capabilities, CheckItem
from pileus.errors import NotFoundError, UnsupportedError
from pileus.models import BootTarget, Flavor, Image, Quota
from pileus.testing.conformance.subject import NotApplicable, Scene
from pileus.testing.conformance.suite import check


@check(0)
def capabilities_are_consistent(scene: Scene) -> None:
    """The capabilities are sane numbers, and the same for every object on one account."""
    told = scene.driver.capabilities
    scene.require(isinstance(told, Capabilities), f"capabilities is {told!r}")
    scene.require(told.max_batch >= 1, "max_batch must be 1 or more")
    scene.require(told.poll_interval_s > 0, "poll_interval_s must be more than 0")
    scene.require(told.listing_lag_s >= 0, "listing_lag_s must be 0 or more")
    scene.require(told.request_timeout_s > 0, "request_timeout_s must be more than 0")
    other = scene.another_driver().capabilities
    scene.require(told == other, f"two objects of the driver tell different things: {told} and {other}")
    scene.require(bool(scene.driver.name), "the driver's class must have a name")
    for names in (scene.driver.required_env, scene.driver.maybe_env, scene.driver.deletion_order):
        scene.require(isinstance(names, tuple), f"required_env, maybe_env and deletion_order are tuples, not {names!r}")
    scene.require(isinstance(scene.driver.in_cloud(), bool), "in_cloud must be True or False")


@check(0)
def flavors_are_usable(scene: Scene) -> None:
    """There are flavors, each with an id of its own, whole cores, RAM in MB and disk in GB."""
    flavors = scene.driver.flavors(scene.call())
    scene.require(flavors, "there is no flavor")
    ids = [flavor.id for flavor in flavors]
    scene.require(len(set(ids)) == len(ids) and all(ids), f"flavor ids must be unique and not empty: {ids}")
    for flavor in flavors:
        scene.require(isinstance(flavor, Flavor), f"{flavor!r} is no Flavor")
        numbers = (flavor.cores, flavor.ram, flavor.disk)
        scene.require(
            all(type(number) is int for number in numbers), f"{flavor}: cores, ram and disk are whole numbers"
        )
        scene.require(flavor.cores >= 1, f"{flavor}: a server has at least one core")
        scene.require(flavor.ram >= 16, f"{flavor}: ram is in MB, and this looks like GB")
        scene.require(flavor.disk >= 0, f"{flavor}: disk is 0 or more")
        scene.require(flavor.disk < 1_000_000, f"{flavor}: disk is in GB, and this looks like MB")
        price = flavor.price_per_hour
        scene.require(price is None or price > 0, f"{flavor}: a price that is not known is None")
    if scene.driver.capabilities.prices:
        scene.require(any(flavor.price_per_hour for flavor in flavors), "prices is declared, but no flavor has one")


@check(0)
def images_are_bootable(scene: Scene) -> None:
    """There are images, each with an id of its own, and the first one fits on some flavor."""
    images = scene.driver.images(scene.call())
    scene.require(images, "there is no image")
    ids = [image.id for image in images]
    scene.require(len(set(ids)) == len(ids) and all(ids), f"image ids must be unique and not empty: {ids}")
    for image in images:
        scene.require(isinstance(image, Image), f"{image!r} is no Image")
        scene.require(image.min_disk >= 0 and image.min_ram >= 0, f"{image}: min_disk and min_ram are 0 or more")
        scene.require(image.created is None or image.created.tzinfo, f"{image}: created must be an aware datetime")
    first = images[0]
    fits = [flavor for flavor in scene.driver.flavors(scene.call()) if flavor.ram >= first.min_ram]
    scene.require(fits, f"the default image {first.name!r} fits on no flavor")


@check(0)
def quota_is_whole_numbers(scene: Scene) -> None:
    """Limits and use are whole numbers from 0 on, and a server is counted as an instance, with its cores and its RAM."""
    deployment = scene.deployment()
    scene.spawn(deployment)
    flavor, _image = scene.choice()

    def counted() -> bool:
        quota = scene.driver.quota(scene.call())
        scene.require(isinstance(quota, Quota), f"{quota!r} is no Quota")
        scene.require(
            all(type(number) is int and number >= 0 for number in astuple(quota)),
            f"{quota}: all are whole numbers, 0 or more, and 0 for unlimited",
        )
        return quota.used_instances >= 1 and quota.used_cores >= flavor.cores and quota.used_ram >= flavor.ram

    scene.settle(counted, "the quota does not count the server that was made")


@check(0)
def check_gives_items(scene: Scene) -> None:
    """What `check` finds is in items, and those that are not well say what to do."""
    for item in scene.driver.check(scene.call()):
        scene.require(isinstance(item, CheckItem) and item.name, f"{item!r} is no CheckItem with a name")
        scene.require(item.ok or item.hint, f"{item}: what is not well must say what to do, in hint")


@check(0)
def planning_is_pure(scene: Scene) -> None:
    """Plans, parts and boot targets depend on the arguments alone; plans are JSON-able, their kinds can be deleted."""
    driver, other = scene.driver, scene.another_driver()
    config, key = scene.subject.config, scene.subject.public_key
    planned = driver.plan(config, key)
    scene.require(planned == driver.plan(config, key) == other.plan(config, key), "plan gave two answers")
    kinds = [one.kind for one in planned]
    scene.require(len(set(kinds)) == len(kinds), f"each kind can be planned once, it is the key to find it by: {kinds}")
    flavor, image = scene.choice()
    request = scene.request(scene.deployment(bare=True), disk_gb=0)
    for disk_gb in (0, flavor.disk, flavor.disk + image.min_disk + 1):
        sized = replace(request, disk_gb=disk_gb)
        parts = driver.server_parts(sized)
        scene.require(parts == driver.server_parts(sized) == other.server_parts(sized), "server_parts gave two answers")
        planned = [*planned, *parts]
    for one in planned:
        scene.require(_is_json(dict(one.spec)), f"{one}: its spec must be JSON-able, it is recorded")
        scene.require(one.kind in driver.deletion_order, f"{one.kind!r} is planned, but not in deletion_order")
    for intent_id in ("a", "b"):
        target = driver.boot_target(intent_id)
        scene.require(isinstance(target, BootTarget), f"{target!r} is no BootTarget")
        scene.require(target == driver.boot_target(intent_id), "boot_target gave two answers")
        scene.require(target == other.boot_target(intent_id), "boot_target differs between two objects of the driver")
        root = target.root
        scene.require(
            not root or (root.startswith("/") and not root.endswith("/")),
            f"root must be empty, or an absolute path without a slash at its end, not {root!r}",
        )


@check(7)
def console_is_there_or_unsupported(scene: Scene) -> None:
    """Where `console` is declared it gives text, and NotFoundError for no server; where not, UnsupportedError."""
    driver = scene.driver
    if not driver.capabilities.console:
        scene.refused(lambda: driver.console("nothing", scene.call()), UnsupportedError, "console of a driver without")
        return
    deployment = scene.deployment()
    [record] = scene.spawn(deployment)
    text = driver.console(record.id, scene.call())
    scene.require(isinstance(text, str), f"the console must be text, not {type(text).__name__}")
    scene.delete([record.id])
    scene.gone(deployment, [record.id])
    scene.refused(lambda: driver.console(record.id, scene.call()), NotFoundError, "console of a server that is gone")


@check(0)
def importing_loads_no_sdk(scene: Scene) -> None:
    """Importing and constructing the driver imports none of `heavy_modules`."""
    heavy = scene.subject.heavy_modules
    if not heavy:
        raise NotApplicable("the driver's author names no heavy_modules")
    kind = type(scene.driver)
    program = (
        f"import importlib, sys; getattr(importlib.import_module({kind.__module__!r}), {kind.__qualname__!r})"
        f"({scene.driver.settings!r}); print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    scene.require(done.returncode == 0, f"constructing the driver in a process of its own failed: {done.stderr}")
    scene.require(done.stdout.strip() == "[]", f"importing the driver imports {done.stdout.strip()}")


def _is_json(value: object) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False
