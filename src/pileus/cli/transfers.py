"""What `--push` and `--pull` mean: which file goes where. Looks at the local disk; touches no server."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pileus.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Push:
    """A local file or directory, and the remote path that it will have; a relative one counts from the home."""

    local: Path
    remote: str


@dataclass(frozen=True, slots=True)
class Pull:
    """A remote file or directory, and the local path that it will have."""

    remote: str
    local: Path


def read_push(text: str) -> Push:
    r"""Read `LOCAL[:REMOTE]`; a colon that belongs to a name is written `\:`.

    REMOTE is LOCAL's last part in the home by default; one that ends in a slash is the directory to put it in.

    Raises:
        ConfigError: LOCAL is empty, does not exist, or cannot be read.
    """
    local_text, remote = _split(text, "push")
    local = Path(local_text).expanduser()
    if not local.exists():
        raise ConfigError(f"--push: there is no {local_text!r} here", setting="push", hint="nothing was started")
    name = local.name or local.resolve().name
    if name in ("", ".", ".."):
        name = local.resolve().name
    if not remote:
        remote = name
    elif remote.endswith("/"):
        remote += name
    return Push(local, remote)


def read_pull(text: str, *, index: int = 0, count: int = 1, server: str = "") -> Pull:
    r"""Read `REMOTE[:LOCAL]`; a colon that belongs to a name is written `\:`.

    LOCAL is REMOTE's last part in the working directory by default; an existing directory, or one written with a slash
    at its end, is the directory to put it in. With several servers `{index}` and `{name}` in LOCAL stand for the
    server's; without either, each gets `.<index>` at its end.

    Raises:
        ConfigError: REMOTE is empty, or LOCAL's directory does not exist.
    """
    remote, local_text = _split(text, "pull")
    name = posixpath.basename(remote.rstrip("/"))
    if name in ("", ".", "..", "~"):
        if not local_text or local_text.endswith("/") or Path(local_text).expanduser().is_dir():
            raise ConfigError(f"--pull {text!r}: say what it is to be called here, as {text}:NAME", setting="pull")
        name = ""
    local = Path(_filled(local_text, index, server)).expanduser() if local_text else Path(name)
    if local_text and (local_text.endswith("/") or local.is_dir()):
        local = local / name
    if count > 1 and "{index}" not in local_text and "{name}" not in local_text:
        local = local.with_name(f"{local.name}.{index}")
    if not local.parent.is_dir():
        raise ConfigError(
            f"--pull {text!r}: there is no directory {str(local.parent)!r} to put it in",
            setting="pull",
            hint="make it first; nothing was started",
        )
    return Pull(remote, local)


def check_distinct(pulls: Sequence[Pull]) -> None:
    """Refuse two results that would land in one place.

    Raises:
        ConfigError: they would.
    """
    seen: dict[Path, str] = {}
    for pull in pulls:
        place = pull.local.absolute()
        if place in seen:
            raise ConfigError(
                f"--pull: {seen[place]!r} and {pull.remote!r} would both become {str(pull.local)!r}", setting="pull"
            )
        seen[place] = pull.remote


def _split(text: str, option: str) -> tuple[str, str]:
    """Cut at the first colon that no backslash protects."""
    first, _, second = re.sub(r"(?<!\\):", "\0", text, count=1).partition("\0")
    if not first:
        raise ConfigError(f"--{option} {text!r} names no file", setting=option)
    return first.replace("\\:", ":"), second.replace("\\:", ":")


def _filled(text: str, index: int, server: str) -> str:
    return text.replace("{index}", str(index)).replace("{name}", server)
