"""Key pairs for logging in, and for servers to be known by. ed25519 throughout, in OpenSSH's formats."""

from __future__ import annotations

from dataclasses import dataclass, field

import asyncssh

from pileus.errors import ConfigError
from pileus.remote.endpoint import fingerprint

__all__ = ["KeyPair", "fingerprint", "generate", "public_line"]


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A private key and its public half.

    Attributes:
        private_pem: the private key, in OpenSSH's format, without a passphrase; a newline at its end. Not in the repr.
        public_line: `ssh-ed25519 AAAA…`, without a comment or newline, as `authorized_keys` and clouds take it.
    """

    private_pem: str = field(repr=False)
    public_line: str


def generate() -> KeyPair:
    """Make a new ed25519 key pair; takes well under a millisecond."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    pem = key.export_private_key("openssh").decode("ascii")
    return KeyPair(private_pem=pem, public_line=_line(key))


def public_line(private_pem: str) -> str:
    """The public half of a private key, of any type that SSH knows, without a comment.

    Raises:
        ConfigError: it is no private key, or has a passphrase.
    """
    try:
        return _line(asyncssh.import_private_key(private_pem))
    except asyncssh.KeyImportError as problem:  # its text never has the key in it
        raise ConfigError(f"this is not a usable private key: {problem}", setting="private_key") from None


def _line(key: asyncssh.SSHKey) -> str:
    return " ".join(key.export_public_key("openssh").decode("ascii").split()[:2])
