"""Checks of servers: created with their tags, listed exactly, deleted and nothing else."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from pileus.drivers.base import TAG_CREATED, TAG_TTD, ServerRecord, ServerStatus
from pileus.errors import NotFoundError
from pileus.testing.conformance.subject import Deployment, Scene
from pileus.testing.conformance.suite import check


@check(1)
def a_server_is_listed_with_its_tags(scene: Scene) -> None:
    """What is created is listed with its name and exactly the tags of the request, as the create call's answer has them."""
    deployment = scene.deployment()
    tags = {TAG_CREATED: "2030-01-02T03:04:05Z", TAG_TTD: "60"}
    request = scene.request(deployment, tags=tags)
    [outcome] = scene.create(request)
    record = outcome.record
    if record is None:
        scene.fail(f"a good request was refused: {outcome.error!r}")
    scene.require(isinstance(record, ServerRecord) and record.id, f"{record!r} is no record with an id")
    scene.appear(deployment, [record.id])
    for shown in (record, scene.find(deployment, record.id)):
        if shown is None:
            scene.fail("a server that was listed is not listed any more")
        _same_tags(scene, request.tags, shown.tags)
        scene.require(shown.name == request.name, f"the server is named {shown.name!r}, not {request.name!r}")
        scene.require(shown.created is None or shown.created.tzinfo, "created must be an aware datetime")
        scene.require(1 <= shown.port <= 65535, f"{shown.port} is no port")
        if shown is not record:
            scene.require(not shown.admin_pass, "a password is in the create call's answer only, never in a listing")


@check(1)
def unusual_tags_come_back_unchanged(scene: Scene) -> None:
    """Values with any letters, quotes and separators, and of 255 characters, are listed as they were given."""
    deployment = scene.deployment()
    tags = {
        "pileus-unicode": "Grüße, Ωμέγα, 云",
        "pileus-signs": "a=b; c,d/e:f 'g' \"h\" \\i {j} [k] <l> %m $n",
        "pileus-long": "x" * 255,
        "pileus-space": "two  spaces inside",
    }
    request = scene.request(deployment, tags=tags)
    [outcome] = scene.create(request)
    if outcome.record is None:
        scene.fail(f"tags that must be possible were refused: {outcome.error!r}")
    scene.appear(deployment, [outcome.record.id])
    shown = scene.find(deployment, outcome.record.id)
    _same_tags(scene, request.tags, shown.tags if shown else {})


@check(2)
def every_server_is_listed_once(scene: Scene) -> None:
    """Of a batch of many, each has an id of its own and is listed once, with its name; all pages of a listing are read."""
    deployment = scene.deployment()
    count = min(scene.subject.many, scene.driver.capabilities.max_batch)
    requests = [scene.request(deployment) for _ in range(count)]
    outcomes = scene.create(*requests)
    names = {outcome.record.id: outcome.record.name for outcome in outcomes if outcome.record}
    refused = [outcome.error for outcome in outcomes if outcome.error]
    scene.require(not refused, f"good requests were refused: {refused}")
    scene.require(len(names) == count, f"{count} servers have {len(names)} different ids")
    wanted = [request.name for request in requests]
    scene.require(list(names.values()) == wanted, f"the outcomes' names {list(names.values())} are not {wanted}")
    scene.appear(deployment, names)
    listed = [(record.id, record.name) for record in scene.servers(deployment)]
    scene.require(sorted(listed) == sorted(names.items()), f"created {sorted(names.items())}, listed {sorted(listed)}")


@check(2)
def an_unknown_deployment_is_empty(scene: Scene) -> None:
    """The listing of a deployment that does not exist is empty; no id is a pattern, and the letters' case counts."""
    deployment = scene.deployment()
    scene.spawn(deployment)
    for id in (secrets.token_hex(8), "*", ".*", "%", "?" * len(deployment.id), deployment.id.upper(), ""):  # noqa: A001
        there = scene.driver.list_servers(id, scene.call())
        scene.require(there == [], f"deployment {id!r} does not exist, but its listing shows {there}")
        resources = scene.driver.list_resources(id, scene.call())
        scene.require(resources == [], f"deployment {id!r} does not exist, but its listing shows {resources}")


