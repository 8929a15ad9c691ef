"""This machine's side of moving files. Blocking, and by paths that are bytes: a file name need not be text.

Reading and writing what is in the files is left to asyncssh; here is the rest, all of it quick on a local disk.
"""
# pathlib knows no bytes
# ruff: noqa: PTH100, PTH101, PTH103, PTH105, PTH107, PTH110, PTH111, PTH112, PTH114, PTH115, PTH116, PTH118, PTH120, PTH123, PTH211

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from pileus.remote.trees import Entry, Tree


def source_path(source: Path | str) -> bytes:
    """A local path to read from; `~/` is the home."""
    return os.fsencode(os.path.expanduser(source))


def target_path(dest: Path | str, name: bytes) -> bytes:
    """A local path to write to; with a slash at its end, `name` in that directory."""
    local = os.fsencode(os.path.expanduser(dest))
    return os.path.join(local, name) if local.endswith(b"/") else local


def missing_directory(local: bytes) -> str:
    """The directory that a file is to be put into, if it does not exist, else an empty string."""
    directory = os.path.dirname(os.path.abspath(local))
    return "" if os.path.isdir(directory) else os.fsdecode(directory)


def exists(path: str) -> bool:
    """Whether there is something, or a link to something."""
    return os.path.exists(path)


def is_directory(path: bytes) -> bool:
    """Whether there is a directory, or a link to one."""
    return os.path.isdir(path)


def look(path: bytes) -> Entry:
    """What there is.

    Raises:
        OSError: nothing, or it may not be seen.
    """
    return _entry(b"", os.stat(path))


def read_tree(top: bytes) -> Tree:
    """Read a directory. What is neither file, directory nor link (a socket, a pipe) is left out."""
    tree = Tree()
    waiting = [b""]
    while waiting:
        here = waiting.pop()
        tree.directories.append(_entry(here, os.stat(os.path.join(top, here))))
        for item in sorted(os.scandir(os.path.join(top, here)), key=lambda item: item.name):
            path = os.path.join(here, item.name)
            found = item.stat(follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                tree.links.append(Entry(path, found.st_mode, target=os.readlink(item.path)))
            elif stat.S_ISDIR(found.st_mode):
                waiting.append(path)
            elif stat.S_ISREG(found.st_mode):
                tree.files.append(_entry(path, found))
    return tree


def make_directory(path: bytes, *, top: bool) -> bool:
    """Make a directory that may be there already. False if it is a link, which below the `top` is not followed."""
    if not top and os.path.islink(path):
        return False
    os.makedirs(path, exist_ok=True)
    return True


def write(path: bytes, data: bytes) -> None:
    """Make a small file."""
    with open(path, "wb") as file:
        file.write(data)


def put_in_place(temporary: bytes, path: bytes) -> None:
    """Give a file its name."""
    os.replace(temporary, path)


def make_link(target: bytes, temporary: bytes) -> None:
    """Make a symbolic link."""
    os.symlink(target, temporary)


def set_attributes(path: bytes, entry: Entry) -> None:
    """Give a file or directory its mode and modification time."""
    os.chmod(path, stat.S_IMODE(entry.mode) & 0o777)
    os.utime(path, (entry.mtime, entry.mtime))


def remove(path: bytes) -> None:
    """Remove a file that may be there."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def _entry(path: bytes, found: os.stat_result) -> Entry:
    return Entry(path, found.st_mode, found.st_size, found.st_mtime)
