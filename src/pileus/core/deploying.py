"""What a deployment needs besides servers: its id, its key, and the resources that the driver plans."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import asdict

from pileus.core.clearing import Clearing
from pileus.core.cloud import Cloud
from pileus.core.journal import Journal
from pileus.drivers.base import TAG_NAME, Resource, ServerRecord
from pileus.errors import StateError
from pileus.models import DeployConfig
from pileus.policy import names
from pileus.state import Deployment, key_path, write_private_key

log = logging.getLogger("pileus.deploy")


async def found_under_name(cloud: Cloud, resource_name: str) -> dict[str, list[ServerRecord | Resource]]:
    """All deployments that the cloud shows under exactly this resource name: their things by deployment id."""
    found: dict[str, list[ServerRecord | Resource]] = defaultdict(list)
    things: list[ServerRecord | Resource] = [*await cloud.list_servers(None), *await cloud.list_resources(None)]
    for thing in things:
        if thing.tags.get(TAG_NAME) == resource_name and thing.deployment_id:
            found[thing.deployment_id].append(thing)
    return dict(found)


async def adoptable(cloud: Cloud, resource_name: str, chosen: str) -> str:
    """The one deployment id under that name, an empty string when there is none.

    Args:
        chosen: the id that the user named, where there are several.

    Raises:
        StateError: there are several, and none of them was chosen. They are listed.
    """
    found = await found_under_name(cloud, resource_name)
    if chosen:
        if chosen not in found:
            raise StateError(
                f"no deployment {chosen} carries the name {resource_name!r}; there are: {', '.join(found) or 'none'}"
            )
        return chosen
    if len(found) > 1:
        lines = [f"{found_id} ({len(things)} things)" for found_id, things in sorted(found.items())]
        raise StateError(
            f"several deployments carry the name {resource_name!r}: {', '.join(lines)}",
            hint="choose one of them with deployment_id=… (or `--deployment-id`)",
        )
    return next(iter(found), "")


async def deploy(cloud: Cloud, journal: Journal, clearing: Clearing, config: DeployConfig, chosen: str) -> None:
    """Make what is missing; the caller holds the operation lock.

    Repeating it changes nothing; one that died half-way is found again and finished. The private key is on disk before its public
    half is in the cloud.
    """
    known = await journal.refresh()
    if known is not None and known.status == "tearing-down":
        raise StateError(
            f"the deployment {journal.deployment_id} is being torn down, or its tear-down failed",
            path=str(journal.path),
            hint="finish it with tear_down() (or `pileus teardown`), then deploy",
        )
    if known is None or known.status == "gone":
        await _begin(cloud, journal, config, chosen)
    if not key_path(journal.path).exists():
        write_private_key(key_path(journal.path), journal.deployment.private_key)
    listing = await clearing.settle()
    made = await journal.resources()
    listed = {resource.id for resource in listing.resources}
    planned = cloud.driver.plan(journal.config, journal.deployment.public_key)
    for plan in planned:
        present = made.get(plan.kind)
        if present is not None and present.id in listed:
            continue
        if present is not None:
            log.warning("%s %s was deleted behind our back; making it anew", plan.kind, present.id)
            await journal.forget_resource(present)
        resource_name = journal.deployment.resource_name
        name = f"{resource_name}-{plan.suffix}" if plan.suffix else resource_name
        made[plan.kind] = await journal.make_resource(plan.kind, name, plan.spec, made)
    if journal.deployment.status != "deployed":
        await journal.set_status("deployed")
        await journal.event("deployed", journal.deployment_id)


async def _begin(cloud: Cloud, journal: Journal, config: DeployConfig, chosen: str) -> None:
    from pileus.remote import keys

    deployment_id = await adoptable(cloud, journal.resource_name, chosen) or names.deployment_id()
    pair = keys.generate()
    deployment = Deployment(
        id=deployment_id,
        provider=cloud.driver.name,
        resource_name=journal.resource_name,
        owner=journal.owner,
        created=journal.now_s(),
        status="deploying",
        config=asdict(config),
        public_key=pair.public_line,
        private_key=pair.private_pem,
    )
    write_private_key(key_path(journal.path), pair.private_pem)
    await journal.save(deployment)


async def begin_tear_down(cloud: Cloud, journal: Journal, chosen: str) -> bool:
    """Find what there is to tear down; False when there is nothing, as the cloud's own listing proves.

    Without a state, the one deployment that carries the name is adopted.
    """
    known = await journal.refresh()
    if known is not None and known.status != "gone":
        return True
    deployment_id = await adoptable(cloud, journal.resource_name, chosen)
    if not deployment_id:
        key_path(journal.path).unlink(missing_ok=True)  # of a deploy that died before anything else was on record
        return False
    log.warning("adopting deployment %s, of which there is no state, to tear it down", deployment_id)
    deployment = Deployment(
        id=deployment_id,
        provider=cloud.driver.name,
        resource_name=journal.resource_name,
        owner=journal.owner,
        created=journal.now_s(),
        status="tearing-down",
        config=asdict(DeployConfig()),
        public_key="",
        private_key="",
    )
    await journal.save(deployment)
    return True


async def forget(journal: Journal) -> None:
    """Nothing is left: the deployment is gone, and its secrets with it, here and beside the state."""
    await journal.set_status("gone")
    await journal.store.read(lambda s: s.forget_secrets())
    key_path(journal.path).unlink(missing_ok=True)
    await journal.refresh()
