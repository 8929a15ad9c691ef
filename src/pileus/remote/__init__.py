"""One server's SSH: keys, connections, commands, files. Knows nothing of providers or state.

`Remote` is what the core uses. Importing this package stays light: asyncssh is loaded with the first name that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pileus.remote.endpoint import Endpoint
    from pileus.remote.keys import KeyPair
    from pileus.remote.remote import Remote

__all__ = ["Endpoint", "KeyPair", "Remote"]

_HOMES = {
    "Endpoint": "pileus.remote.endpoint",
    "KeyPair": "pileus.remote.keys",
    "Remote": "pileus.remote.remote",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
