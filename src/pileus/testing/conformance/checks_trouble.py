"""Checks of what a driver does when the request, the deadline or the moment is bad, and of what it must not do at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeVar

from pileus.drivers.base import Outcome, ServerRequest, ServerStatus
from pileus.errors import BadFlavorError, ConfigError, NoImageError, PileusError, ProviderError
from pileus.testing.conformance.subject import ConformanceError, Deployment, NotApplicable, Scene
from pileus.testing.conformance.suite import check

T = TypeVar("T")


@check(7)
def an_unknown_flavor_is_refused(scene: Scene) -> None:
    """A flavor that does not exist is BadFlavorError in the outcome, and no server is made."""
    deployment = scene.deployment()
    flavor, _image = scene.choice()
    bad = scene.request(deployment, flavor=replace(flavor, id="no-such-flavor", name="no such flavor"))
    _refused(scene, deployment, bad, BadFlavorError)


@check(7)
def an_unknown_image_is_refused(scene: Scene) -> None:
    """An image that does not exist is NoImageError in the outcome, and no server is made."""
    deployment = scene.deployment()
    _flavor, image = scene.choice()
    bad = scene.request(deployment, image=replace(image, id="no-such-image", name="no such image"))
    _refused(scene, deployment, bad, NoImageError)


@check(7)
def an_impossible_disk_is_refused(scene: Scene) -> None:
    """A negative disk, or one larger than the flavor's where there are no volumes, is refused; no server is made."""
    deployment = scene.deployment()
    _refused(scene, deployment, scene.request(deployment, disk_gb=-1), ProviderError, ConfigError)
    if not scene.driver.capabilities.volumes:
        flavor, _image = scene.choice()
        larger = scene.request(deployment, disk_gb=flavor.disk + 1)
        _refused(scene, deployment, larger, ProviderError, ConfigError)


@check(6)
def one_bad_request_spoils_no_other(scene: Scene) -> None:
    """In a batch with bad requests, the good ones are accepted and made, each outcome in its place."""
    deployment = scene.deployment()
    flavor, image = scene.choice()
    requests = [
        scene.request(deployment),
        scene.request(deployment, flavor=replace(flavor, id="no-such-flavor")),
        scene.request(deployment),
        scene.request(deployment, image=replace(image, id="no-such-image")),
        scene.request(deployment),
    ]
    outcomes = scene.create(*requests)
    accepted = [outcome.record is not None for outcome in outcomes]
    scene.require(accepted == [True, False, True, False, True], f"of good, bad, good, bad, good: {outcomes}")
    scene.require(isinstance(outcomes[1].error, BadFlavorError), f"a bad flavor is {outcomes[1].error!r}")
    scene.require(isinstance(outcomes[3].error, NoImageError), f"a bad image is {outcomes[3].error!r}")
    ids = {outcome.record.id for outcome in outcomes if outcome.record}
    scene.appear(deployment, ids)
    scene.wait_out_the_lag()
    listed = {record.id for record in scene.servers(deployment)}
    scene.require(listed == ids, f"accepted were {sorted(ids)}, made are {sorted(listed)}")


@check(5)
def a_deadline_in_the_past_is_an_error(scene: Scene) -> None:
    """A call whose deadline has passed is an error; a create then makes nothing, or says that its outcome is unknown."""
    deployment = scene.deployment()
    request = scene.request(deployment)
    problem = _create_problem(scene, request, -1.0)
    if not getattr(problem, "outcome_unknown", False):
        scene.nothing_made(deployment, "a create whose deadline had passed")
    driver, late = scene.driver, scene.call(-1.0)
    scene.refused(lambda: driver.list_servers(deployment.id, late), ProviderError, "listing after the deadline")
    scene.refused(lambda: driver.list_resources(deployment.id, late), ProviderError, "listing after the deadline")


@check(5)
def a_silent_cloud_is_an_error_at_the_deadline(scene: Scene) -> None:
    """When no answer comes, a call ends at its deadline with an error; for a create, its outcome is unknown."""
    if scene.subject.stall is None:
        raise NotApplicable("the driver's author gives no way to stall the cloud")
    deployment = scene.deployment()
    request = scene.request(deployment)
    deadline_s = 0.3
    with scene.subject.stall():
        _in_time(
            scene,
            deadline_s,
            lambda: scene.refused(
                lambda: scene.driver.list_servers(deployment.id, scene.call(deadline_s)), ProviderError, "a listing"
            ),
        )
        problem = _in_time(scene, deadline_s, lambda: _create_problem(scene, request, deadline_s))
    scene.require(
        getattr(problem, "outcome_unknown", False),
        f"a create without an answer may have made something: outcome_unknown must be set on {problem!r}",
    )


