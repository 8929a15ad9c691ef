"""When an idle server is to go. The state decides in the end (`claim_destroy`); this tells when it is worth asking."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

LONGEST_S = 30.0
"""The reaper looks at least so often, since other processes change the clocks without telling this one."""


class IdleClock(Protocol):
    """What is read of a server's row.

    `ttd_s` is the seconds of idleness after which it goes, 0 for never; `idle_since` the monotonic moment at which its last
    use ended, None while it is used; `boot_id` the boot of this machine whose moment that is.
    """

    @property
    def ttd_s(self) -> float: ...  # noqa: D102
    @property
    def idle_since(self) -> float | None: ...  # noqa: D102
    @property
    def boot_id(self) -> str: ...  # noqa: D102


def due_at(server: IdleClock, boot_id: str) -> float | None:
    """The monotonic moment at which the server has been idle for long enough; None while its clock does not run.

    A clock that was started before this machine was rebooted says nothing: see `has_stale_clock`.
    """
    if server.ttd_s <= 0 or server.idle_since is None or server.boot_id != boot_id:
        return None
    return server.idle_since + server.ttd_s


def is_idle(server: IdleClock, now: float, boot_id: str) -> bool:
    """Whether the server has been idle for its `ttd_s` at the monotonic moment `now`."""
    due = due_at(server, boot_id)
    return due is not None and due <= now


def has_stale_clock(server: IdleClock, boot_id: str) -> bool:
    """Whether the idle clock must be started anew, because the moments of this boot cannot be compared with it."""
    return server.ttd_s > 0 and server.idle_since is not None and server.boot_id != boot_id


def next_look(servers: Iterable[IdleClock], now: float, boot_id: str) -> float:
    """Seconds until the next server may be due: 0 when one is, at most `LONGEST_S`."""
    dues = [due for server in servers if (due := due_at(server, boot_id)) is not None]
    return min(LONGEST_S, max(0.0, min(dues, default=now + LONGEST_S) - now))
