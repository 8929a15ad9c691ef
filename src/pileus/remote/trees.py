"""What is in a directory, here or on a server, and doing many things at once with bounds."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import asyncssh

from pileus.errors import TransferError

AT_ONCE = 16
"""Files of a tree that are moved at the same time: their round trips overlap."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a tree. `path` is relative to the tree's top, which itself is `b""`; `target` is that of a link."""

    path: bytes
    mode: int
    size: int = 0
    mtime: float = 0.0
    target: bytes = b""


@dataclass(slots=True)
class Tree:
    """A directory's content; each directory stands before what is in it."""

    directories: list[Entry] = field(default_factory=list)
    files: list[Entry] = field(default_factory=list)
    links: list[Entry] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes in all files."""
        return sum(entry.size for entry in self.files)


async def remote_tree(sftp: asyncssh.SFTPClient, top: bytes) -> Tree:
    """Read a directory on the server, likewise.

    Raises:
        TransferError: the server lists a name that would lead out of the directory.
    """
    tree = Tree()
    tree.directories.append(remote_entry(b"", await sftp.stat(top)))
    waiting = [b""]
    while waiting:
        here = waiting.pop()
        async for item in sftp.scandir(_join(top, here)):
            name = item.filename if isinstance(item.filename, bytes) else os.fsencode(item.filename)
            if name in (b".", b".."):
                continue
            path = _join(here, name)
            if b"/" in name or not name:
                raise TransferError(
                    f"the server lists a file with the name {os.fsdecode(name)!r}", path=os.fsdecode(path)
                )
            mode = item.attrs.permissions or 0
            if stat.S_ISLNK(mode):
                target = await sftp.readlink(_join(top, path))
                tree.links.append(
                    Entry(path, mode, target=target if isinstance(target, bytes) else os.fsencode(target))
                )
            elif stat.S_ISDIR(mode):
                waiting.append(path)
                tree.directories.append(remote_entry(path, item.attrs))
            elif stat.S_ISREG(mode):
                tree.files.append(remote_entry(path, item.attrs))
    return tree


def remote_entry(path: bytes, attributes: asyncssh.SFTPAttrs) -> Entry:
    """What the server says of one thing."""
    return Entry(path, attributes.permissions or 0, attributes.size or 0, float(attributes.mtime or 0))


async def together(work: Callable[[T], Awaitable[None]], items: Iterable[T], limit: int = AT_ONCE) -> None:
    """Do it for each item, so many at once. After the first error, which is raised, nothing more is begun."""
    rest = iter(items)

    async def worker() -> None:
        for item in rest:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(limit):
                group.create_task(worker())
    except ExceptionGroup as several:
        raise several.exceptions[0] from several.exceptions[0].__cause__


def _join(top: bytes, path: bytes) -> bytes:
    return top.rstrip(b"/") + b"/" + path if top and path else (top or path)
