"""From an endpoint to an open connection: one attempt, the reading of its failure, and the pauses between attempts."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import asyncssh

from pileus.errors import ConnectError, HostKeyError, PileusError, RemoteError
from pileus.remote.endpoint import Endpoint, fingerprints
from pileus.remote.options import Gatekeeper, options_for

logger = logging.getLogger(__name__)

ATTEMPT_S = 10.0
"""One attempt's bound: a machine that swallows packets, or accepts and says nothing, must not eat the whole timeout."""

FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.5

_REFUSALS = (ConnectionRefusedError, asyncssh.ChannelOpenError)  # the second is a refusal met by a server in between

Tunnel = Callable[[], Awaitable[asyncssh.SSHClientConnection]]


@dataclass(frozen=True, slots=True)
class Setback:
    """Why an attempt failed.

    Attributes:
        kind: `network` (may pass), `key` (an unknown host key), `login` (our key is refused) or `final` (will not pass).
        penalised: the server is one that shuts out addresses which come without logging in, or log in wrongly, too often.
    """

    kind: str
    error: PileusError
    penalised: bool = False


class Dialer:
    """Opens connections to one endpoint, directly or through a tunnel.

    Attributes:
        endpoint: may be replaced; later attempts use the new one.
    """

    def __init__(
        self, endpoint: Endpoint, *, keepalive_interval: float, keepalive_count: int, tunnel: Tunnel | None = None
    ) -> None:
        self.endpoint = endpoint
        self._keepalive_interval = keepalive_interval
        self._keepalive_count = keepalive_count
        self._tunnel = tunnel
        options_for(endpoint, keepalive_interval=keepalive_interval, keepalive_count=keepalive_count)

    async def dial(
        self, timeout: float, on_lost: Callable[[], None], *, booting: bool = False, refused_s: float | None = None
    ) -> asyncssh.SSHClientConnection:
        """Open one connection, trying again until `timeout` seconds have passed.

        Args:
            timeout: seconds.
            on_lost: called once when the connection, or an attempt's, has ended.
            booting: an unknown host key, and a refused login, are tried again too.
            refused_s: give up on refusals after that many seconds already; None for the whole timeout.

        Raises:
            HostKeyError: the server shows a key that is not known, and is not `booting`.
            ConnectError: all else; says what the last problem was.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        attempts = 0
        last: Setback | None = None
        while True:
            left = begun + timeout - loop.time()
            bound = min(ATTEMPT_S, max(left, 0.05))
            outcome = await self._attempt(bound, on_lost)
            if isinstance(outcome, asyncssh.SSHClientConnection):
                return outcome
            attempts += 1
            # an attempt that the end of our time cut short knows less than the one before it
            cut_short = bound < ATTEMPT_S and isinstance(outcome.error.__cause__, TimeoutError)
            last = last if last is not None and cut_short else outcome
            if last.kind == "final" or (last.kind != "network" and not booting):
                raise last.error
            patience = timeout
            if refused_s is not None and isinstance(outcome.error.__cause__, _REFUSALS):
                patience = min(timeout, refused_s)
            wait = pause(attempts, outcome)
            spent = loop.time() - begun
            if spent + wait >= patience:
                if patience - spent > 0:
                    await asyncio.sleep(patience - spent)
                raise self._gave_up(last, timeout, attempts) from last.error
            logger.debug("%s: attempt %d: %s", self.endpoint.name, attempts, outcome.error.message)
            await asyncio.sleep(wait)

    async def _attempt(self, bound: float, on_lost: Callable[[], None]) -> asyncssh.SSHClientConnection | Setback:
        endpoint = self.endpoint
        gatekeeper = Gatekeeper(endpoint.trusted, on_lost)
        options = options_for(
            endpoint, keepalive_interval=self._keepalive_interval, keepalive_count=self._keepalive_count
        )
        try:
            async with asyncio.timeout(bound):
                tunnel = await self._tunnel() if self._tunnel else None
                return await asyncssh.connect(
                    endpoint.host,
                    endpoint.port,
                    options=options,
                    config=None,
                    tunnel=tunnel,
                    client_factory=lambda: gatekeeper,
                )
        except HostKeyError as error:  # of the server that we go through
            return Setback("key", error)
        except RemoteError as error:
            return Setback("network", error)
        except (OSError, asyncssh.Error, TimeoutError, UnicodeError) as problem:
            return _read(problem, endpoint, gatekeeper, bound)

    def _gave_up(self, last: Setback, timeout: float, attempts: int) -> ConnectError:
        what = {"key": "it does not show its own host key yet", "login": "it does not accept our key yet"}
        return ConnectError(
            f"no SSH to {self.endpoint.label} within {timeout:g} s ({attempts} attempts): "
            + (f"{what[last.kind]}: " if last.kind in what else "")
            + last.error.message,
            hint=last.error.hint,
            host=self.endpoint.address,
        )


def pause(attempts: int, setback: Setback) -> float:
    """Seconds to wait after that many failed attempts. Pure.

    sshd 9.8 and later counts 1 s against an address for a visit without a login and 5 s for a failed login, and shuts
    it out from 15 s on (`PerSourcePenalties`). So with such a server the pauses grow to what is counted per attempt.
    """
    if setback.penalised and setback.kind == "login":
        return 0.05 if attempts == 1 else 0.5 if attempts == 2 else 5.0
    if setback.penalised and setback.kind == "key":
        return min(FIRST_PAUSE_S * 2.0**attempts, 1.0)
    return min(FIRST_PAUSE_S * 1.5 ** (attempts - 1), LONGEST_PAUSE_S)


def has_penalties(server_version: str) -> bool:
    """Whether that version of a server shuts out addresses that fail too often. Pure."""
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", server_version)
    return bool(found) and (int(found[1]), int(found[2])) >= (9, 8)  # type: ignore[index]


def _read(problem: Exception, endpoint: Endpoint, gatekeeper: Gatekeeper, bound: float) -> Setback:
    """Tell what a failed attempt means."""
    where = endpoint.label
    host = endpoint.address
    penalised = has_penalties(gatekeeper.server_version)
    kind = "network"
    error: PileusError
    if isinstance(problem, asyncssh.HostKeyNotVerifiable):
        kind = "key"
        error = HostKeyError(
            f"{where} shows a host key that is not the server's: expected {fingerprints(endpoint.host_keys)}, "
            f"presented {gatekeeper.presented or 'a kind of key that we do not know'}. Nothing was sent to it",
            hint="if the server was replaced, destroy it and spawn another; else somebody answers in its place",
            host=host,
        )
    elif isinstance(problem, asyncssh.PermissionDenied):
        kind = "login"
        error = ConnectError(
            f"{where} refused our key",
            hint=f"check that {endpoint.user_name!r} is the user that the image logs in with",
            host=host,
        )
    elif isinstance(problem, asyncssh.KeyExchangeFailed):
        kind = "final"
        error = ConnectError(f"{where} and we have no cipher or key exchange in common: {problem}", host=host)
    elif isinstance(problem, TimeoutError):
        error = ConnectError(f"{where} did not answer within {bound:g} s", host=host)
    elif isinstance(problem, socket.gaierror | UnicodeError):
        error = ConnectError(f"{where}: the host name cannot be resolved: {problem}", host=host)
    elif isinstance(problem, asyncssh.ChannelOpenError):
        error = ConnectError(f"{where} cannot be reached from the server in between: {problem.reason}", host=host)
    elif isinstance(problem, asyncssh.Error):
        error = ConnectError(f"{where} broke off before the login was done: {problem}", host=host)
    else:
        error = ConnectError(f"{where}: {_plain(problem)}", host=host)
    error.__cause__ = problem
    return Setback(kind, error, penalised)


def _plain(problem: Exception) -> str:
    if isinstance(problem, ConnectionRefusedError):
        return "connection refused"
    if isinstance(problem, ConnectionResetError):
        return "connection reset"
    return getattr(problem, "strerror", None) or str(problem) or type(problem).__name__


def with_host_keys(endpoint: Endpoint, host_keys: tuple[str, ...]) -> Endpoint:
    """The same endpoint, known by other keys."""
    return replace(endpoint, host_keys=host_keys)
