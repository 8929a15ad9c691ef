"""The small steps of moving files: remote paths, and single requests to the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import secrets
import stat
from collections.abc import Awaitable
from typing import cast

import asyncssh

from pileus.remote.trees import Entry

CLEANING_S = 5.0


def remote_path(path: str) -> bytes:
    """A remote path as SFTP gets it."""
    if path in ("~", "~/", ""):
        return b"."
    return os.fsencode(path.removeprefix("~/").lstrip("/") if path.startswith("~/") else path)


def into(dest: str, source: bytes) -> bytes:
    """A remote path to write to; with a slash at its end, the source's name in that directory."""
    target = remote_path(dest)
    return join(target, posixpath.basename(source.rstrip(b"/"))) if dest.endswith("/") else target


def join(top: bytes, path: bytes) -> bytes:
    """A path below another, or that other."""
    return posixpath.join(top, path) if path else top


def temporary_name(path: bytes) -> bytes:
    """A name beside `path`, short, since the name itself may be as long as names can be."""
    return posixpath.join(posixpath.dirname(path), f".pileus-{secrets.token_hex(6)}".encode())


async def read_to_the_end(file: asyncssh.SFTPClientFile) -> bytes:
    """All that is in a file, whatever size it claims."""
    data = bytearray()
    while piece := await file.read(64 * 1024, len(data)):
        data += cast(bytes, piece)
    return bytes(data)


async def lstat(sftp: asyncssh.SFTPClient, path: bytes) -> asyncssh.SFTPAttrs | None:
    """What there is, a link not followed; None for nothing."""
    try:
        return await sftp.lstat(path)
    except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
        return None


async def set_attributes(sftp: asyncssh.SFTPClient, path: bytes, entry: Entry) -> None:
    """Give a file or directory its mode and modification time."""
    seconds = int(entry.mtime)
    await sftp.setstat(
        path, asyncssh.SFTPAttrs(permissions=stat.S_IMODE(entry.mode) & 0o777, atime=seconds, mtime=seconds)
    )


async def first_that_is_no_directory(sftp: asyncssh.SFTPClient, path: bytes) -> bytes:
    """The part of a path that something else than a directory is in the way of, or nothing."""
    parts = path.split(b"/")
    for count in range(1, len(parts) + 1):
        here = b"/".join(parts[:count]) or b"/"
        if await sftp.exists(here) and not await sftp.isdir(here):
            return here
    return b""


async def cleaned(cleaning: Awaitable[None]) -> None:
    """Clean up as well as can be, also when we are being cancelled, but not for ever."""

    async def clean() -> None:
        with contextlib.suppress(asyncssh.Error, OSError):
            await cleaning

    await asyncio.wait({asyncio.get_running_loop().create_task(clean())}, timeout=CLEANING_S)
