"""What OpenSSH and Ansible read: a configuration, the known hosts, an inventory. Pure text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pileus.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Target:
    """One server as an SSH client needs to know it.

    Attributes:
        name: the host's name in the configuration.
        id: the alias under which its key stands in the known hosts, so that an address that is used again
            confuses nobody.
        host_keys: OpenSSH public lines; at least one.
    """

    name: str
    id: str
    host: str
    port: int
    user: str
    host_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Files:
    """Where the private key and the known hosts are."""

    key: Path
    known_hosts: Path


def side_files(state: Path) -> tuple[Path, Path]:
    """Where the known hosts and our own configuration are kept: beside the state."""
    return state.with_name(state.name + ".known_hosts"), state.with_name(state.name + ".ssh_config")


def known_hosts(targets: Sequence[Target]) -> str:
    """The lines of a known-hosts file."""
    return "".join(f"{target.id} {_type_and_key(line)}\n" for target in targets for line in target.host_keys)


def config(targets: Sequence[Target], files: Files) -> str:
    """A configuration with one host for each target.

    Raises:
        ConfigError: a path has a character that OpenSSH cannot be told.
    """
    blocks = ["# Made by `pileus ssh-config`; servers come and go, so make it anew rather than edit it.\n"]
    for target in targets:
        lines = [
            f"Host {target.name}",
            f"HostName {target.host}",
            f"Port {target.port}",
            f"User {quoted(target.user)}",
            *(f"{key} {value}" for key, value in _options(target, files)),
            "IdentityAgent none",
            "PasswordAuthentication no",
        ]
        blocks.append("\n    ".join(lines) + "\n")
    return "\n".join(blocks)


def inventory(targets: Sequence[Target], files: Files, resource_name: str) -> dict[str, Any]:
    """Ansible's inventory: the group `pileus`, in it the deployment's own, and the hosts' variables in `_meta`."""
    own = "pileus_" + re.sub(r"\W", "_", resource_name, flags=re.ASCII)
    names = [target.name for target in targets]
    return {
        "_meta": {"hostvars": {target.name: host_variables(target, files) for target in targets}},
        "all": {"children": ["pileus"]},
        "pileus": {"children": [own]},
        own: {"hosts": names},
    }


def host_variables(target: Target, files: Files) -> dict[str, Any]:
    """What Ansible must know to reach one host; the key is verified as everywhere."""
    options = [f"{key}={value}" for key, value in _options(target, files) if key != "IdentityFile"]
    arguments = [argument for option in options for argument in ("-o", option)]
    return {
        "ansible_host": target.host,
        "ansible_port": target.port,
        "ansible_user": target.user,
        # Ansible hands it to OpenSSH in quotes, and there a percent sign begins a token.
        "ansible_ssh_private_key_file": str(files.key).replace("%", "%%"),
        "ansible_ssh_common_args": shlex.join(arguments),
        "pileus_id": target.id,
    }


def quoted(value: str | Path) -> str:
    """Write a value so that OpenSSH reads it as one word, and as it is: `%` begins a token for it, `"` ends a word.

    Raises:
        ConfigError: it holds a line's end or `${`, for which ssh_config(5) knows no escape.
    """
    text = str(value)
    if re.search(r"[\n\r\0]|\$\{", text):
        raise ConfigError(
            f"OpenSSH cannot be told of {text!r}", setting="save_path", hint="keep the state under a plainer path"
        )
    text = text.replace("%", "%%")
    if re.search(r"[\s\"'\\#=]", text):
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text


def _options(target: Target, files: Files) -> list[tuple[str, str]]:
    types = dict.fromkeys(_type_and_key(line).split()[0] for line in target.host_keys)
    return [
        ("IdentityFile", quoted(files.key)),
        ("IdentitiesOnly", "yes"),
        ("UserKnownHostsFile", quoted(files.known_hosts)),
        ("GlobalKnownHostsFile", "/dev/null"),
        ("HostKeyAlias", target.id),
        ("StrictHostKeyChecking", "yes"),
        ("HostKeyAlgorithms", ",".join(types)),
    ]


def _type_and_key(line: str) -> str:
    """A public line without its comment."""
    return " ".join(line.split()[:2])