@check(4)
def neighbours_are_told_apart(scene: Scene) -> None:
    """Deployments with ids of which one begins or ends another, and names like lab-1 and lab-10, see only their own."""
    middle = "d" + secrets.token_hex(6)
    deployments = [
        scene.deployment(middle, "lab-1"),
        scene.deployment(middle + "0", "lab-10"),
        scene.deployment(middle[:-1], "lab"),
        scene.deployment("0" + middle, "lab-1"),
    ]
    own = {deployment.id: scene.spawn(deployment)[0].id for deployment in deployments}
    scene.wait_out_the_lag()
    for deployment in deployments:
        shown = scene.servers(deployment)
        scene.require(
            [record.id for record in shown] == [own[deployment.id]],
            f"deployment {deployment.id} has server {own[deployment.id]} alone, but its listing shows "
            f"{[(record.id, record.deployment_id) for record in shown]}",
        )
        resources = scene.driver.list_resources(deployment.id, scene.call())
        strangers = [one for one in resources if one.deployment_id != deployment.id]
        scene.require(not strangers, f"deployment {deployment.id} is shown resources of others: {strangers}")
    first = deployments[0]
    scene.delete([own[first.id]])
    scene.gone(first, [own[first.id]])
    for deployment in deployments[1:]:
        record = scene.find(deployment, own[deployment.id])
        scene.require(
            record and record.status is not ServerStatus.DELETING,
            f"deleting the server of {first.id} also took that of its neighbour {deployment.id}",
        )


@check(2)
def without_a_deployment_all_of_ours_are_listed(scene: Scene) -> None:
    """`list_servers(None)` and `list_resources(None)` show all deployments' things, with their tags."""
    one, two = scene.deployment(), scene.deployment(name="other")
    ids = {scene.spawn(deployment)[0].id: deployment.id for deployment in (one, two)}
    scene.settle(
        lambda: set(ids) <= {record.id for record in scene.driver.list_servers(None, scene.call())},
        "list_servers(None) does not show all servers that carry tags of ours",
    )
    for record in scene.driver.list_servers(None, scene.call()):
        scene.require(
            record.id not in ids or record.deployment_id == ids[record.id], f"{record} has lost its deployment"
        )
    resources = {resource.id for deployment in (one, two) for resource in deployment.resources.values()}
    scene.settle(
        lambda: resources <= {resource.id for resource in scene.driver.list_resources(None, scene.call())},
        "list_resources(None) does not show all resources that carry tags of ours",
    )


@check(4)
def look_alikes_are_not_ours(scene: Scene) -> None:
    """A server of the same name that belongs to another deployment, or to nobody, is not listed as ours."""
    deployment, other = scene.deployment(), scene.deployment()
    [record] = scene.spawn(deployment)
    [twin] = scene.spawn(other, name=record.name)
    planted = scene.subject.plant(record.name) if scene.subject.plant else ""
    scene.wait_out_the_lag()
    ids = [shown.id for shown in scene.servers(deployment)]
    scene.require(ids == [record.id], f"deployment {deployment.id} has {record.id} alone; listed are {ids}")
    every = [shown.id for shown in scene.driver.list_servers(None, scene.call())]
    scene.require(twin.id in every, "list_servers(None) lost a server whose name another one has too")
    scene.require(planted not in every or not planted, "list_servers(None) shows a server that carries no tags of ours")


@check(3)
def a_deleted_server_is_listed_until_it_is_gone(scene: Scene) -> None:
    """A delete is accepted even of a server that still builds; it is listed until it is gone, then is NotFoundError."""
    deployment = scene.deployment()
    [record, other] = scene.spawn(deployment, 2)
    [outcome] = scene.delete([record.id])
    scene.require(outcome.error is None, f"the delete was refused: {outcome.error!r}")
    _leaves(scene, deployment, record.id)
    [outcome] = scene.delete([record.id])
    scene.require(
        isinstance(outcome.error, NotFoundError),
        f"deleting a server that is gone must be a NotFoundError in its outcome, not {outcome.error!r}",
    )
    left = scene.find(deployment, other.id)
    scene.require(left and left.status is not ServerStatus.DELETING, "deleting one server also took another")


