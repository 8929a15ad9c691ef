"""The deployment on disk: intents before calls, outcomes after them, and what each session holds of each server.

This layer knows nobody but `errors`; it asks no cloud, and decides nothing but what must be decided in the same transaction in
which it is written. Several processes may share a deployment. The parts:

- `records`: what is kept, as frozen records; `schema`: the tables
- `filesystem`: paths, modes, network file systems; `opening`: making a file, and refusing one
- `locks`: locks that die with their process; `holders`: who holds one
- `connection`, `room`, `servers`, `ledger`, `store`: the layers of `Store`, which blocks
- `worker`: `AsyncStore`, the same off the event loop; loaded on first use, so that nothing else here needs asyncio
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pileus.state.filesystem import key_path, state_path, write_private_key
from pileus.state.holders import boot_id
from pileus.state.locks import OperationLock
from pileus.state.records import (
    NANO,
    Deployment,
    Event,
    Intent,
    ResourceRow,
    ServerRow,
    Settled,
    Usage,
    nano_cores,
)
from pileus.state.store import Store

if TYPE_CHECKING:
    from pileus.state.worker import AsyncStore

__all__ = [
    "NANO",
    "AsyncStore",
    "Deployment",
    "Event",
    "Intent",
    "OperationLock",
    "ResourceRow",
    "ServerRow",
    "Settled",
    "Store",
    "Usage",
    "boot_id",
    "key_path",
    "nano_cores",
    "state_path",
    "write_private_key",
]


def __getattr__(name: str) -> Any:
    """Load what needs asyncio when it is first asked for."""
    if name == "AsyncStore":
        from pileus.state.worker import AsyncStore

        return AsyncStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
