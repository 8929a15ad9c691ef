"""The same API for code that is not async: `Provider` and `Server` block until the work is done.

They are a thin layer: `AsyncProvider` and `AsyncServer` do the work, on one event loop in one daemon thread that all Providers of
the process share (`portal`). Arguments, results and errors are those of the async form.
"""

from pileus.blocking.provider import Provider
from pileus.blocking.server import Server
from pileus.blocking.ssh import SSHClient

__all__ = ["Provider", "SSHClient", "Server"]
