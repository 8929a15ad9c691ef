"""The local provider behind the interface of drivers."""

from __future__ import annotations

import base64
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pileus
from pileus.drivers.base import (
    TAG_DEPLOYMENT,
    Call,
    Capabilities,
    CheckItem,
    Driver,
    Outcome,
    Resource,
    ServerRecord,
    ServerRequest,
)
from pileus.drivers.local import calling, cards, ending, host, settings, trees
from pileus.drivers.local.cards import Card
from pileus.errors import (
    BadFlavorError,
    ConfigError,
    NoImageError,
    NotFoundError,
    PileusError,
    ProviderError,
    QuotaError,
    UnsupportedError,
)
from pileus.models import BootTarget, Flavor, Image, Quota

_USER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_CONSOLE_TAIL = 64 * 1024

_MEANING = {
    "namespaces": "processes in namespaces: own process tree, /tmp and host name",
    "subreaper": "processes whose orphans a keeper collects; /tmp and the process tree are shared",
    "marker": "processes with a mark in their environment; /tmp and the process tree are shared",
}


class LocalDriver(Driver):
    """Servers that are processes of this machine. Needs no account and no root.

    The constructor reads `PILEUS_LOCAL_*` and the settings `dir`, `overcommit`, `isolation`, `helper_idle`, which win
    over them. Cores and memory are counted, not enforced; a server runs as our own user, and keeps nothing from it.
    """

    name: ClassVar[str] = "local"
    maybe_env: ClassVar[tuple[str, ...]] = tuple(settings.ENVIRONMENT.values())

    def __init__(self, settings_: Mapping[str, str] | None = None) -> None:
        super().__init__(settings_)
        self._settings = settings.read(self.settings, os.environ)

    @property
    def capabilities(self) -> Capabilities:
        """What it can do. `isolation` is what this system should grant; `check` tries it."""
        level = self._settings.isolation if self._settings.isolation != "auto" else _likely_level()
        return Capabilities(
            volumes=True,
            external_ips=True,
            console=True,
            power_off_destroys=True,
            max_batch=100,
            poll_interval_s=0.1,
            listing_lag_s=0.0,
            request_timeout_s=60.0,
            isolation=f"{_MEANING[level]}; no security boundary",
        )

    # --- what there is to choose from ---

    def flavors(self, call: Call) -> list[Flavor]:
        """A small catalogue cut from this machine, and the whole machine last."""
        _check_deadline(call)
        return self._flavors()

    def images(self, call: Call) -> list[Image]:
        """This machine is the only image."""
        _check_deadline(call)
        return [host.image()]

    def quota(self, call: Call) -> Quota:
        """Cores and memory of the machine times the overcommit, disk as it is; use as the kernel lists it.

        A disk counts against `max_volume` only when it is larger than the flavor's.
        """
        _check_deadline(call)
        found = cards.listed(directory=self._settings.directory)
        limits = self._limits(found)
        return Quota(
            max_ram=limits["ram"],
            max_cores=limits["cores"],
            max_instances=0,
            max_volume=max(1, limits["volume_gb"]),
            used_ram=sum(card.ram for card in found),
            used_cores=sum(card.cores for card in found),
            used_instances=len(found),
            used_volume=sum(card.volume_gb for card in found),
        )

    def check(self, call: Call) -> list[CheckItem]:
        """Whether servers can be made here, and how well they are kept apart."""
        items = [self._check_helper(call), self._check_directory()]
        shell = os.access("/bin/sh", os.X_OK)
        return [*items, CheckItem("shell", shell, "/bin/sh", "" if shell else "commands on servers need /bin/sh")]

    def _check_helper(self, call: Call) -> CheckItem:
        try:
            answer = next(iter(calling.ask(self._request("probe"), call.deadline)), {})
        except ProviderError as problem:
            return CheckItem("isolation", False, problem.message, problem.hint)
        level = str(answer.get("isolation", ""))
        if level:
            return CheckItem("isolation", True, _MEANING[level])
        hint = "leave PILEUS_LOCAL_ISOLATION unset to take what there is"
        return CheckItem("isolation", False, f"{self._settings.isolation} is not to be had on this system", hint)

    def _check_directory(self) -> CheckItem:
        directory = self._settings.directory
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            usable = os.access(directory, os.W_OK | os.X_OK)
        except OSError:
            usable = False
        return CheckItem("directory", usable, str(directory), "" if usable else "set PILEUS_LOCAL_DIR to one of yours")

    # --- resources: none ---

    def list_resources(self, deployment_id: str | None, call: Call) -> list[Resource]:
        """There are none beside servers."""
        _check_deadline(call)
        return []

    # --- servers ---

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:
        """Make servers: each is listed, has its address and port, and boots, when its outcome is returned."""
        outcomes: dict[int, Outcome] = {}
        wanted: list[tuple[int, Card, bytes]] = []
        for index, request in enumerate(requests):
            try:
                _check_deadline(call)
                wanted.append((index, self._card(request), request.user_data))
            except PileusError as problem:
                outcomes[index] = Outcome(request.intent_id, error=problem.within(self.name, "create_servers"))
        if wanted:
            for index, outcome in self._make(wanted, call).items():
                intent_id = requests[index].intent_id
                outcomes[index] = Outcome(intent_id, outcome.record, outcome.error)
        return [outcomes[index] for index in range(len(requests))]

    def list_servers(self, deployment_id: str | None, call: Call) -> list[ServerRecord]:
        """What runs, oldest first, as the kernel tells it: no file is needed, and no server is asked."""
        _check_deadline(call)
        return [card.record() for card in cards.listed(deployment_id, self._settings.directory)]

    def delete_servers(self, ids: Sequence[str], call: Call) -> list[Outcome]:
        """Kill servers. Each is listed as DELETING until its last process and its directory are gone."""
        _check_deadline(call)
        found = {card.id: card for card in cards.listed(directory=self._settings.directory)}
        outcomes = []
        for server_id in ids:
            card = found.get(server_id)
            if card is None:
                ending.clean_up_after(self._settings.directory, server_id)
                outcomes.append(Outcome(server_id, error=self._not_found(server_id, "delete_servers")))
            else:
                ending.end(card)
                outcomes.append(Outcome(server_id))
        return outcomes

    def console(self, id: str, call: Call) -> str:
        """The tail of what the boot script and the SSH server wrote."""
        _check_deadline(call)
        for card in cards.listed(directory=self._settings.directory):
            if card.id == id:
                try:
                    with trees.console(Path(card.tree)).open("rb") as file:
                        file.seek(max(0, file.seek(0, os.SEEK_END) - _CONSOLE_TAIL))
                        return file.read().decode(errors="replace")
                except OSError:
                    return ""
        raise self._not_found(id, "console")

    def boot_target(self, intent_id: str) -> BootTarget:
        """The tree of the server that this intent will make. Pure."""
        return trees.boot_target(self._settings.directory / trees.server_id(intent_id))

    # --- how servers are made ---

    def _make(self, wanted: list[tuple[int, Card, bytes]], call: Call) -> dict[int, Outcome]:
        """Have the helper make them, all in one request. What it does not answer for may exist."""
        request = self._request("create")
        request["deadline"] = call.deadline
        request["limits"] = self._limits(cards.listed(directory=self._settings.directory))
        request["servers"] = [
            {"card": asdict(card), "user_data": base64.b64encode(user_data).decode()} for _, card, user_data in wanted
        ]
        outcomes: dict[int, Outcome] = {}
        silence: PileusError = ProviderError(
            "the helper of the local provider ended before it had answered", outcome_unknown=True
        )
        try:
            for answer in calling.ask(request, call.deadline):
                index, card, _ = wanted[answer["index"]]
                if "card" in answer:
                    outcomes[index] = Outcome("", record=Card(**answer["card"]).record())
                else:
                    outcomes[index] = Outcome("", error=_error(answer, card, self._settings))
        except ProviderError as problem:
            silence = problem
        for index, _, _ in wanted:
            outcomes.setdefault(index, Outcome("", error=silence.within(self.name, "create_servers")))
        return outcomes

    def _request(self, operation: str) -> dict[str, Any]:
        return {
            "operation": operation,
            "directory": str(self._settings.directory),
            "isolation": self._settings.isolation,
            "idle": self._settings.helper_idle_s,
            "visible": [sys.prefix, sys.base_prefix, str(Path(pileus.__file__).parent), *filter(None, sys.path)],
        }

    def _flavors(self) -> list[Flavor]:
        return host.flavors(host.cores(), host.ram_mb(), host.disk_gb(self._settings.directory)[0])

    def _limits(self, found: Sequence[Card]) -> dict[str, int]:
        """What may be given away in all. Free disk shrinks as servers write, so what they have is counted back in."""
        return {
            "cores": int(host.cores() * self._settings.overcommit) or 1,
            "ram": int(host.ram_mb() * self._settings.overcommit) or 1,
            "volume_gb": host.disk_gb(self._settings.directory)[1] + sum(card.volume_gb for card in found),
        }

    def _card(self, request: ServerRequest) -> Card:
        """The server's card, as far as it is known before it is made; refuses what makes no sense."""
        flavor = next((flavor for flavor in self._flavors() if flavor.id == request.flavor.id), None)
        if flavor is None:
            names = ", ".join(flavor.id for flavor in self._flavors())
            raise BadFlavorError(f"no flavor {request.flavor.id!r} on this machine; there are: {names}")
        if request.image.id != host.image().id:
            raise NoImageError(f"no image {request.image.id!r} on this machine; there is only {host.image().id}")
        if not isinstance(request.disk_gb, int) or request.disk_gb < 0:
            raise ConfigError(f"disk_gb must be 0 or more, not {request.disk_gb!r}", setting="disk_gb")
        for text, pattern, setting in (
            (request.user_name, _USER_NAME, "user_name"),
            (request.name, _HOST_NAME, "name"),
        ):
            if not pattern.fullmatch(text):
                raise ConfigError(f"{setting}: {text!r} will not do", setting=setting)
        if not request.tags.get(TAG_DEPLOYMENT):
            raise ConfigError(f"tags: {TAG_DEPLOYMENT} is missing", setting="tags")
        server_id = trees.server_id(request.intent_id)
        return Card(
            id=server_id,
            name=request.name,
            tags=dict(request.tags),
            flavor=flavor.id,
            image=request.image.id,
            cores=flavor.cores,
            ram=flavor.ram,
            volume_gb=request.disk_gb if request.disk_gb > flavor.disk else 0,
            external=request.external_ip,
            created=datetime.now(UTC).isoformat(),
            user_name=request.user_name,
            tree=str(self._settings.directory / server_id),
        )

    def _not_found(self, server_id: str, operation: str) -> NotFoundError:
        return NotFoundError(f"no server {server_id!r} on this machine", provider=self.name, operation=operation)