@check(8)
def creating_does_not_wait(scene: Scene) -> None:
    """`create_servers` returns once the servers are accepted, even if they take long to boot."""
    deployment = scene.deployment()
    request = scene.request(deployment)
    if scene.subject.hold_boots is None:
        [outcome] = scene.create(request)
        scene.require(outcome.record, f"a good request was refused: {outcome.error!r}")
        return
    deadline_s = min(2.0, scene.subject.call_timeout_s)
    with scene.subject.hold_boots():
        [outcome] = _in_time(scene, deadline_s, lambda: scene.create(request, call=scene.call(deadline_s)))
        scene.require(outcome.record, f"a server that boots slowly was not accepted: {outcome.error!r}")
        if outcome.record is not None:
            status = outcome.record.status
            scene.require(status is not ServerStatus.ACTIVE, "a server that has not booted is not ACTIVE")


@check(8)
def drivers_have_no_memory(scene: Scene) -> None:
    """What one object made, others see and can delete, after the first was closed; and the first sees what they did."""
    before = scene.another_driver()
    deployment = scene.deployment()
    [record, other] = scene.spawn(deployment, 2)
    after = scene.another_driver()
    for driver in (before, after):
        shown = {one.id: dict(one.tags) for one in driver.list_servers(deployment.id, scene.call())}
        scene.require(set(shown) == {record.id, other.id}, f"another object of the driver lists {shown}")
        scene.require(shown[record.id] == dict(record.tags), "another object of the driver shows other tags")
    [outcome] = scene.delete([other.id], before)
    scene.require(outcome.error is None, f"another object of the driver cannot delete: {outcome.error!r}")
    scene.gone(deployment, [other.id])
    first, scene.driver = scene.driver, after
    first.close()
    scene.require(scene.find(deployment, record.id), "closing a driver took its servers")


@check(8)
def calls_from_threads_do_not_disturb_each_other(scene: Scene) -> None:
    """Creates, listings and offers asked for from several threads at once all work, and everything is made once."""
    deployment = scene.deployment()
    requests = [scene.request(deployment) for _ in range(4)]
    started = threading.Barrier(8)

    def create(request: ServerRequest) -> list[Outcome]:
        started.wait(30)
        return scene.create(request)

    def look() -> list[Outcome]:
        started.wait(30)
        for _ in range(3):
            scene.driver.flavors(scene.call())
            scene.driver.quota(scene.call())
            scene.servers(deployment)
        return []

    jobs: list[Callable[[], list[Outcome]]] = [lambda request=request: create(request) for request in requests]  # type: ignore[misc]
    running = [_start(job) for job in [*jobs, look, look, look, look]]
    outcomes = [outcome for future in running for outcome in future.result(scene.subject.call_timeout_s * 4)]
    ids = {outcome.record.id for outcome in outcomes if outcome.record}
    scene.require(len(ids) == 4, f"four servers were asked for from four threads: {outcomes}")
    scene.appear(deployment, ids)
    scene.wait_out_the_lag()
    listed = sorted(record.id for record in scene.servers(deployment))
    scene.require(listed == sorted(ids), f"accepted were {sorted(ids)}, made are {listed}")


def _refused(scene: Scene, deployment: Deployment, request: ServerRequest, *kinds: type[PileusError]) -> None:
    [outcome] = scene.create(request)
    error = outcome.error
    names = " or ".join(kind.__name__ for kind in kinds)
    scene.require(isinstance(error, kinds), f"a bad request must be refused with {names}, not {outcome}")
    unknown = getattr(error, "outcome_unknown", False)
    scene.require(not unknown, f"a bad request has a known outcome: nothing was made, but it is {error!r}")
    scene.nothing_made(deployment, f"after {error!r}")


def _create_problem(scene: Scene, request: ServerRequest, seconds: float) -> PileusError:
    """The error of a create that cannot be answered in time; it may be raised, or be in the outcome."""
    try:
        [outcome] = scene.create(request, call=scene.call(seconds))
    except ProviderError as problem:
        return problem
    if outcome.error is None:
        scene.fail(f"a create that got no answer by its deadline must be an error, not {outcome}")
    return outcome.error


def _in_time(scene: Scene, deadline_s: float, action: Callable[[], T]) -> T:
    """Run an action in a thread, and fail when it has not ended well after the deadline."""
    future = _start(action)
    allowed_s = deadline_s + scene.subject.grace_s
    try:
        return future.result(allowed_s)
    except TimeoutError as problem:
        if future.done():
            raise
        raise ConformanceError(
            f"a call with a deadline of {deadline_s:g} s ran for more than {allowed_s:g} s"
        ) from problem


def _start(action: Callable[[], T]) -> Future[T]:
    """Run an action in a daemon thread of its own: a driver that hangs must not hang the suite's end."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as problem:  # noqa: BLE001  (handed to whoever waits)
            future.set_exception(problem)

    threading.Thread(target=run, daemon=True, name=f"conformance-{time.monotonic():.3f}").start()
    return future