def _leaves(scene: Scene, deployment: Deployment, id: str) -> None:
    """Watch a deleted server go: while it exists, it is listed; once it was not listed, it does not come back."""
    exists = scene.subject.exists

    def gone() -> bool:
        there = exists(id) if exists else False  # asked first: it may go between the two questions
        listed = scene.find(deployment, id) is not None
        still_there = exists(id) if exists else False
        scene.require(
            listed or not (there and still_there), "a server that is being deleted is not listed, but it still exists"
        )
        return not listed

    scene.settle(gone, f"server {id} was deleted, but stays in the listing")
    scene.require(scene.find(deployment, id) is None, f"server {id} was gone, and is listed again")


@check(3)
def deleting_the_unknown_is_not_found(scene: Scene) -> None:
    """In a batch of deletes, an id that never was is NotFoundError in its place, and the others are deleted."""
    deployment = scene.deployment()
    [first, second, kept] = scene.spawn(deployment, 3)
    unknown = first.id[:-1] + ("0" if first.id[-1] != "0" else "1")
    while unknown in (first.id, second.id, kept.id):
        unknown = unknown[:-1] + secrets.choice("23456789abcdef")
    outcomes = scene.delete([first.id, unknown, second.id])
    scene.require(outcomes[0].error is None and outcomes[2].error is None, f"good deletes were refused: {outcomes}")
    scene.require(
        isinstance(outcomes[1].error, NotFoundError),
        f"the delete of an id that never was must be NotFoundError, not {outcomes[1].error!r}",
    )
    scene.gone(deployment, [first.id, second.id])
    left = scene.find(deployment, kept.id)
    scene.require(left and left.status is not ServerStatus.DELETING, "a server was deleted that nobody asked to delete")


@check(2)
def an_empty_batch_does_nothing(scene: Scene) -> None:
    """Creating no servers and deleting no servers does just that (some clouds take an empty list for all)."""
    deployment = scene.deployment()
    [record] = scene.spawn(deployment)
    scene.create()
    scene.delete([])
    scene.wait_out_the_lag()
    there = scene.servers(deployment)
    scene.require([shown.id for shown in there] == [record.id], f"empty batches changed what is there: {there}")
    scene.require(there[0].status is not ServerStatus.DELETING, "deleting nothing deleted a server")


@check(0)
def a_server_becomes_active_with_an_address(scene: Scene) -> None:
    """A server gets ACTIVE and then has an address and a port; it keeps its id, flavor, image and tags."""
    deployment = scene.deployment()
    wish = scene.driver.capabilities.external_ips
    [record] = scene.spawn(deployment, external_ip=wish)

    def active() -> bool:
        shown = scene.find(deployment, record.id)
        if shown is None or shown.status is ServerStatus.ERROR:
            scene.fail(f"the server did not come up: {shown}")
        return shown.status is ServerStatus.ACTIVE and bool(shown.address)

    scene.settle(active, "the server does not get ACTIVE with an address")
    shown = scene.find(deployment, record.id)
    if shown is None:
        scene.fail("an active server is not listed any more")
    flavor, image = scene.choice()
    scene.require(shown.flavor_id == flavor.id, f"the server's flavor is {shown.flavor_id!r}, not {flavor.id!r}")
    scene.require(shown.image_id in (image.id, ""), f"the server's image is {shown.image_id!r}, not {image.id!r}")
    scene.require(shown.external or not wish, "an external IP was asked for, but external is False")
    scene.require(shown.deployment_id == record.deployment_id and shown.intent_id == record.intent_id, "lost its tags")


def _same_tags(scene: Scene, wanted: Mapping[str, str], shown: Mapping[str, str]) -> None:
    wrong = {key: (value, shown.get(key)) for key, value in wanted.items() if shown.get(key) != value}
    scene.require(not wrong, f"tags are not as they were asked for (asked, shown): {wrong}")
