"""The near end of a simulated cloud that runs as a process of its own."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pileus.drivers.base import Call, Outcome, Resource, ResourceRequest, ServerRecord, ServerRequest, ServerStatus
from pileus.errors import ConfigError, PileusError, ProviderError
from pileus.models import Flavor, Image, Quota
from pileus.testing import rules as faults
from pileus.testing.cloud import LoggedCall
from pileus.testing.wire import from_line, to_line

CONTROL_TIMEOUT_S = 30.0
HINT = "start one with: python -m pileus.testing.simulator_process --socket PATH"


class RemoteCloud:
    """What a driver and a test ask of a `SimulatedCloud`, over a socket. Safe to use from several threads.

    Args:
        url: as the process printed it: `unix:///path` or `tcp://127.0.0.1:port`, with `?listing_lag_s=…` behind.

    Raises:
        ConfigError: it is no such URL. Nothing is connected to before the first call.
    """

    def __init__(self, url: str) -> None:
        self._address: str | tuple[str, int]
        parts = urlsplit(url)
        try:
            if parts.scheme == "unix" and parts.path and not parts.netloc:
                self._address = parts.path
            elif parts.scheme == "tcp" and parts.hostname in ("127.0.0.1", "localhost") and parts.port:
                self._address = ("127.0.0.1", parts.port)
            else:
                raise ValueError("it is neither unix:///path nor tcp://127.0.0.1:port")
            self.listing_lag_s = float(parse_qs(parts.query).get("listing_lag_s", ["0"])[0])
        except ValueError as problem:
            raise ConfigError(f"url: {url!r} leads to no simulator: {problem}", setting="url", hint=HINT) from None
        self._idle: list[socket.socket] = []
        self._lock = threading.Lock()

    # --- what a driver calls ---

    def flavors(self, call: Call) -> list[Flavor]:
        """All flavors."""
        return list(self._ask("flavors", call))

    def images(self, call: Call) -> list[Image]:
        """All images, the default one first."""
        return list(self._ask("images", call))

    def quota(self, call: Call) -> Quota:
        """Limits and use."""
        quota: Quota = self._ask("quota", call)
        return quota

    def ping(self, call: Call) -> None:
        """Nothing but the way there and back."""
        self._ask("ping", call)

    def create_resource(self, request: ResourceRequest, call: Call) -> Resource:
        """Make one."""
        resource: Resource = self._ask("create_resource", call, request)
        return resource

    def list_resources(self, deployment_id: str | None, call: Call) -> list[Resource]:
        """Those of a deployment, or all with a tag of ours."""
        return list(self._ask("list_resources", call, deployment_id))

    def delete_resource(self, id: str, call: Call) -> None:
        """Delete one."""
        self._ask("delete_resource", call, id)

    def create_servers(self, requests: Sequence[ServerRequest], call: Call) -> list[Outcome]:
        """An outcome each, in the same order."""
        return list(self._ask("create_servers", call, list(requests)))

    def list_servers(self, deployment_id: str | None, call: Call) -> list[ServerRecord]:
        """Those of a deployment, or all with a tag of ours."""
        return list(self._ask("list_servers", call, deployment_id))

    def delete_servers(self, ids: Sequence[str], call: Call) -> list[Outcome]:
        """An outcome each, in the same order."""
        return list(self._ask("delete_servers", call, list(ids)))

    def console(self, id: str, call: Call) -> str:
        """A few lines."""
        return str(self._ask("console", call, id))

    # --- what a test calls ---

    def add_rules(self, *rules: faults.Rule) -> None:
        """Put rules in force."""
        self._control("add_rules", *rules)

    def clear_rules(self) -> None:
        """Be a good cloud again."""
        self._control("clear_rules")

    @property
    def calls(self) -> list[LoggedCall]:
        """Every call so far, in the order of arrival."""
        return list(self._control("calls"))

    @property
    def counts(self) -> Counter[str]:
        """How many calls of each operation there were."""
        return Counter(self._control("counts"))

    def forget_calls(self) -> None:
        """Begin `calls` and `counts` anew."""
        self._control("forget_calls")

    def everything(self) -> list[ServerRecord | Resource]:
        """All that exists, shown in listings or not."""
        return list(self._control("everything"))

    def plant(
        self,
        kind: str = "server",
        *,
        name: str,
        tags: Mapping[str, str] | None = None,
        status: ServerStatus = ServerStatus.ACTIVE,
        attributes: Mapping[str, str] | None = None,
    ) -> str:
        """Let somebody else have made a thing; gives its id."""
        return str(self._control("plant", kind, name=name, tags=tags, status=status, attributes=attributes))

    def change(self, id: str, status: ServerStatus, *, fault: str = "") -> None:
        """Put a server into another state behind everybody's back."""
        self._control("change", id, status, fault=fault)

    def remove(self, id: str) -> None:
        """Let a server exist no more, behind everybody's back."""
        self._control("remove", id)

    def close(self) -> None:
        """Close the connections that are idle. A later call makes new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    # --- the wire ---

    def _control(self, operation: str, *arguments: object, **named: object) -> Any:
        call = Call(f"control-{secrets.token_hex(4)}", time.monotonic() + CONTROL_TIMEOUT_S)
        return self._ask(operation, call, *arguments, **named)

    def _ask(self, operation: str, call: Call, *arguments: object, **named: object) -> Any:
        unknown = operation in faults.MAKING
        where: dict[str, Any] = {"provider": "simulator", "operation": operation, "request_id": call.request_id}
        if call.remaining() <= 0:
            raise ProviderError(f"{operation}: the deadline had passed before the request was sent", **where)
        told = {"do": operation, "id": call.request_id, "left_s": call.remaining(), "args": arguments, "named": named}
        line = to_line(told)
        connection = self._connection(call, where)
        try:
            answer = from_line(_exchange(connection, line, call))
        except TimeoutError:
            connection.close()
            raise ProviderError(
                f"{operation}: no answer came within the deadline", outcome_unknown=unknown, **where
            ) from None
        except (OSError, ValueError) as problem:
            connection.close()
            raise ProviderError(
                f"{operation}: the connection to the simulator was lost: {problem}", outcome_unknown=unknown, **where
            ) from problem
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._idle.append(connection)
        if isinstance(answer.get("error"), PileusError):
            raise answer["error"]
        return answer.get("result")

    def _connection(self, call: Call, where: dict[str, Any]) -> socket.socket:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        connection = socket.socket(socket.AF_UNIX if isinstance(self._address, str) else socket.AF_INET)
        try:
            connection.settimeout(max(0.001, call.remaining()))
            connection.connect(self._address)
            if not isinstance(self._address, str):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as problem:
            connection.close()
            raise ProviderError(f"no simulator answers at {self._address}: {problem}", hint=HINT, **where) from problem
        return connection


def _exchange(connection: socket.socket, line: bytes, call: Call) -> bytes:
    """Send a line and read one, all of it by the call's deadline."""
    connection.settimeout(max(0.001, call.remaining()))
    connection.sendall(line)
    received = bytearray()
    while not received.endswith(b"\n"):
        connection.settimeout(max(0.001, call.remaining()))
        some = connection.recv(1 << 18)
        if not some:
            raise ConnectionResetError("it was closed before the answer came")
        received += some
    return bytes(received)
