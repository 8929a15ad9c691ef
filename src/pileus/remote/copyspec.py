"""The form in which `copy_over` takes its files. Pure."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from pathlib import Path

from pileus.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Copy:
    """One file or directory to copy: a local path, and a remote one that is absolute or begins with `~/`."""

    local: str
    remote: str


def parse(files: str) -> list[Copy]:
    r"""Read a list like `~/.s3cfg,/etc/hosts,data.csv:/tmp/d.csv`; a backslash before `,`, `:` or `\` makes it part of a name.

    Raises:
        ConfigError: a local path has no remote counterpart (it leads out of its directory, or is another user's home), or
            there is more than one colon.
    """
    copies = []
    for entry in _split(files, ","):
        if not entry.strip():
            continue
        parts = [_plain(part) for part in _split(entry.strip(), ":")]
        if len(parts) > 2 or not all(parts):
            raise ConfigError(
                f"{entry.strip()!r} is not of the form local or local:remote",
                setting="files",
                hint="put a backslash before a comma or colon that belongs to a name",
            )
        local = parts[0]
        copies.append(Copy(local=_local(local), remote=parts[1] if len(parts) == 2 else _counterpart(local)))
    return copies


def _counterpart(local: str) -> str:
    normal = posixpath.normpath(local)
    if local.startswith("/") or local == "~" or local.startswith("~/"):
        return local
    if normal == ".." or normal.startswith("../") or local.startswith("~"):
        raise ConfigError(
            f"{local!r}: it is not clear where this belongs on the server", setting="files", hint="write local:remote"
        )
    return normal


def _local(path: str) -> str:
    return str(Path(path).expanduser()) if path.startswith("~") else path


def _split(text: str, separator: str) -> list[str]:
    parts = [""]
    escaped = False
    for character in text:
        if character == separator and not escaped:
            parts.append("")
            continue
        parts[-1] += character
        escaped = character == "\\" and not escaped
    return parts


def _plain(text: str) -> str:
    plain = ""
    escaped = False
    for character in text:
        if not escaped and character == "\\":
            escaped = True
            continue
        if escaped and character not in ",:\\":
            plain += "\\"
        plain += character
        escaped = False
    return plain + ("\\" if escaped else "")
