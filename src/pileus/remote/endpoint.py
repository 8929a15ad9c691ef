"""Where a server is, who logs in, and by which host keys it is known. Pure, and light to import."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from pileus.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server's SSH, as seen from here.

    Attributes:
        host: an address or a name.
        user_name: who logs in.
        private_key: the private key to log in with, as text; not in the repr.
        host_keys: OpenSSH public lines (`type base64 [comment]`). Any of them is accepted, never anything else; with none,
            no server is.
        name: what messages call the server.
        jump: a server to go through, or None to connect directly. Each hop's key is verified.

    Raises:
        ConfigError: a host key is no public line, or the port no port.
    """

    host: str
    port: int
    user_name: str
    private_key: str = field(repr=False)
    host_keys: tuple[str, ...]
    name: str
    jump: Endpoint | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "host_keys", tuple(self.host_keys))
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"{self.port!r} is not a port (1 to 65535)", setting="port")
        for line in self.host_keys:
            key_data(line)

    @property
    def address(self) -> str:
        """`host:port`, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def label(self) -> str:
        """The name and the address, for messages."""
        return f"{self.name} ({self.user_name}@{self.address})"

    @property
    def trusted(self) -> frozenset[bytes]:
        """The host keys as they look on the wire."""
        return frozenset(key_data(line) for line in self.host_keys)

    @property
    def host_key_types(self) -> tuple[str, ...]:
        """The types of the host keys, each once, in their order."""
        return tuple(dict.fromkeys(line.split()[0] for line in self.host_keys))


def key_data(public_line: str) -> bytes:
    """The key in an OpenSSH public line, as it looks on the wire.

    Raises:
        ConfigError: it is no such line.
    """
    parts = public_line.split()
    try:
        data = base64.b64decode(parts[1], validate=True)
        if data[4 : 4 + int.from_bytes(data[:4], "big")] == parts[0].encode():
            return data
    except (IndexError, binascii.Error):
        pass
    raise ConfigError(
        f"{public_line!r} is not a public key", setting="host_keys", hint="give a line like 'ssh-ed25519 AAAA…'"
    )


def fingerprint(key: str | bytes) -> str:
    """`SHA256:…` as ssh shows it, of a public line or of a key as it looks on the wire."""
    data = key_data(key) if isinstance(key, str) else key
    return "SHA256:" + base64.b64encode(hashlib.sha256(data).digest()).decode("ascii").rstrip("=")


def fingerprints(public_lines: Sequence[str]) -> str:
    """All the fingerprints, for a message."""
    return ", ".join(fingerprint(line) for line in public_lines) or "none"
