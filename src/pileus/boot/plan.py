"""What is to be booted, and the paths that this touches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pileus.errors import ConfigError
from pileus.models import BootTarget


@dataclass(frozen=True, slots=True)
class Paths:
    """The paths on a server that Pileus uses; all stand below the target's root.

    Raises:
        ConfigError: the root is not an absolute path without a slash at its end.
    """

    target: BootTarget

    def __post_init__(self) -> None:
        root = self.target.root
        if root and (not root.startswith("/") or root.endswith("/") or "\0" in root):
            raise ConfigError(
                f"the root of a boot target must be an absolute path without a slash at its end, not {root!r}",
                setting="root",
            )

    @property
    def run(self) -> str:
        """The directory of everything below that does not outlive a reboot; anybody may read it."""
        return f"{self.target.root}/run/pileus"

    @property
    def ready(self) -> str:
        """The sentinel: it exists once the boot script is through, with success."""
        return f"{self.run}/ready"

    @property
    def failed(self) -> str:
        """Why the boot script failed: a line `step: reason` for each step that did."""
        return f"{self.run}/failed"

    @property
    def lease(self) -> str:
        """The uptime second at which the lease ends; the login user may write it."""
        return f"{self.run}/lease"

    @property
    def switched(self) -> str:
        """Exists once a host key that was made on the server is in force."""
        return f"{self.run}/host-key-switched"

    @property
    def watchdog(self) -> str:
        """The script that watches the lease."""
        return f"{self.target.root}/var/lib/pileus/watchdog"

    @property
    def per_boot(self) -> str:
        """Where cloud-init looks for scripts to run at every boot."""
        return f"{self.target.root}/var/lib/cloud/scripts/per-boot"

    @property
    def host_key(self) -> str:
        """The private host key in force; `.pub` is its public half."""
        return f"{self.target.root}/etc/ssh/ssh_host_ed25519_key"

    @property
    def next_host_key(self) -> str:
        """The private host key that is kept aside. Beside the other, so that moving it is a rename."""
        return f"{self.host_key}.pileus-next"

    def home(self, user_name: str) -> str:
        """The login user's home in a tree; a real machine's own is looked up there."""
        return f"{self.target.root}/home/{user_name}"


@dataclass(frozen=True, slots=True)
class BootPlan:
    """Everything that the user-data of one server depends on.

    Attributes:
        host_name: the server's name.
        user_name: who logs in; on a real machine the user must exist there.
        authorized_key: our public key, one OpenSSH line.
        host_private_key: the host key that we know, in OpenSSH's PEM format. A secret.
        host_public_key: its public half, one OpenSSH line.
        lease_s: seconds without a renewal after which the server ends itself; 0 arms no lease.

    Raises:
        ConfigError: a field would break the files that it is written to, or a tree has a lease but no `power_off`.
    """

    target: BootTarget
    host_name: str
    user_name: str
    authorized_key: str
    host_private_key: str = field(repr=False)
    host_public_key: str
    lease_s: float = 0.0

    def __post_init__(self) -> None:
        Paths(self.target)
        if self.user_name in ("", ".", "..") or any(bad in self.user_name for bad in "/:\n\0"):
            raise ConfigError(f"{self.user_name!r} cannot be the name of a user on a server", setting="os_user")
        for setting in ("host_name", "authorized_key", "host_public_key"):
            text = getattr(self, setting)
            if not text.strip() or any(bad in text.strip() for bad in "\n\r\0"):
                raise ConfigError(f"{setting} must be one line of text, not {text!r}", setting=setting)
        if "\0" in self.host_private_key or not self.host_private_key.strip():
            raise ConfigError("host_private_key must be a key in PEM format", setting="host_private_key")
        whole_seconds(self.lease_s)
        if self.lease_s and self.target.root and not self.target.power_off:
            raise ConfigError("a target in a tree needs its own power_off to have a lease", setting="power_off")


def whole_seconds(lease_s: float) -> int:
    """Give a lease in whole seconds, rounded up.

    Raises:
        ConfigError: it is negative, not finite, or longer than a century.
    """
    if not 0 <= lease_s <= 100 * 366 * 86400:
        raise ConfigError(f"lease_s must be a number of seconds, 0 or more, not {lease_s!r}", setting="lease_s")
    return math.ceil(lease_s)
