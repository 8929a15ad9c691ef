"""Files of one server, over SFTP.

Every file is written under a temporary name in its directory, gets its mode and time, and is then renamed; nobody sees half
of one. Paths are bytes inside, since a file name need not be UTF-8. A relative path is relative to the home directory, which
is where SFTP begins; so `~/` is just taken away.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import re
import shlex
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta, timezone
from pathlib import Path

import asyncssh

from pileus.errors import ConnectError, RemoteError, TransferError, UnsupportedError
from pileus.models import CommandResult
from pileus.remote import commands, local_files, steps
from pileus.remote.connections import Pool
from pileus.remote.copyspec import parse
from pileus.remote.reasons import connection_was_lost, explain, says_nothing
from pileus.remote.trees import Entry, Tree, remote_entry, remote_tree, together

Progress = Callable[[int, int], None]
"""Is told the bytes done and the bytes in total."""


class _Meter:
    """Adds up the progress of several files."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done: dict[bytes, int] = {}

    def __call__(self, source: bytes | str, _dest: bytes | str, done: int, _size: int) -> None:
        if self._progress is not None:
            self._done[os.fsencode(source)] = done
            self._progress(sum(self._done.values()), self._total)


class Files:
    """The file operations of a `Remote`; described there."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._home = ""

    # --- upwards ---

    async def upload(self, source: Path | str, dest: str, *, progress: Progress | None = None) -> None:
        """See `Remote.upload_file`."""
        local = local_files.source_path(source)
        target = steps.into(dest, local)
        async with self._sftp(f"cannot upload {os.fsdecode(local)!r} to {dest!r} on {self._pool.name}", dest) as sftp:
            entry = local_files.look(local)
            if stat.S_ISDIR(entry.mode):
                tree = await asyncio.to_thread(local_files.read_tree, local)
                await self._upload_tree(sftp, local, target, tree, _Meter(progress, tree.size))
            elif stat.S_ISREG(entry.mode):
                await self._upload_file(sftp, local, target, entry, _Meter(progress, entry.size))
            else:
                raise self._error(f"{os.fsdecode(local)!r} is neither a file nor a directory", os.fsdecode(local))

    async def _upload_file(
        self, sftp: asyncssh.SFTPClient, local: bytes, target: bytes, entry: Entry, meter: _Meter
    ) -> None:
        async def write(temporary: bytes) -> None:
            await sftp.put(local, temporary, sparse=False, progress_handler=meter)
            await asyncio.gather(
                steps.set_attributes(sftp, temporary, entry), self._check_size(sftp, temporary, entry.size)
            )

        await self._replace(sftp, target, write)

    async def _upload_tree(
        self, sftp: asyncssh.SFTPClient, top: bytes, target: bytes, tree: Tree, meter: _Meter
    ) -> None:
        for directory in tree.directories:
            await self._make_directory(sftp, steps.join(target, directory.path))

        async def upload(entry: Entry) -> None:
            await self._upload_file(sftp, steps.join(top, entry.path), steps.join(target, entry.path), entry, meter)

        async def link(entry: Entry) -> None:
            temporary = steps.temporary_name(steps.join(target, entry.path))
            await sftp.symlink(entry.target, temporary)
            await self._put_in_place(sftp, temporary, steps.join(target, entry.path))

        await together(upload, tree.files)
        await together(link, tree.links)
        # last, and from the bottom up: a directory may be one that its owner cannot write to, and writing changes its time
        for directory in reversed(tree.directories):
            await steps.set_attributes(sftp, steps.join(target, directory.path), directory)

    async def create(self, content: str | bytes, dest: str, *, mode: int | None = None) -> None:
        """See `Remote.create_file`."""
        data = content.encode() if isinstance(content, str) else content
        async with self._sftp(f"cannot create {dest!r} on {self._pool.name}", dest) as sftp:

            async def write(temporary: bytes) -> None:
                async with sftp.open(temporary, "wb") as file:
                    await file.write(data)
                if mode is not None:
                    await sftp.chmod(temporary, mode)
                await self._check_size(sftp, temporary, len(data))

            await self._replace(sftp, steps.remote_path(dest), write, keep_mode=mode is None)

    async def _replace(
        self,
        sftp: asyncssh.SFTPClient,
        target: bytes,
        write: Callable[[bytes], Awaitable[None]],
        *,
        keep_mode: bool = False,
    ) -> None:
        """Have a file written under a temporary name and put it in place; making its directory only if that is missing."""
        found = await steps.lstat(sftp, target)
        if found is not None and stat.S_ISLNK(found.permissions or 0):
            # what the link leads to is replaced, not the link
            resolved = await sftp.realpath(target)
            target = resolved if isinstance(resolved, bytes) else os.fsencode(resolved)
            found = await steps.lstat(sftp, target)
        if found is not None and not stat.S_ISREG(found.permissions or 0):
            kind = "is a directory" if stat.S_ISDIR(found.permissions or 0) else "is not a regular file"
            raise self._error(f"{os.fsdecode(target)!r} on {self._pool.name} {kind}", os.fsdecode(target))
        temporary = steps.temporary_name(target)
        try:
            try:
                await write(temporary)
            except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
                await self._make_directory(sftp, posixpath.dirname(temporary))
                await write(temporary)
            if keep_mode and found is not None:
                await sftp.chmod(temporary, stat.S_IMODE(found.permissions or 0o644))
            await self._put_in_place(sftp, temporary, target)
        except BaseException as problem:
            reason = ""
            if says_nothing(problem):  # while what we wrote still fills the disk
                reason = await self._look_for_reason(sftp, posixpath.dirname(temporary))
            await steps.cleaned(sftp.remove(temporary))
            if reason:
                raise self._error(
                    f"cannot write {os.fsdecode(target)!r} on {self._pool.name}: {reason}", target
                ) from problem
            raise

    async def _put_in_place(self, sftp: asyncssh.SFTPClient, temporary: bytes, target: bytes) -> None:
        try:
            await sftp.posix_rename(temporary, target)
        except asyncssh.SFTPOpUnsupported:  # not sshd; the plain rename refuses to replace
            with contextlib.suppress(asyncssh.SFTPNoSuchFile):
                await sftp.remove(target)
            await sftp.rename(temporary, target)

    async def _check_size(self, sftp: asyncssh.SFTPClient, temporary: bytes, expected: int) -> None:
        # asyncssh's own server, unlike sshd, does not tell when a full disk took less than it was given
        size = (await sftp.stat(temporary)).size
        if size != expected:
            raise asyncssh.SFTPFailure(f"{size} bytes of {expected} were written")

    async def _look_for_reason(self, sftp: asyncssh.SFTPClient, directory: bytes) -> str:
        with contextlib.suppress(asyncssh.Error, OSError):
            space = await sftp.statvfs(directory or b".")
            if not space.bavail:
                return "no space left on the server's disk"
            if not space.favail and space.files:
                return "no room for more files on the server's disk"
        return ""

    # --- downwards ---

    async def download(self, source: str, dest: Path | str, *, progress: Progress | None = None) -> None:
        """See `Remote.download_file`."""
        origin = steps.remote_path(source)
        local = local_files.target_path(dest, posixpath.basename(origin.rstrip(b"/")))
        missing = local_files.missing_directory(local)
        if missing:
            raise self._error(f"the local directory {missing!r} does not exist", local)
        what = f"cannot download {source!r} from {self._pool.name} to {os.fsdecode(local)!r}"
        async with self._sftp(what, source) as sftp:
            entry = remote_entry(b"", await sftp.stat(origin))
            if stat.S_ISDIR(entry.mode):
                tree = await remote_tree(sftp, origin)
                await self._download_tree(sftp, origin, local, tree, _Meter(progress, tree.size))
            elif stat.S_ISREG(entry.mode):
                if local_files.is_directory(local):
                    raise self._error(f"{os.fsdecode(local)!r} is a directory", os.fsdecode(local))
                await self._download_file(sftp, origin, local, entry, _Meter(progress, entry.size))
            else:
                raise self._error(f"{source!r} on {self._pool.name} is neither a file nor a directory", source)

    async def _download_file(
        self, sftp: asyncssh.SFTPClient, origin: bytes, local: bytes, entry: Entry, meter: _Meter
    ) -> None:
        temporary = steps.temporary_name(local)
        try:
            if entry.size:
                await sftp.get(origin, temporary, sparse=False, progress_handler=meter)
            else:  # empty, or one of those (in /proc) whose size is not known before they are read
                async with sftp.open(origin, "rb") as file:
                    local_files.write(temporary, await steps.read_to_the_end(file))
            local_files.set_attributes(temporary, entry)
            local_files.put_in_place(temporary, local)
        except BaseException:
            local_files.remove(temporary)
            raise

    async def _download_tree(
        self, sftp: asyncssh.SFTPClient, origin: bytes, top: bytes, tree: Tree, meter: _Meter
    ) -> None:
        for directory in tree.directories:
            path = steps.join(top, directory.path)
            # a server that lists a name both as link and as directory must not lead us elsewhere
            if not local_files.make_directory(path, top=not directory.path):
                raise self._error(f"{os.fsdecode(path)!r} is a symbolic link here", path)

        async def download(entry: Entry) -> None:
            await self._download_file(sftp, steps.join(origin, entry.path), steps.join(top, entry.path), entry, meter)

        await together(download, tree.files)
        for link in tree.links:
            temporary = steps.temporary_name(steps.join(top, link.path))
            local_files.make_link(link.target, temporary)
            local_files.put_in_place(temporary, steps.join(top, link.path))
        for directory in reversed(tree.directories):
            local_files.set_attributes(steps.join(top, directory.path), directory)

    # --- directories ---

    async def mkdir(self, dir: str) -> None:
        """See `Remote.mkdir`."""
        async with self._sftp(f"cannot make the directory {dir!r} on {self._pool.name}", dir) as sftp:
            await self._make_directory(sftp, steps.remote_path(dir))

    async def _make_directory(self, sftp: asyncssh.SFTPClient, path: bytes) -> None:
        try:
            await self._make_plainly(sftp, path)
        except asyncssh.SFTPPermissionDenied:
            await self._make_as_root(path)

    async def _make_plainly(self, sftp: asyncssh.SFTPClient, path: bytes) -> None:
        path = path.rstrip(b"/") or b"/"
        try:
            await sftp.mkdir(path)
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
            parent = posixpath.dirname(path)
            if not parent or parent == path:
                raise
            await self._make_plainly(sftp, parent)
            await self._make_plainly(sftp, path)
        except asyncssh.SFTPError as problem:
            # it exists, or something is in its way; which of them, the answer does not tell
            if connection_was_lost(problem) or await sftp.isdir(path):
                if connection_was_lost(problem):
                    raise
                return
            in_the_way = await steps.first_that_is_no_directory(sftp, path)
            if in_the_way:
                name = os.fsdecode(in_the_way)
                raise self._error(f"{name!r} on {self._pool.name} is not a directory", name) from problem
            raise

    async def _make_as_root(self, path: bytes) -> None:
        name = shlex.quote(os.fsdecode(path))
        if not (await self._run("command -v sudo >/dev/null && sudo -n true")).ok:
            raise UnsupportedError(
                f"root is needed to make the directory {os.fsdecode(path)!r} on {self._pool.name}, and sudo is not available",
                hint="choose a directory below the home directory",
            )
        made = await self._run(f'sudo -n mkdir -p -- {name} && sudo -n chown "$(id -u):$(id -g)" -- {name}')
        if not made.ok:
            why = commands.tail(made.stderr)
            raise self._error(
                f"cannot make the directory {os.fsdecode(path)!r} on {self._pool.name}{why}", os.fsdecode(path)
            )

    # --- what else there is ---

    async def copy_over(self, files: str) -> None:
        """See `Remote.copy_over`."""
        copies = [copy for copy in parse(files) if local_files.exists(copy.local)]

        async def copy_one(index: int) -> None:
            await self.upload(copies[index].local, copies[index].remote)

        await together(copy_one, range(len(copies)))

    async def home_dir(self) -> str:
        """See `Remote.home_dir`."""
        if not self._home:
            async with self._sftp(f"cannot tell the home directory on {self._pool.name}", "~") as sftp:
                home = await sftp.realpath(b".")
                self._home = os.fsdecode(home)
        return self._home

    async def time_zone(self) -> timezone:
        """See `Remote.time_zone`."""
        answer = (await self._run("date +%z", check=True)).stdout.strip()
        found = re.fullmatch(r"([+-])(\d\d):?(\d\d)", answer)
        if found is None:
            raise RemoteError(
                f"{self._pool.name} does not tell its time zone: date says {answer!r}", host=self._pool.host
            )
        offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
        return timezone(offset if found[1] == "+" else -offset, "SER")

    async def _run(self, command: str, *, check: bool = False) -> CommandResult:
        return await commands.run(
            self._pool,
            command,
            check=check,
            timeout=60.0,
            stdin=None,
            env=None,
            on_stdout=None,
            on_stderr=None,
            forward_stdin=None,
        )

    def _error(self, message: str, path: str | bytes) -> TransferError:
        return TransferError(message, path=os.fsdecode(path), host=self._pool.host)

    @contextlib.asynccontextmanager
    async def _sftp(self, what: str, path: str) -> AsyncIterator[asyncssh.SFTPClient]:
        """The SFTP client, and our errors for its own."""
        try:
            link, sftp = await self._pool.sftp()
        except (asyncssh.Error, OSError) as problem:
            raise ConnectError(f"{what}: no SFTP: {problem}", host=self._pool.host) from problem
        try:
            yield sftp
        except (asyncssh.Error, OSError) as problem:
            if connection_was_lost(problem):
                link.sftp = None
                raise ConnectError(f"{what}: the connection was lost", host=self._pool.host) from problem
            raise self._error(f"{what}: {explain(problem)}", path) from problem
