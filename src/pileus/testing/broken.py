"""Drivers with one defect each, and the check of the conformance suite that each must fail.

They show that the suite sees what it promises to see, and what such defects look like. `BROKEN` lists them all; do not use them for
anything else.
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import ClassVar, TypeVar

from pileus.drivers.base import (
    TAG_CREATED,
    TAG_DEPLOYMENT,
    Call,
    Capabilities,
    CheckItem,
    Outcome,
    PlannedResource,
    Resource,
    ResourceRequest,
    ServerRecord,
    ServerRequest,
    ServerStatus,
)
from pileus.errors import NotFoundError, ProviderError
from pileus.models import BootTarget, DeployConfig, Flavor, Image, Quota
from pileus.testing.cloud import SimulatedCloud
from pileus.testing.simulator import SimulatorDriver

PAGE = 10
Thing = TypeVar("Thing", ServerRecord, Resource)


class VendorError(Exception):
    """Stands for an SDK's exception."""


class BrokenDriver(SimulatorDriver):
    """What broken drivers share."""

    fails: ClassVar[str]
    """The name of the check that must notice."""

    def everything(self, call: Call) -> list[ServerRecord]:
        """All servers, of all deployments."""
        return super().list_servers(None, call)


# --- what it says of itself ---


class ChangesItsMind(BrokenDriver):
    """Each object declares another limit of a batch."""

    fails = "capabilities_are_consistent"
    made = 0

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(settings)
        ChangesItsMind.made += 1
        self.number = ChangesItsMind.made

    @property
    def capabilities(self) -> Capabilities:  # noqa: D102
        return replace(super().capabilities, max_batch=1000 + self.number)


