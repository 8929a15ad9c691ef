"""Turn a cloud account into servers you can use, and make them vanish again.

The layers, each of which imports only those below it:

| module | what it is for |
|---|---|
| `cli` | the command line |
| `blocking` | `Provider`, `Server`: the same API for code that is not async |
| `provider`, `server` | `AsyncProvider`: one deployment on one cloud; `AsyncServer`: one machine |
| `core` | what those are made of |
| `policy` | decisions, without I/O |
| `remote`, `boot`, `state`, `drivers` | SSH; what a new server runs first; the deployment on disk; clouds |
| `models`, `errors`, `clock` | records, the error tree, time |
| `testing` | a simulated cloud and the conformance suite, for authors of drivers too |

Importing the package reads nothing but its code, and loads neither a cloud's SDK nor asyncssh: names are loaded when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pileus.blocking import Provider, Server, SSHClient
    from pileus.drivers.registry import all_env, maybe_env, required_env
    from pileus.errors import (
        AuthenticationError,
        BadCIDRError,
        BadFlavorError,
        BadProviderError,
        BadRegexError,
        BadResourceNameError,
        CommandError,
        ConfigError,
        ConnectError,
        HostKeyError,
        MissingEnvError,
        NoFlavorError,
        NoHardwareError,
        NoImageError,
        NotFoundError,
        PileusError,
        ProviderError,
        QuotaError,
        RateLimitError,
        RemoteError,
        ServerError,
        ServerFailedError,
        ServerGoneError,
        ServerTimeoutError,
        SpawnError,
        StateDamagedError,
        StateError,
        StateLockedError,
        StateVersionError,
        TearDownError,
        TransferError,
        UnsupportedError,
        UsageError,
    )
    from pileus.models import AuditItem, CommandResult, DeployConfig, Duration, Flavor, Image, Quota, ServerUsage
    from pileus.provider import AsyncProvider, Resources
    from pileus.server import AsyncServer

_HOMES = {
    "pileus.blocking": ("Provider", "SSHClient", "Server"),
    "pileus.drivers.registry": ("all_env", "maybe_env", "required_env"),
    "pileus.models": (
        "AuditItem",
        "CommandResult",
        "DeployConfig",
        "Duration",
        "Flavor",
        "Image",
        "Quota",
        "ServerUsage",
    ),
    "pileus.provider": ("AsyncProvider", "Resources"),
    "pileus.server": ("AsyncServer",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncProvider",
    "AsyncServer",
    "AuditItem",
    "AuthenticationError",
    "BadCIDRError",
    "BadFlavorError",
    "BadProviderError",
    "BadRegexError",
    "BadResourceNameError",
    "CommandError",
    "CommandResult",
    "ConfigError",
    "ConnectError",
    "DeployConfig",
    "Duration",
    "Flavor",
    "HostKeyError",
    "Image",
    "MissingEnvError",
    "NoFlavorError",
    "NoHardwareError",
    "NoImageError",
    "NotFoundError",
    "PileusError",
    "Provider",
    "ProviderError",
    "Quota",
    "QuotaError",
    "RateLimitError",
    "RemoteError",
    "Resources",
    "SSHClient",
    "Server",
    "ServerError",
    "ServerFailedError",
    "ServerGoneError",
    "ServerTimeoutError",
    "ServerUsage",
    "SpawnError",
    "StateDamagedError",
    "StateError",
    "StateLockedError",
    "StateVersionError",
    "TearDownError",
    "TransferError",
    "UnsupportedError",
    "UsageError",
    "all_env",
    "maybe_env",
    "required_env",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF.get(name, "pileus.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
