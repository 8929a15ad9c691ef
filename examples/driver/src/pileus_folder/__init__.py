"""A driver for Pileus whose cloud is a folder: each server is a JSON file in it. Nothing runs; all rules are kept."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pileus.drivers.base import (
    Call,
    Capabilities,
    Driver,
    Outcome,
    Resource,
    ServerRecord,
    ServerRequest,
    ServerStatus,
)
from pileus.errors import BadFlavorError, ConfigError, NoImageError, NotFoundError, PileusError, ProviderError
from pileus.models import Flavor, Image, Quota

FLAVORS = [Flavor("file-1", "file.small", cores=1, ram=1024, disk=8), Flavor("file-2", "file.large", 4, 8192, 32)]
IMAGES = [Image("paper", "plain paper", default_user="writer")]
BOOT = timedelta(seconds=0.3)


class FolderDriver(Driver):
    """Settings: `directory`, the folder; the variable `FOLDER_CLOUD` when it is not given."""

    name = "folder"
    maybe_env = ("FOLDER_CLOUD",)

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(settings)
        directory = self.settings.get("directory") or os.environ.get("FOLDER_CLOUD", "")
        if not directory:
            raise ConfigError("the folder provider needs a directory", setting="directory", provider=self.name)
        self._directory = Path(directory)

    @property
    def capabilities(self) -> Capabilities:
        """Nothing beyond the least; what was made is listed at once."""
        return Capabilities(listing_lag_s=0.0, isolation="none: the servers are files")

    def flavors(self, call: Call) -> list[Flavor]:
        """Two sizes."""
        return list(FLAVORS)

    def images(self, call: Call) -> list[Image]:
        """One image."""
        return list(IMAGES)

    def quota(self, call: Call) -> Quota:
        """No limits; what is used is counted in the folder."""
        sizes = {flavor.id: flavor for flavor in FLAVORS}
        used = [sizes[record.flavor_id] for record in self._records(call)]
        return Quota(
            used_instances=len(used),
            used_cores=sum(flavor.cores for flavor in used),
            used_ram=sum(flavor.ram for flavor in used),
        )

    def list_resources(self, deployment_id: str | None, call: Call) -> list[Resource]:
        """None: a file needs no network."""
        with self._errors("list_resources", call):
            return []

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:
        """Write a file for each; one that cannot be written spoils no other."""
        outcomes = []
        for request in requests:
            try:
                outcomes.append(Outcome(request.intent_id, record=self._create(request, call)))
            except PileusError as problem:
                outcomes.append(Outcome(request.intent_id, error=problem))
        return outcomes

    def _create(self, request: ServerRequest, call: Call) -> ServerRecord:
        if request.flavor not in FLAVORS:
            raise BadFlavorError(f"there is no flavor {request.flavor.id!r}")
        if request.image not in IMAGES:
            raise NoImageError(f"there is no image {request.image.id!r}")
        if not 0 <= request.disk_gb <= request.flavor.disk:
            raise ConfigError(f"a {request.flavor.name} has no disk of {request.disk_gb} GB", setting="disk_gb")
        server_id = secrets.token_hex(8)
        content = {
            "name": request.name,
            "tags": dict(request.tags),
            "flavor": request.flavor.id,
            "image": request.image.id,
            "created": datetime.now(UTC).isoformat(),
        }
        with self._errors("create_servers", call):
            # Written aside, then renamed: whoever lists sees a server with all its tags, or none.
            half = self._directory / f".{server_id}"
            half.write_text(json.dumps(content))
            half.rename(self._directory / f"{server_id}.json")
        return _record(server_id, content)

    def list_servers(self, deployment_id: str | None, call: Call) -> list[ServerRecord]:
        """Every file whose deployment is exactly that one; for None, every file that has a deployment."""
        return [one for one in self._records(call) if one.deployment_id and deployment_id in (None, one.deployment_id)]

    def delete_servers(self, ids: Sequence[str], call: Call) -> list[Outcome]:
        """Remove the files, which are gone at once."""
        outcomes = []
        for server_id in ids:
            try:
                self._delete(server_id, call)
                outcomes.append(Outcome(server_id))
            except PileusError as problem:
                outcomes.append(Outcome(server_id, error=problem))
        return outcomes

    def _delete(self, server_id: str, call: Call) -> None:
        if not re.fullmatch("[0-9a-f]{16}", server_id):  # an id must not lead out of the folder
            raise NotFoundError(f"there is no server {server_id!r}")
        with self._errors("delete_servers", call):
            try:
                (self._directory / f"{server_id}.json").unlink()
            except FileNotFoundError:
                raise NotFoundError(f"there is no server {server_id!r}") from None

    def _records(self, call: Call) -> list[ServerRecord]:
        records = []
        with self._errors("list_servers", call):
            # Not glob: of a folder that does not exist it says that it is empty.
            for path in sorted(self._directory.iterdir()):
                if path.suffix != ".json" or path.name.startswith("."):
                    continue
                try:
                    records.append(_record(path.stem, json.loads(path.read_text())))
                except FileNotFoundError:
                    continue  # deleted since the folder was read
        return records

    @contextmanager
    def _errors(self, operation: str, call: Call) -> Iterator[None]:
        """The one place where the vendor's exceptions, here those of files, become ours."""
        where: dict[str, Any] = {"provider": self.name, "operation": operation, "request_id": call.request_id}
        if call.remaining() <= 0:
            raise ProviderError(f"{operation}: the deadline had passed before anything was done", **where)
        try:
            yield
        except PileusError as problem:
            raise problem.within(self.name, operation) from problem.__cause__
        except OSError as problem:
            hint = f"see whether {self._directory} is a folder that you can write to"
            raise ProviderError(f"{operation}: {problem}", hint=hint, **where) from problem


def _record(server_id: str, content: Mapping[str, Any]) -> ServerRecord:
    created = datetime.fromisoformat(content["created"])
    active = datetime.now(UTC) - created >= BOOT
    return ServerRecord(
        id=server_id,
        name=content["name"],
        status=ServerStatus.ACTIVE if active else ServerStatus.BUILDING,
        tags=content["tags"],
        address="127.0.0.1" if active else "",
        flavor_id=content["flavor"],
        image_id=content["image"],
        created=created,
    )
