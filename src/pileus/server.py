"""`AsyncServer`: one machine. What it is, what is left of its room, what runs on it, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import html
import logging
import os as _os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timezone
from typing import TYPE_CHECKING

from pileus.core.link import Link
from pileus.core.naming import public
from pileus.errors import (
    CommandError,
    ConfigError,
    ConnectError,
    PileusError,
    ServerFailedError,
    ServerGoneError,
    UnsupportedError,
)
from pileus.models import CommandResult, Duration, Flavor, seconds
from pileus.policy import space
from pileus.state import ServerRow, nano_cores

if TYPE_CHECKING:
    import asyncssh

    from pileus.provider import AsyncProvider

log = logging.getLogger("pileus.server")

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all while a file is moved."""

SCRIPT = "~/.pileus/post-creation-script"
READY_WITHIN_S = 1200.0


class AsyncServer:
    """A server that `AsyncProvider.spawn` made, in this process or another.

    Attributes are those of the source document's record, as last known; they are read without I/O. Methods that run something on the
    server connect when needed, verify its host key from the first connection, and count as use: while one runs, the server is not idle.
    """

    def __init__(self, provider: AsyncProvider, row: ServerRow) -> None:
        self._provider = provider
        self._row = row
        self._destroyed = row.status == "destroyed"
        self._link = Link(provider._core, lambda: self._row, self._take)

    # --- what it is ---

    @property
    def provider(self) -> AsyncProvider:
        """The deployment that it belongs to."""
        return self._provider

    @property
    def id(self) -> str:
        """The cloud's identifier."""
        return self._row.id

    @property
    def name(self) -> str:
        """Its name, which is also its host name."""
        return self._row.name

    @property
    def ip(self) -> str:
        """The address at which SSH is reached."""
        return self._row.ip

    @property
    def ssh_port(self) -> int:
        """The port of SSH at that address."""
        return self._row.ssh_port

    @property
    def user_name(self) -> str:
        """Who logs in."""
        return self._row.user_name

    @property
    def admin_pass(self) -> str:
        """The administrator's password, where the cloud gave one; otherwise an empty string."""
        return self._row.admin_pass

    @property
    def os(self) -> str:
        """The image, as it was asked for."""
        return self._row.os

    @property
    def flavor(self) -> Flavor:
        """Its flavor, as it was when the server was spawned."""
        return Flavor(**self._row.flavor)

    @property
    def disk(self) -> int:
        """GB of its disk."""
        return self._row.disk_gb

    @property
    def ttd(self) -> float:
        """Seconds of idleness after which it is destroyed; 0 for never."""
        return self._row.ttd_s

    @property
    def external(self) -> bool:
        """Whether it was spawned with an external address."""
        return self._row.external

    @property
    def is_head_node(self) -> bool:
        """Whether it is the deployment's first server with an external address."""
        return self._row.is_head_node

    @property
    def script(self) -> bytes:
        """The script that `wait_until_ready` ran."""
        return self._row.script

    @property
    def config_files(self) -> str:
        """The files that `wait_until_ready` copied, in the form that `copy_over` takes."""
        return self._row.config_files

    @property
    def created(self) -> datetime:
        """When it was asked for, in UTC."""
        return datetime.fromtimestamp(self._row.created, UTC)

    @property
    def host_keys(self) -> tuple[str, ...]:
        """The public host keys that are trusted, as OpenSSH writes them."""
        return self._row.host_keys

    @property
    def destroyed(self) -> bool:
        """Whether it was destroyed, by a call or for being idle. Not the opposite of `alive()`: the cloud is not asked."""
        return self._destroyed or self._row.status in ("destroying", "destroyed")

    @property
    def is_bad(self) -> bool:
        """Whether `gone_bad` was called, and `not_bad` not since."""
        return self._row.bad

    @property
    def permanent_problem(self) -> str:
        """What `gone_bad` was told, or an empty string."""
        return self._row.permanent_problem

    def __repr__(self) -> str:
        state = "destroyed" if self.destroyed else "bad" if self.is_bad else self._row.status
        return f"<{type(self).__name__} {self.name} {self.flavor.name} {self.ip}:{self.ssh_port} {state}>"

    def _repr_html_(self) -> str:
        rows = {
            "name": self.name,
            "id": self.id,
            "flavor": f"{self.flavor.name} ({self.flavor.cores} cores, {self.flavor.ram} MB)",
            "address": f"{self.ip}:{self.ssh_port}",
            "state": "destroyed" if self.destroyed else self._row.status,
            "created": self.created.isoformat(timespec="seconds"),
        }
        cells = "".join(f"<tr><th>{k}</th><td>{html.escape(str(v))}</td></tr>" for k, v in rows.items())
        return f"<table>{cells}</table>"

    def matches(
        self,
        os: str,
        script: bytes = b"",
        config_files: str = "",
        flavor: Flavor | None = None,
        shared_disk: bool = False,
    ) -> bool:
        """Tell whether it was made in this way: image, script and files as given, that flavor (any if None), shared disk or not."""
        return (
            self._row.os == os
            and self._row.script == script
            and self._row.config_files == config_files
            and (flavor is None or flavor.id == self.flavor.id)
            and self._row.shared_disk == shared_disk
        )

    # --- getting ready ---

    @public
    async def wait_until_ready(
        self, files: str = "", post_creation_script: bytes | str = b"", *, timeout: Duration | None = None
    ) -> None:
        """Wait until its boot is over and SSH works, then copy files, then run a script on it, which ends before this returns.

        May be repeated: files and script are then copied and run again. When it fails, the server is left as it is, for a look; destroy it
        yourself.

        Args:
            files: in the form that `copy_over` takes.
            post_creation_script: run by the login user; `#!` is honoured.
            timeout: for the boot; 20 minutes when None.

        Raises:
            ServerFailedError: its boot or the script failed; the message has the end of the console or of the script's stderr.
            ServerTimeoutError: it was not ready in time.
            HostKeyError: something else answers at its address.
        """
        limit = READY_WITHIN_S if timeout is None else seconds(timeout, setting="timeout")
        script = post_creation_script.encode() if isinstance(post_creation_script, str) else post_creation_script
        async with self._using():
            remote = await self._link.ready(limit, final=not files and not script)
            if files:
                await remote.copy_over(files)
            if script:
                await self._run_script(script)
        made = {"script": script, "config_files": files, "status": "ready"}
        if any(getattr(self._row, name) != value for name, value in made.items()):
            await self._change(**made)

    async def _run_script(self, script: bytes) -> None:
        remote = await self._link.ready()
        await remote.create_file(script if script.startswith(b"#!") else b"#!/bin/sh\n" + script, SCRIPT, mode=0o700)
        try:
            await remote.run(SCRIPT)
        except CommandError as problem:
            tail = "\n".join(problem.result.stderr.splitlines()[-20:])
            raise ServerFailedError(
                f"the post-creation script failed on {self.name} with {_ending(problem.result)}; its stderr:\n{tail}",
                console=problem.result.stderr,
                server_id=self.id,
                server_name=self.name,
                operation="wait_until_ready",
            ) from problem

    # --- using it ---

    @public
    async def run_cmd(
        self,
        cmd: str,
        background: bool = False,
        check: bool = True,
        *,
        timeout: Duration | None = None,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        on_stdout: Callable[[bytes], None] | None = None,
        on_stderr: Callable[[bytes], None] | None = None,
    ) -> CommandResult:
        """Run a command in a shell of the server, in the login user's home.

        When this is cancelled, or this process dies, the command and what it started are ended.

        Args:
            background: start it so that it outlives the connection, and return at once.
            check: raise when it fails.
            timeout: after which it is ended.
            on_stdout: gets the output piece by piece as it comes; the result has none of it then.

        Returns:
            what it did; unpacks as `stdout, stderr`.

        Raises:
            CommandError: it ended with another status than 0 or by a signal (unless `check=False`), or its time was up.
            ConnectError: the connection was lost; whether it ran to its end is not known.
        """
        limit = None if timeout is None else seconds(timeout, setting="timeout")
        if not isinstance(cmd, str):
            raise ConfigError(
                f"run_cmd takes one line for a shell, not {cmd!r}", setting="cmd", hint="join words with shlex.join()"
            )
        async with self._using():
            remote = await self._link.ready()
            return await remote.run(
                cmd,
                check=check,
                timeout=limit,
                stdin=stdin,
                env=env,
                on_stdout=on_stdout,
                on_stderr=on_stderr,
                background=background,
            )

    @public
    async def copy_over(self, files: str) -> None:
        """Upload files that exist here, each to the corresponding place there, keeping their mtimes.

        Args:
            files: separated by commas. An absolute path goes to the same path, `~/…` from home to home, `local:remote` anywhere.
                One that does not exist here is passed over silently.
        """
        async with self._using():
            await (await self._link.ready()).copy_over(files)

    @public
    async def create_file(self, content: str | bytes, dest: str) -> None:
        """Make a file with that content, and the directories above it; it appears under its name only when it is complete."""
        async with self._using():
            await (await self._link.ready()).create_file(content, dest)

    @public
    async def download_file(
        self, source: str, dest: str | _os.PathLike[str], *, progress: Progress | None = None
    ) -> None:
        """Fetch a file, or a whole tree; the directory of `dest` must exist here. No half file is left under the final name."""
        async with self._using():
            await (await self._link.ready()).download_file(source, _os.fspath(dest), progress=progress)

    @public
    async def upload_file(
        self, source: str | _os.PathLike[str], dest: str, *, progress: Progress | None = None
    ) -> None:
        """Send a file, or a whole tree, making the directories above it. No half file is left under the final name."""
        async with self._using():
            await (await self._link.ready()).upload_file(_os.fspath(source), dest, progress=progress)

    @public
    async def mkdir(self, dir: str) -> None:
        """Make a directory and those above it; one that exists is a success. `sudo` is tried only where plain rights do not do."""
        async with self._using():
            await (await self._link.ready()).mkdir(dir)

    @public
    async def home_dir(self) -> str:
        """The login user's home, absolute."""
        async with self._using():
            return await (await self._link.ready()).home_dir()

    @public
    async def time_zone(self) -> timezone:
        """The server's offset from UTC now, as a fixed zone named `SER`."""
        async with self._using():
            return await (await self._link.ready()).time_zone()

    @public
    async def ssh_client(self) -> asyncssh.SSHClientConnection:
        """An asyncssh connection of the server's pool, verified. It stays the pool's: do not close it."""
        async with self._using():
            return await (await self._link.ready()).client()

    def ssh_session(self) -> AbstractAsyncContextManager[asyncssh.SSHClientConnection]:
        """A connection on which one session may be opened; its place is given back at the end. Keeps the server from being idle."""
        return self._session()

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[asyncssh.SSHClientConnection]:
        async with self._using(), (await self._link.ready()).session() as connection:
            yield connection

    # --- its room ---

    @public
    async def allocate(self, cores: float, ram_mb: int, disk_gb: int) -> bool:
        """Take room, if there is enough; False otherwise. Its idle clock stops. Freed when this process ends.

        Fractions of cores add up exactly.
        """
        wanted = self._wanted(cores, ram_mb, disk_gb)
        session = await self._provider._core.journal.session()
        core = self._provider._core
        writing = asyncio.ensure_future(core.journal.store.write(lambda s: s.allocate(self.id, session, *wanted)))
        try:
            taken = await asyncio.shield(writing)
        except asyncio.CancelledError:
            core.start(self._give_back(writing, session, wanted))  # whoever is cancelled cannot know that it has room
            raise
        if taken:
            core.allocated(self, 1)
        return taken

    async def _give_back(self, writing: asyncio.Future[bool], session: str, wanted: tuple[int, int, int]) -> None:
        core = self._provider._core
        if await writing:
            now = core.clock.monotonic()
            await core.journal.store.write(lambda s: s.release(self.id, session, *wanted, now=now))

    @public
    async def release(self, cores: float, ram_mb: int, disk_gb: int) -> bool:
        """Give room back; when nothing is left taken, its idle clock starts. False if this process had not that much."""
        wanted = self._wanted(cores, ram_mb, disk_gb)
        core = self._provider._core
        session = await core.journal.session()
        given = await core.journal.store.write(
            lambda s: s.release(self.id, session, *wanted, now=core.clock.monotonic())
        )
        if given:
            core.allocated(self, -1)
        return given

    @public
    async def has_space_for(self, cores: float, ram_mb: int, disk_gb: int) -> int:
        """How many pieces of work of that size fit into the room that is left; 0 on a destroyed or bad server."""
        wanted = self._wanted(cores, ram_mb, disk_gb)
        usage = await self._provider._core.journal.store.read(lambda s: s.usage(self.id))
        if self.destroyed or self.is_bad:
            return 0
        flavor = self.flavor
        free = (
            nano_cores(flavor.cores) - usage.nano_cores,
            flavor.ram - usage.ram_mb,
            self.disk - usage.disk_gb,
        )
        return space.how_many(*free, *wanted)

    @staticmethod
    def _wanted(cores: float, ram_mb: int, disk_gb: int) -> tuple[int, int, int]:
        space.check_cores(cores)
        return nano_cores(cores), space.check_ram(ram_mb), space.check_disk(disk_gb)

    # --- its health and its end ---

    @public
    async def alive(self, check_ssh: bool = False) -> bool:
        """Ask the cloud whether it works, and with `check_ssh` try to run a command on it too."""
        if self.destroyed or not await self._provider.check_server(self.id):
            return False
        if not check_ssh:
            return True
        try:
            async with self._using():
                remote = await self._link.ready(20.0)
                return (await remote.run("true", check=False, timeout=20.0)).ok
        except PileusError as problem:
            log.info("server %s cannot be used by SSH: %s", self.name, problem)
            return False

    @public
    async def destroy(self) -> None:
        """Delete it and all that was made for it, and wait until it is gone. May be repeated."""
        await self._link.aclose()
        await self._provider.destroy_server(self.id)

    @public
    async def gone_bad(self, permanent_problem: str | None = None) -> None:
        """Mark it as one not to be used, for good when a problem is told. No effect once it is destroyed."""
        if not self.destroyed:
            problem = permanent_problem or self.permanent_problem
            await self._change(bad=True, permanent_problem=problem)

    @public
    async def not_bad(self) -> bool:
        """Take `gone_bad` back; False, and no effect, on a permanent problem or once it is destroyed."""
        if self.destroyed or self.permanent_problem:
            return False
        await self._change(bad=False)
        return True

    # --- shared disk ---

    @public
    async def create_shared_disk(self) -> None:
        """Serve `/shared` to the deployment's other servers.

        Raises:
            UnsupportedError: the provider cannot.
        """
        self._refuse_shared_disk("create_shared_disk")

    @public
    async def mount_shared_disk(self, nfs_server_ip: str) -> None:
        """Mount the `/shared` of another server.

        Raises:
            UnsupportedError: the provider cannot.
        """
        self._refuse_shared_disk("mount_shared_disk")

    def _refuse_shared_disk(self, operation: str) -> None:
        name = self._provider.name
        raise UnsupportedError(
            f"servers of {name} have no shared disk: serving and mounting one needs root on a machine of its own",
            hint="copy the files with upload_file(), or use a provider whose capabilities have shared_disk",
            provider=name,
            operation=operation,
        )

    # --- within the core ---

    @property
    def _provider_name(self) -> str:
        return self._provider.name

    @contextlib.asynccontextmanager
    async def _using(self) -> AsyncIterator[None]:
        if self.destroyed:
            raise ServerGoneError(
                f"server {self.name} was destroyed", server_id=self.id, server_name=self.name, hint="spawn another"
            )
        async with self._provider._core.uses.of(self._row):
            try:
                yield
            except ConnectError as problem:
                await self._explain(problem)
                raise

    async def _explain(self, problem: ConnectError) -> None:
        """A connection that was lost because another process destroyed the server is no riddle."""
        self._take(await self._provider._core.journal.store.read(lambda s: s.server(self.id)))
        if self.destroyed:
            self._gone()
            raise ServerGoneError(
                f"server {self.name} was destroyed meanwhile", server_id=self.id, server_name=self.name
            ) from problem

    async def _change(self, **columns: object) -> None:
        await self._provider._core.journal.change(self.id, **columns)
        self._take(await self._provider._core.journal.store.read(lambda s: s.server(self.id)))

    def _take(self, row: ServerRow | None) -> None:
        """The state's row, as it is now."""
        if row is not None:
            self._row = row

    def _gone(self) -> None:
        self._destroyed = True
        self._link.drop()


def _ending(result: CommandResult) -> str:
    return f"signal {result.exit_signal}" if result.exit_signal else f"exit status {result.exit_status}"
