"""Checks of what a deployment needs beside servers. A driver that plans nothing passes them easily."""

from __future__ import annotations

from pileus.drivers.base import Driver, Resource, ResourceRequest, ServerStatus
from pileus.errors import NotFoundError, ProviderError, UnsupportedError
from pileus.testing.conformance.subject import Deployment, Scene
from pileus.testing.conformance.suite import check


@check(1)
def resources_are_listed_with_their_tags(scene: Scene) -> None:
    """Each planned resource can be made, in the plan's order, and is listed with the kind, id, name and tags it got."""
    deployment = scene.deployment(bare=True)
    tags = {"pileus-unicode": "Grüße, 云", "pileus-long": "y" * 255}
    for planned in scene.driver.plan(scene.subject.config, scene.subject.public_key):
        made = scene.create_resource(deployment, planned, deployment.resources, tags=tags)
        scene.require(isinstance(made, Resource) and made.id, f"{made!r} is no resource with an id")
        scene.require(made.kind == planned.kind, f"asked for a {planned.kind}, got a {made.kind}")
        deployment.resources[planned.kind] = made
    _appear(scene, deployment)
    for shown in scene.driver.list_resources(deployment.id, scene.call()):
        made_one = deployment.resources.get(shown.kind)
        if made_one is None or made_one.id != shown.id:
            scene.fail(f"the listing shows {shown}, which nobody asked for")
        scene.require(shown.name == made_one.name, f"made as {made_one.name!r}, listed as {shown.name!r}")
        scene.require(shown.deployment_id == deployment.id, f"{shown} is not tagged with its deployment")
        scene.require(shown.intent_id and shown.intent_id == made_one.intent_id, f"{shown} has lost its intent")
        lost = {key: value for key, value in tags.items() if shown.tags.get(key) != value}
        scene.require(not lost, f"{shown} has lost the tags {lost}")


@check(3)
def resources_go_in_the_deletion_order(scene: Scene) -> None:
    """In that order each resource can be deleted, is gone from the listing then, and is NotFoundError the next time."""
    deployment = scene.deployment()
    _appear(scene, deployment)
    for resource in _in_order(scene.driver, deployment):
        _delete_when_free(scene, deployment, resource)
        scene.refused(
            lambda resource=resource: scene.driver.delete_resource(resource, scene.call()),  # type: ignore[misc]
            NotFoundError,
            f"deleting the {resource.kind} that is gone",
        )


@check(3)
def a_resource_in_use_is_an_error_at_once(scene: Scene) -> None:
    """While a server uses it, deleting a resource is an error (or works); the server stays, and all can go later."""
    deployment = scene.deployment()
    [record] = scene.spawn(deployment)
    _appear(scene, deployment)
    for resource in _in_order(scene.driver, deployment):
        try:
            scene.driver.delete_resource(resource, scene.call())
        except NotFoundError as problem:
            scene.fail(f"the {resource.kind} exists, but its delete raised {problem!r}")
        except ProviderError:
            listed = [one.id for one in scene.driver.list_resources(deployment.id, scene.call())]
            scene.require(resource.id in listed, f"deleting the {resource.kind} was refused, but it is not listed")
    left = scene.find(deployment, record.id)
    scene.require(left and left.status is not ServerStatus.DELETING, "deleting a resource took the server that uses it")
    scene.delete([record.id])
    scene.gone(deployment, [record.id])
    for resource in _in_order(scene.driver, deployment):
        _delete_when_free(scene, deployment, resource)


@check(3)
def a_servers_own_parts_do_not_outlive_it(scene: Scene) -> None:
    """Where disks may be larger than the flavor's: a server's parts are listed, and go with it or can be deleted then."""
    if not scene.driver.capabilities.volumes:
        return
    deployment = scene.deployment()
    flavor, image = scene.choice()
    [record] = scene.spawn(deployment, disk_gb=max(flavor.disk, image.min_disk) + 1)
    planned = {resource.id for resource in deployment.resources.values()}
    scene.delete([record.id])
    scene.gone(deployment, [record.id])
    for resource in scene.driver.list_resources(deployment.id, scene.call()):
        if resource.id not in planned:
            _delete_when_free(scene, deployment, resource)


@check(7)
def an_unknown_kind_is_refused(scene: Scene) -> None:
    """Asked for a kind of resource that it does not make, a driver raises UnsupportedError."""
    deployment = scene.deployment(bare=True)
    request = ResourceRequest("intent", "no-such-kind", "nothing", deployment.tags("intent"))
    scene.refused(
        lambda: scene.driver.create_resource(request, {}, scene.call()), UnsupportedError, "making a no-such-kind"
    )
    scene.wait_out_the_lag()
    there = scene.driver.list_resources(deployment.id, scene.call())
    scene.require(not there, f"nothing should have been made, but there is {there}")


def _in_order(driver: Driver, deployment: Deployment) -> list[Resource]:
    return [deployment.resources[kind] for kind in driver.deletion_order if kind in deployment.resources]


def _appear(scene: Scene, deployment: Deployment) -> None:
    wanted = {resource.id for resource in deployment.resources.values()}
    scene.settle(
        lambda: wanted <= {one.id for one in scene.driver.list_resources(deployment.id, scene.call())},
        f"resources {sorted(wanted)} were made but are not all in the listing of their deployment",
    )


def _delete_when_free(scene: Scene, deployment: Deployment, resource: Resource) -> None:
    """Delete what may be in use for a little longer, by something that is on its way out, and see it go."""

    def gone() -> bool:
        try:
            scene.driver.delete_resource(resource, scene.call())
        except NotFoundError:
            return True
        except ProviderError:
            return False
        return False

    def unlisted() -> bool:
        return resource.id not in [one.id for one in scene.driver.list_resources(deployment.id, scene.call())]

    scene.settle(gone, f"the {resource.kind} {resource.id} cannot be deleted")
    scene.settle(unlisted, f"the {resource.kind} {resource.id} is gone, but stays in the listing")
