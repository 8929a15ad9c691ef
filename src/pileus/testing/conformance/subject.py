"""What an author says of the driver under test, and what a check has at hand."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from pileus.drivers.base import (
    TAG_DEPLOYMENT,
    TAG_INTENT,
    TAG_NAME,
    Call,
    Driver,
    Outcome,
    PlannedResource,
    Resource,
    ResourceRequest,
    ServerRecord,
    ServerRequest,
)
from pileus.errors import NotFoundError, PileusError
from pileus.models import DeployConfig, Flavor, Image

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8cXT48G3S9b23ZCNmQ958G6rWdgc5PxsYJbEg5Mspr conformance"
"""A valid public key, whose private half nobody has."""


class ConformanceError(AssertionError):
    """The driver breaks a rule; the message says how."""


class NotApplicable(Exception):  # noqa: N818  (it is none)
    """The check needs something that this driver, or its `DriverUnderTest`, does not have."""


@dataclass
class DriverUnderTest:
    """A driver, on a cloud that the suite may use, and how to treat it.

    Only `make` is needed. The hooks (all from `exists` on) let the suite see and do what a driver cannot; without
    them it checks a little less.

    Attributes:
        make: a new driver object each time, all on the same account.
        flavor: what the servers are made with; by default the smallest that the image fits on.
        image: what they boot from; by default the first of the driver's.
        user_name: who would log in; by default the image's user, or `pileus`.
        user_data: what they are given to run.
        public_key: the key pair's public half.
        config: what is to be deployed.
        many: how many servers one check makes at once, so that listings have several pages: more than a page, if
            the driver's pages can be made that small.
        timeout_s: how long the cloud may take to make or delete things, in seconds of `sleep`.
        call_timeout_s: the deadline of each call.
        grace_s: real seconds after a call's deadline by which it must have returned.
        poll_s: seconds between two looks at something that is waited for.
        listing_lag_s: what to use in place of the driver's declared lag, or None.
        sleep: waits that many seconds; for a cloud on another clock, moves it.
        exists: whether the server of that id exists, asked without the driver.
        plant: makes a server of that name that carries no tags of ours, and gives its id.
        stall: a block within which the cloud takes requests and never answers.
        hold_boots: a block within which no new server becomes ACTIVE.
        heavy_modules: modules of an SDK that importing and constructing the driver must not import.
    """

    make: Callable[[], Driver]
    flavor: Flavor | None = None
    image: Image | None = None
    user_name: str = ""
    user_data: bytes = field(default=b"#!/bin/sh\n", repr=False)
    public_key: str = PUBLIC_KEY
    config: DeployConfig = field(default_factory=DeployConfig)
    many: int = 5
    timeout_s: float = 120.0
    call_timeout_s: float = 60.0
    grace_s: float = 10.0
    poll_s: float = 0.1
    listing_lag_s: float | None = None
    sleep: Callable[[float], None] = time.sleep
    exists: Callable[[str], bool] | None = None
    plant: Callable[[str], str] | None = None
    stall: Callable[[], AbstractContextManager[object]] | None = None
    hold_boots: Callable[[], AbstractContextManager[object]] | None = None
    heavy_modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deployment:
    """A deployment that a check has made: its id, its resource name, and its resources by kind."""

    id: str
    name: str
    resources: dict[str, Resource] = field(default_factory=dict)

    def tags(self, intent_id: str) -> dict[str, str]:
        """What everything of this deployment carries."""
        return {TAG_DEPLOYMENT: self.id, TAG_INTENT: intent_id, TAG_NAME: self.name}


class Scene:
    """One check's place: deployments of its own, helpers, and the clean-up."""

    def __init__(self, subject: DriverUnderTest) -> None:
        self.subject = subject
        self.driver = subject.make()
        self._drivers = [self.driver]
        self._deployment_ids: list[str] = []
        self._choice: tuple[Flavor, Image] | None = None
        self._numbers = itertools.count(1)

    # --- saying what is wrong ---

    def require(self, condition: object, message: str) -> None:
        """Fail the check with `message` unless the condition holds."""
        if not condition:
            self.fail(message)

    def fail(self, message: str) -> NoReturn:
        """Fail the check."""
        raise ConformanceError(message)

    def refused(
        self, action: Callable[[], object], kinds: type[PileusError] | tuple[type[PileusError], ...], what: str
    ) -> PileusError:
        """The error with which `action` must be refused, one of `kinds`."""
        try:
            result = action()
        except kinds as problem:
            return problem
        except Exception as problem:
            raise ConformanceError(f"{what}: expected {_names(kinds)}, got {problem!r}") from problem
        raise ConformanceError(f"{what}: expected {_names(kinds)}, but it returned {result!r}")

    # --- the driver ---

    def another_driver(self) -> Driver:
        """A second driver object on the same account, closed at the end."""
        driver = self.subject.make()
        self._drivers.append(driver)
        return driver

    def call(self, seconds: float | None = None) -> Call:
        """A call's id and its deadline, `seconds` from now."""
        return Call(
            secrets.token_hex(8), time.monotonic() + (self.subject.call_timeout_s if seconds is None else seconds)
        )

    @property
    def lag_s(self) -> float:
        """How long what was made may be missing from listings."""
        override = self.subject.listing_lag_s
        return self.driver.capabilities.listing_lag_s if override is None else override

    def settle(self, condition: Callable[[], object], what: str) -> None:
        """Wait until the condition holds; fail the check when it does not within the time allowed."""
        began, slept = time.monotonic(), 0.0
        while not condition():
            if max(slept, time.monotonic() - began) > self.subject.timeout_s:
                self.fail(f"waited {self.subject.timeout_s:g} s in vain: {what}")
            self.subject.sleep(self.subject.poll_s)
            slept += self.subject.poll_s

    def wait_out_the_lag(self) -> None:
        """Wait until a listing must show all that was accepted so far."""
        if self.lag_s:
            self.subject.sleep(self.lag_s)

    # --- deployments ---

    def deployment(self, id: str = "", name: str = "lab-1", *, bare: bool = False) -> Deployment:
        """A new deployment with its planned resources; `bare` for none, only its id."""
        deployment = Deployment(id or "d" + secrets.token_hex(7), name)
        self._deployment_ids.append(deployment.id)
        if not bare:
            for planned in self.driver.plan(self.subject.config, self.subject.public_key):
                deployment.resources[planned.kind] = self.create_resource(deployment, planned, deployment.resources)
        return deployment

    def create_resource(
        self,
        deployment: Deployment,
        planned: PlannedResource,
        made: Mapping[str, Resource],
        *,
        owner_name: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> Resource:
        """Have one planned resource made."""
        intent_id = secrets.token_hex(8)
        name = "-".join(
            part for part in (owner_name or f"{deployment.name}-{deployment.id[:8]}", planned.suffix) if part
        )
        request = ResourceRequest(
            intent_id, planned.kind, name, {**deployment.tags(intent_id), **(tags or {})}, planned.spec
        )
        return self.driver.create_resource(request, dict(made), self.call())

    # --- servers ---

    def choice(self) -> tuple[Flavor, Image]:
        """The flavor and the image to use."""
        if self._choice is None:
            image = self.subject.image or self.driver.images(self.call())[0]
            flavor = self.subject.flavor or self._smallest_for(image)
            self._choice = flavor, image
        return self._choice

    def _smallest_for(self, image: Image) -> Flavor:
        fitting = [
            flavor
            for flavor in self.driver.flavors(self.call())
            if flavor.ram >= image.min_ram and (flavor.disk >= image.min_disk or not flavor.disk)
        ]
        self.require(fitting, f"no flavor is large enough for the default image {image.name!r}")
        return min(fitting, key=lambda flavor: (flavor.ram, flavor.cores, flavor.disk, flavor.id))

    def request(
        self, deployment: Deployment, *, tags: Mapping[str, str] | None = None, **changes: Any
    ) -> ServerRequest:
        """A good request for one server, its own parts made; `changes` replace its fields, good or bad."""
        flavor, image = self.choice()
        intent_id = secrets.token_hex(8)
        request = ServerRequest(
            intent_id=intent_id,
            name=f"{deployment.name}-{next(self._numbers)}-{secrets.token_hex(4)}",
            flavor=flavor,
            image=image,
            user_name=self.subject.user_name or image.default_user or "pileus",
            disk_gb=flavor.disk or max(image.min_disk, 10),
            external_ip=False,
            tags={**deployment.tags(intent_id), **(tags or {})},
            user_data=self.subject.user_data,
            resources=deployment.resources,
            config=self.subject.config,
        )
        parts: dict[str, Resource] = {}
        good = replace(request, **{key: changes[key] for key in changes if key in ("name", "disk_gb", "external_ip")})
        for planned in self.driver.server_parts(good) if good.disk_gb > 0 else []:
            made = {**deployment.resources, **parts}
            parts[planned.kind] = self.create_resource(deployment, planned, made, owner_name=good.name)
        return replace(request, resources={**deployment.resources, **parts}, **changes)

    def create(self, *requests: ServerRequest, call: Call | None = None) -> list[Outcome]:
        """Ask for servers in one batch; the outcomes' number and order are checked."""
        outcomes = self.driver.create_servers(list(requests), call or self.call())
        asked = [request.intent_id for request in requests]
        self.require(
            [outcome.request_id for outcome in outcomes] == asked,
            f"create_servers must give an outcome for each request, in their order, its request_id the intent's: asked "
            f"for {asked}, got {[outcome.request_id for outcome in outcomes]}",
        )
        for outcome in outcomes:
            self.require(
                (outcome.record is None) != (outcome.error is None),
                f"an outcome of a create has either a record or an error: {outcome}",
            )
        return outcomes

    def spawn(self, deployment: Deployment, count: int = 1, **changes: Any) -> list[ServerRecord]:
        """So many servers, accepted and listed."""
        outcomes = self.create(*[self.request(deployment, **changes) for _ in range(count)])
        records = []
        for outcome in outcomes:
            if outcome.record is None:
                raise ConformanceError(f"a good request was refused: {outcome.error!r}") from outcome.error
            records.append(outcome.record)
        self.appear(deployment, [record.id for record in records])
        return records

    def appear(self, deployment: Deployment, ids: Collection[str]) -> None:
        """Wait until the deployment's listing shows those servers."""
        self.settle(
            lambda: set(ids) <= {record.id for record in self.servers(deployment)},
            f"servers {sorted(ids)} were accepted but are not in the listing of their deployment",
        )

    def servers(self, deployment: Deployment) -> list[ServerRecord]:
        """What the listing shows of the deployment now."""
        return self.driver.list_servers(deployment.id, self.call())

    def find(self, deployment: Deployment, id: str) -> ServerRecord | None:
        """That server in the listing, if it is there."""
        return next((record for record in self.servers(deployment) if record.id == id), None)

    def delete(self, ids: Sequence[str], driver: Driver | None = None) -> list[Outcome]:
        """Ask for the end of servers; the outcomes' number and order are checked."""
        outcomes = (driver or self.driver).delete_servers(list(ids), self.call())
        self.require(
            [outcome.request_id for outcome in outcomes] == list(ids),
            f"delete_servers must give an outcome for each id, in their order, its request_id the id: asked for "
            f"{list(ids)}, got {[outcome.request_id for outcome in outcomes]}",
        )
        return outcomes

    def gone(self, deployment: Deployment, ids: Collection[str]) -> None:
        """Wait until the listing shows none of those servers."""
        self.settle(
            lambda: not set(ids) & {record.id for record in self.servers(deployment)},
            f"servers {sorted(ids)} were deleted, but stay in the listing",
        )

    def nothing_made(self, deployment: Deployment, what: str) -> None:
        """Fail when the deployment has any server."""
        self.wait_out_the_lag()
        there = self.servers(deployment)
        self.require(not there, f"{what}: nothing should have been created, but there is {there}")

    # --- the end ---

    def clean_up(self) -> None:
        """Delete everything of this scene's deployments, and prove it.

        Raises:
            ConformanceError: something could not be deleted.
        """
        try:
            for deployment_id in self._deployment_ids:
                self._clean(deployment_id)
        finally:
            for driver in self._drivers:
                driver.close()

    def _clean(self, deployment_id: str) -> None:
        driver = self._drivers[-1] if len(self._drivers) > 1 else self.driver
        self.wait_out_the_lag()

        def servers_gone() -> bool:
            ids = [record.id for record in driver.list_servers(deployment_id, self.call())]
            if ids:
                driver.delete_servers(ids, self.call())
            return not ids

        def resources_gone() -> bool:
            there = driver.list_resources(deployment_id, self.call())
            for resource in sorted(there, key=self._rank):
                try:
                    driver.delete_resource(resource, self.call())
                except NotFoundError:
                    continue
                except PileusError:
                    return False  # something in use for a little longer
            return not there

        self.settle(servers_gone, f"servers of deployment {deployment_id} could not be deleted in the clean-up")
        self.settle(resources_gone, f"resources of deployment {deployment_id} could not be deleted in the clean-up")

    def _rank(self, resource: Resource) -> int:
        order = self.driver.deletion_order
        return order.index(resource.kind) if resource.kind in order else len(order)


def _names(kinds: type[PileusError] | tuple[type[PileusError], ...]) -> str:
    return " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