class TellsRamInGigabytes(BrokenDriver):
    """Gives RAM in GB."""

    fails = "flavors_are_usable"

    def flavors(self, call: Call) -> list[Flavor]:  # noqa: D102
        return [replace(flavor, ram=flavor.ram // 1024) for flavor in super().flavors(call)]


class RepeatsImages(BrokenDriver):
    """Lists an image twice."""

    fails = "images_are_bootable"

    def images(self, call: Call) -> list[Image]:  # noqa: D102
        return super().images(call) * 2


class QuotaCountsNothing(BrokenDriver):
    """Knows the limits, and not what is used."""

    fails = "quota_is_whole_numbers"

    def quota(self, call: Call) -> Quota:  # noqa: D102
        return replace(super().quota(call), used_instances=0)


class ComplainsWithoutAdvice(BrokenDriver):
    """Says that something is wrong, and not what to do."""

    fails = "check_gives_items"

    def check(self, call: Call) -> list[CheckItem]:  # noqa: D102
        return [CheckItem("account", False, "not good")]


class BootsDifferently(BrokenDriver):
    """Keeps a count in what should be pure."""

    fails = "planning_is_pure"
    count = 0

    def boot_target(self, intent_id: str) -> BootTarget:  # noqa: D102
        self.count += 1
        return BootTarget(root=f"/tmp/{intent_id}-{self.count}")


class PlansTheUndeletable(BrokenDriver):
    """Plans a kind that has no place in the order of deletion."""

    fails = "planning_is_pure"

    def plan(self, config: DeployConfig, public_key: str) -> list[PlannedResource]:  # noqa: D102
        return [*super().plan(config, public_key), PlannedResource("router")]


class InventsConsoles(BrokenDriver):
    """Shows a console for whatever it is asked for."""

    fails = "console_is_there_or_unsupported"

    def console(self, id: str, call: Call) -> str:  # noqa: D102
        return ""


class ImportsItsSdk(BrokenDriver):
    """Imports its SDK (a module that nobody here needs stands for it) when it is constructed."""

    fails = "importing_loads_no_sdk"

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        import xmlrpc.server  # noqa: F401

        super().__init__(settings)


# --- tags and listings ---


class LosesTags(BrokenDriver):
    """Drops a tag that it thinks nobody needs."""

    fails = "a_server_is_listed_with_its_tags"

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:  # noqa: D102
        kept = [replace(one, tags={key: one.tags[key] for key in one.tags if key != TAG_CREATED}) for one in requests]
        return super().create_servers(kept, call)


class TellsLocalTime(BrokenDriver):
    """Gives moments without a time zone."""

    fails = "a_server_is_listed_with_its_tags"

    def list_servers(self, deployment_id: str | None, call: Call) -> list[ServerRecord]:  # noqa: D102
        naive = datetime.now(UTC).replace(tzinfo=None)
        return [replace(record, created=naive) for record in super().list_servers(deployment_id, call)]


class ShowsPasswords(BrokenDriver):
    """Has the password in every listing."""

    fails = "a_server_is_listed_with_its_tags"

    def list_servers(self, deployment_id: str | None, call: Call) -> list[ServerRecord]:  # noqa: D102
        return [replace(record, admin_pass="secret") for record in super().list_servers(deployment_id, call)]


class CutsTags(BrokenDriver):
    """Cuts values where its field ends."""

    fails = "unusual_tags_come_back_unchanged"

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:  # noqa: D102
        cut = [replace(one, tags={key: value[:60] for key, value in one.tags.items()}) for one in requests]
        return super().create_servers(cut, call)


class LosesResourceTags(BrokenDriver):
    """Tags resources with their deployment alone."""

    fails = "resources_are_listed_with_their_tags"

    def create_resource(self, request: ResourceRequest, made: Mapping[str, Resource], call: Call) -> Resource:  # noqa: D102
        tags = {TAG_DEPLOYMENT: request.tags[TAG_DEPLOYMENT]}
        return super().create_resource(replace(request, tags=tags), made, call)


class ReadsOnePage(BrokenDriver):
    """Reads the first page of a listing."""

    fails = "every_server_is_listed_once"

    def list_servers(self, deployment_id: str | None, call: Call) -> list[ServerRecord]:  # noqa: D102
        return super().list_servers(deployment_id, call)[:PAGE]


class CreatesTwice(BrokenDriver):
    """Repeats a create that went well."""

    fails = "every_server_is_listed_once"

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:  # noqa: D102
        super().create_servers(requests[:1], call)
        return super().create_servers(requests, call)


class MixesUpTheOrder(BrokenDriver):
    """Gives outcomes as they came in."""

    fails = "every_server_is_listed_once"

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:  # noqa: D102
        return super().create_servers(requests, call)[::-1]


class ListsByPattern(BrokenDriver):
    """Takes an id for a pattern."""

    fails = "an_unknown_deployment_is_empty"

    def list_servers(self, deployment_id: str | None, call: Call) -> list[ServerRecord]:  # noqa: D102
        every, pattern = self.everything(call), deployment_id or "*"
        return [record for record in every if fnmatch.fnmatchcase(record.deployment_id, pattern)]


class ListsByPrefix(BrokenDriver):
    """Takes the beginning of an id for the id."""

    fails = "neighbours_are_told_apart"

    def list_servers(self, deployment_id: str | None, call: Call) -> list[ServerRecord]:  # noqa: D102
        return [one for one in self.everything(call) if one.deployment_id.startswith(deployment_id or "")]


class ListsOnlyTheAsked(BrokenDriver):
    """Shows nothing when no deployment is named."""

    fails = "without_a_deployment_all_of_ours_are_listed"

    def list_servers(self, deployment_id: str | None, call: Call) -> list[ServerRecord]:  # noqa: D102
        return super().list_servers(deployment_id or "", call)


class ListsByName(BrokenDriver):
    """Takes a server's name for a proof."""

    fails = "look_alikes_are_not_ours"

    def list_servers(self, deployment_id: str | None, call: Call) -> list[ServerRecord]:  # noqa: D102
        names = {record.name for record in super().list_servers(deployment_id, call)}
        return [record for record in self.everything(call) if record.name in names]


class ListsStrangers(BrokenDriver):
    """Shows all servers of the account as ours."""

    fails = "look_alikes_are_not_ours"

    def list_servers(self, deployment_id: str | None, call: Call) -> list[ServerRecord]:  # noqa: D102
        if deployment_id is not None or not isinstance(self.cloud, SimulatedCloud):
            return super().list_servers(deployment_id, call)
        return [thing for thing in self.cloud.everything() if isinstance(thing, ServerRecord)]


# --- the end of things ---


class HidesTheDying(BrokenDriver):
    """Does not list what is being deleted."""

    fails = "a_deleted_server_is_listed_until_it_is_gone"

    def list_servers(self, deployment_id: str | None, call: Call) -> list[ServerRecord]:  # noqa: D102
        every = super().list_servers(deployment_id, call)
        return [record for record in every if record.status is not ServerStatus.DELETING]


class DeletesTheUnknown(BrokenDriver):
    """Calls it a success to delete what never was."""

    fails = "deleting_the_unknown_is_not_found"

    def delete_servers(self, ids: Sequence[str], call: Call) -> list[Outcome]:  # noqa: D102
        outcomes = super().delete_servers(ids, call)
        return [Outcome(one.request_id) if isinstance(one.error, NotFoundError) else one for one in outcomes]


class StopsAtTheUnknown(BrokenDriver):
    """Lets one unknown id stop the others' deletes."""

    fails = "deleting_the_unknown_is_not_found"

    def delete_servers(self, ids: Sequence[str], call: Call) -> list[Outcome]:  # noqa: D102
        known = {record.id for record in self.everything(call)}
        if not set(ids) <= known:
            raise NotFoundError(f"not found: {sorted(set(ids) - known)}")
        return super().delete_servers(ids, call)


class TakesNoneForAll(BrokenDriver):
    """Reads an empty list of ids as no condition."""

    fails = "an_empty_batch_does_nothing"

    def delete_servers(self, ids: Sequence[str], call: Call) -> list[Outcome]:  # noqa: D102
        if ids:
            return super().delete_servers(ids, call)
        super().delete_servers([record.id for record in self.everything(call)], call)
        return []


class ForgetsTheAddress(BrokenDriver):
    """Never shows where a server is."""

    fails = "a_server_becomes_active_with_an_address"

    def list_servers(self, deployment_id: str | None, call: Call) -> list[ServerRecord]:  # noqa: D102
        return [replace(record, address="") for record in super().list_servers(deployment_id, call)]


class DeletesGoneResources(BrokenDriver):
    """Calls it a success to delete a resource that is gone."""

    fails = "resources_go_in_the_deletion_order"

    def delete_resource(self, resource: Resource, call: Call) -> None:  # noqa: D102
        try:
            super().delete_resource(resource, call)
        except NotFoundError:
            return


class DeletesTheUsersToo(BrokenDriver):
    """Deletes the servers that are in the way of deleting a network."""

    fails = "a_resource_in_use_is_an_error_at_once"

    def delete_resource(self, resource: Resource, call: Call) -> None:  # noqa: D102
        if resource.kind == "network":
            own = super().list_servers(resource.deployment_id, call)
            super().delete_servers([record.id for record in own], call)
        super().delete_resource(resource, call)


class KeepsVolumes(BrokenDriver):
    """Makes a volume for a server, does not tie it to the server, and cannot delete it."""

    fails = "a_servers_own_parts_do_not_outlive_it"

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:  # noqa: D102
        loose = [
            replace(
                one,
                disk_gb=min(one.disk_gb, one.flavor.disk),
                resources={kind: one.resources[kind] for kind in one.resources if kind != "volume"},
            )
            for one in requests
        ]
        return super().create_servers(loose, call)

    def delete_resource(self, resource: Resource, call: Call) -> None:  # noqa: D102
        if resource.kind == "volume":
            raise ProviderError("volumes are not deleted here")
        super().delete_resource(resource, call)


class MakesAnything(BrokenDriver):
    """Makes a network when it is asked for something that it does not know."""

    fails = "an_unknown_kind_is_refused"

    def create_resource(self, request: ResourceRequest, made: Mapping[str, Resource], call: Call) -> Resource:  # noqa: D102
        known = request.kind in self.deletion_order
        return super().create_resource(request if known else replace(request, kind="network"), made, call)


# --- trouble ---


class FallsBackToAFlavor(BrokenDriver):
    """Takes another flavor when it does not know the one asked for."""

    fails = "an_unknown_flavor_is_refused"

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:  # noqa: D102
        known = {flavor.id: flavor for flavor in self.flavors(call)}
        first = next(iter(known.values()))
        return super().create_servers([replace(one, flavor=known.get(one.flavor.id, first)) for one in requests], call)


class RaisesTheVendorsError(BrokenDriver):
    """Lets an SDK's exception through."""

    fails = "an_unknown_image_is_refused"

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:  # noqa: D102
        images = {image.id for image in self.images(call)}
        if any(one.image.id not in images for one in requests):
            raise VendorError("400 Bad Request")
        return super().create_servers(requests, call)


class IgnoresTheDisk(BrokenDriver):
    """Does not look at the disk's size."""

    fails = "an_impossible_disk_is_refused"

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:  # noqa: D102
        return super().create_servers([replace(one, disk_gb=one.flavor.disk) for one in requests], call)


class SpoilsTheBatch(BrokenDriver):
    """Answers the whole batch with the error of one."""

    fails = "one_bad_request_spoils_no_other"

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:  # noqa: D102
        outcomes = super().create_servers(requests, call)
        error = next((outcome.error for outcome in outcomes if outcome.error), None)
        return [Outcome(one.request_id, error=error) for one in outcomes] if error else outcomes


class ForgetsFailures(BrokenDriver):
    """Gives outcomes for what was made, and none for what was not."""

    fails = "one_bad_request_spoils_no_other"

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:  # noqa: D102
        return [outcome for outcome in super().create_servers(requests, call) if outcome.record]


class IgnoresTheDeadline(BrokenDriver):
    """Takes its own time."""

    fails = "a_deadline_in_the_past_is_an_error"

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:  # noqa: D102
        return super().create_servers(requests, replace(call, deadline=time.monotonic() + 60))


class AnswersLate(BrokenDriver):
    """Waits for a silent cloud for longer than it may."""

    fails = "a_silent_cloud_is_an_error_at_the_deadline"

    def list_servers(self, deployment_id: str | None, call: Call) -> list[ServerRecord]:  # noqa: D102
        return super().list_servers(deployment_id, replace(call, deadline=call.deadline + 2))


class IsTooSure(BrokenDriver):
    """Calls a create without an answer a create that did nothing."""

    fails = "a_silent_cloud_is_an_error_at_the_deadline"

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:  # noqa: D102
        try:
            return super().create_servers(requests, call)
        except ProviderError as problem:
            raise ProviderError(problem.message) from problem


class WaitsForActive(BrokenDriver):
    """Does the core's work: waits until servers run."""

    fails = "creating_does_not_wait"

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:  # noqa: D102
        outcomes = super().create_servers(requests, call)
        ids = {outcome.record.id for outcome in outcomes if outcome.record}
        while any(one.id in ids and one.status is not ServerStatus.ACTIVE for one in self.everything(call)):
            time.sleep(0.01)
        return outcomes


class RemembersItsOwn(BrokenDriver):
    """Lists what this object made, from memory."""

    fails = "drivers_have_no_memory"

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(settings)
        self.made: set[str] = set()

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:  # noqa: D102
        outcomes = super().create_servers(requests, call)
        self.made.update(outcome.record.id for outcome in outcomes if outcome.record)
        return outcomes

    def list_servers(self, deployment_id: str | None, call: Call) -> list[ServerRecord]:  # noqa: D102
        return [record for record in super().list_servers(deployment_id, call) if record.id in self.made]


class SharesABuffer(BrokenDriver):
    """Keeps a call's arguments where another thread's call overwrites them."""

    fails = "calls_from_threads_do_not_disturb_each_other"
    pending: Sequence[ServerRequest] = ()

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:  # noqa: D102
        self.pending = requests
        time.sleep(0.05)
        return super().create_servers(self.pending, call)


BROKEN: tuple[type[BrokenDriver], ...] = tuple(BrokenDriver.__subclasses__())
"""All of them."""
