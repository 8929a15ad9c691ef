"""The one set of SSH options, tuned, and the check of host keys.

Everything that could come from this machine's user is off: the agent, `~/.ssh/config`, `known_hosts` files, default keys,
passwords, GSS. asyncssh makes a copy of the options for each connection; what is dear in them, the parsed key, is shared.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache

import asyncssh

from pileus.errors import ConfigError
from pileus.remote.endpoint import Endpoint, fingerprint

WINDOW = 2 * 1024 * 1024
"""Bytes that a command may have sent and we not yet taken: also the most that a slow consumer's output takes of memory."""

PACKET = 256 * 1024
"""With the packet size and window of SFTP's own channel this tripled downloads at 20 ms round trip; on loopback it is nothing."""

# Those with a key known come first, so that a server with several keys shows one we know; then the rest, so that an
# impostor's key of another kind is seen, and shown in the error, instead of "no common algorithm".
_ALL_KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
_ALGORITHMS_OF = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}


_log = logging.getLogger("asyncssh")
if _log.level == logging.NOTSET:
    # At INFO it writes down every command line, and what users pass as environment is in those.
    _log.setLevel(logging.WARNING)


class Gatekeeper(asyncssh.SSHClient):
    """Lets in only a server that shows one of the endpoint's keys; notes what it showed.

    asyncssh asks it before anything is sent that the other end could use: no user name, no signature, no command.
    """

    def __init__(self, trusted: frozenset[bytes], on_lost: Callable[[], None]) -> None:
        self._trusted = trusted
        self._on_lost = on_lost
        self._connection: asyncssh.SSHClientConnection | None = None
        self.presented = ""
        self.server_version = ""

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """Keep the connection, to ask it for the server's version."""
        self._connection = conn

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the pool."""
        self._connection = None
        self._on_lost()

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Whether the key is one of those that we know."""
        if self._connection is not None:
            version = self._connection.get_extra_info("server_version", "")
            self.server_version = version.decode(errors="replace") if isinstance(version, bytes) else str(version)
        self.presented = fingerprint(key.public_data)
        return key.public_data in self._trusted

    def public_key_auth_requested(self) -> None:
        """Have no other key than the options' own."""

    def password_auth_requested(self) -> None:
        """Have no password."""

    def kbdint_auth_requested(self) -> None:
        """Answer no questions."""


def options_for(
    endpoint: Endpoint, *, keepalive_interval: float, keepalive_count: int
) -> asyncssh.SSHClientConnectionOptions:
    """The options for one endpoint's connections; the same object for all endpoints that differ in address only.

    Raises:
        ConfigError: the private key cannot be used.
    """
    return _options(
        endpoint.private_key, endpoint.user_name, endpoint.host_key_types, keepalive_interval, keepalive_count
    )


@lru_cache(maxsize=64)
def _options(
    private_key: str, user_name: str, host_key_types: tuple[str, ...], interval: float, count: int
) -> asyncssh.SSHClientConnectionOptions:
    try:
        key = asyncssh.import_private_key(private_key)
    except asyncssh.KeyImportError as problem:  # its text never has the key in it
        raise ConfigError(f"this is not a usable private key: {problem}", setting="private_key") from None
    known = [algorithm for name in host_key_types for algorithm in _ALGORITHMS_OF.get(name, (name,))]
    return asyncssh.SSHClientConnectionOptions(
        config=None,
        username=user_name,
        client_keys=[key],
        agent_path=None,
        # Not None, which would let everybody in: nobody is known here, so that the gatekeeper is always asked.
        known_hosts=([], [], []),
        server_host_key_algs=list(dict.fromkeys([*known, *_ALL_KEY_TYPES])),
        preferred_auth="publickey",
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_host=None,
        gss_kex=False,
        gss_auth=False,
        compression_algs=["none"],
        kex_algs=["curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384"],
        encryption_algs=[
            "aes128-gcm@openssh.com",
            "aes256-gcm@openssh.com",
            "chacha20-poly1305@openssh.com",
            "aes128-ctr",
            "aes256-ctr",
        ],
        keepalive_interval=interval,
        keepalive_count_max=count,
        window=8 * WINDOW,  # for SFTP; commands ask for less
        max_pktsize=PACKET,
        encoding=None,
    )