def _check_deadline(call: Call) -> None:
    if call.deadline <= time.monotonic():
        raise ProviderError("the call's deadline had passed before it began", provider="local")


def _error(answer: Mapping[str, Any], card: Card, chosen: settings.LocalSettings) -> PileusError:
    """The helper's word for a failure as one of our errors."""
    message, kind = str(answer["error"]), answer["kind"]
    where: dict[str, Any] = {"provider": "local", "operation": "create_servers"}
    if kind == "quota":
        return QuotaError(
            f"no room for server {card.name} on this machine: {message}",
            hint=f"destroy some, or raise {settings.ENVIRONMENT['overcommit']} (now {chosen.overcommit:g})",
            **where,
        )
    if kind == "unsupported":
        hint = f"leave {settings.ENVIRONMENT['isolation']} unset to take what there is"
        return UnsupportedError(message, hint=hint, **where)
    return ProviderError(
        f"server {card.name} cannot be made in {chosen.directory}: {message}",
        outcome_unknown=bool(answer.get("unknown")),
        **where,
    )


def _likely_level() -> str:
    """What `auto` should come to, from what the system says of itself; only trying is sure."""
    if sys.platform != "linux":
        return "marker"
    for path, refusing in (
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ):
        try:
            if os.geteuid() != 0 and Path(path).read_text().strip() == refusing:
                return "subreaper"
        except OSError:
            continue
    return "namespaces"
