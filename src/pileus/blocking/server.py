"""`Server`: one machine, for code that blocks."""

from __future__ import annotations

import contextlib
import os as _os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, TypeVar

from pileus.blocking.portal import Inbox
from pileus.blocking.ssh import SSHClient
from pileus.models import CommandResult, Duration, Flavor

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pileus.blocking.provider import Provider
    from pileus.server import AsyncServer, Progress

T = TypeVar("T")


class Server:
    """A server that `Provider.spawn` made, in this process or another: `AsyncServer` for code that blocks.

    Attributes are read without I/O, as last known. Every method does what the one of that name of `AsyncServer` does, with the same
    arguments, results and errors, and returns when it is done; callbacks run in the calling thread. Ctrl-C stops the work, sees its
    clean-up through, and is then raised. Any thread may call; one server has one `Server` object in a `Provider`.

    Raises:
        UsageError: from every method, when its thread runs an event loop, after a fork, or when the provider is closed.
    """

    def __init__(self, provider: Provider, server: AsyncServer) -> None:
        self._provider = provider
        self._server = server

    def _run(
        self,
        operation: str,
        function: Callable[[], Awaitable[T]],
        inbox: Inbox | None = None,
        discard: Callable[[T], Awaitable[object]] | None = None,
    ) -> T:
        return self._provider._run(f"Server.{operation}", function, inbox, discard)

    # --- what it is ---

    @property
    def provider(self) -> Provider:
        """The deployment that it belongs to."""
        return self._provider

    @property
    def id(self) -> str:
        """The cloud's identifier."""
        return self._server.id

    @property
    def name(self) -> str:
        """Its name, which is also its host name."""
        return self._server.name

    @property
    def ip(self) -> str:
        """The address at which SSH is reached."""
        return self._server.ip

    @property
    def ssh_port(self) -> int:
        """The port of SSH at that address."""
        return self._server.ssh_port

    @property
    def user_name(self) -> str:
        """Who logs in."""
        return self._server.user_name

    @property
    def admin_pass(self) -> str:
        """The administrator's password, where the cloud gave one; otherwise an empty string."""
        return self._server.admin_pass

    @property
    def os(self) -> str:
        """The image, as it was asked for."""
        return self._server.os

    @property
    def flavor(self) -> Flavor:
        """Its flavor, as it was when the server was spawned."""
        return self._server.flavor

    @property
    def disk(self) -> int:
        """GB of its disk."""
        return self._server.disk

    @property
    def ttd(self) -> float:
        """Seconds of idleness after which it is destroyed; 0 for never."""
        return self._server.ttd

    @property
    def external(self) -> bool:
        """Whether it was spawned with an external address."""
        return self._server.external

    @property
    def is_head_node(self) -> bool:
        """Whether it is the deployment's first server with an external address."""
        return self._server.is_head_node

    @property
    def script(self) -> bytes:
        """The script that `wait_until_ready` ran."""
        return self._server.script

    @property
    def config_files(self) -> str:
        """The files that `wait_until_ready` copied, in the form that `copy_over` takes."""
        return self._server.config_files

    @property
    def created(self) -> datetime:
        """When it was asked for, in UTC."""
        return self._server.created

    @property
    def host_keys(self) -> tuple[str, ...]:
        """The public host keys that are trusted, as OpenSSH writes them."""
        return self._server.host_keys

    @property
    def destroyed(self) -> bool:
        """Whether it was destroyed, by a call or for being idle. Not the opposite of `alive()`: the cloud is not asked."""
        return self._server.destroyed

    @property
    def is_bad(self) -> bool:
        """Whether `gone_bad` was called, and `not_bad` not since."""
        return self._server.is_bad

    @property
    def permanent_problem(self) -> str:
        """What `gone_bad` was told, or an empty string."""
        return self._server.permanent_problem

    def __repr__(self) -> str:
        return repr(self._server).replace("AsyncServer", "Server", 1)

    def _repr_html_(self) -> str:
        return self._server._repr_html_()

    def matches(
        self,
        os: str,
        script: bytes = b"",
        config_files: str = "",
        flavor: Flavor | None = None,
        shared_disk: bool = False,
    ) -> bool:
        """Tell whether it was made in this way: image, script and files as given, that flavor (any if None), shared disk or not."""
        return self._server.matches(os, script, config_files, flavor, shared_disk)

    # --- getting ready ---

    def wait_until_ready(
        self, files: str = "", post_creation_script: bytes | str = b"", *, timeout: Duration | None = None
    ) -> None:
        """Wait until its boot is over and SSH works, then copy files, then run a script on it, which ends before this returns.

        Raises:
            ServerFailedError: its boot or the script failed; the message has the end of the console or of the script's stderr.
            ServerTimeoutError: it was not ready in time.
            HostKeyError: something else answers at its address.
        """
        return self._run(
            "wait_until_ready", lambda: self._server.wait_until_ready(files, post_creation_script, timeout=timeout)
        )

    # --- using it ---

    def run_cmd(
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
        """Run a command in a shell of the server, in the login user's home; the result unpacks as `stdout, stderr`.

        With `background`, start it so that it outlives the connection, and return at once. `on_stdout` and `on_stderr` get the output
        piece by piece as it comes; the result has none of it then.

        Raises:
            CommandError: it ended with another status than 0 or by a signal (unless `check=False`), or its time was up.
            ConnectError: the connection was lost; whether it ran to its end is not known.
        """
        inbox = Inbox()
        out, err = inbox.relay(on_stdout), inbox.relay(on_stderr)
        return self._run(
            "run_cmd",
            lambda: self._server.run_cmd(
                cmd, background, check, timeout=timeout, stdin=stdin, env=env, on_stdout=out, on_stderr=err
            ),
            inbox,
        )

    def copy_over(self, files: str) -> None:
        """Upload files that exist here, each to the corresponding place there, keeping their mtimes.

        `files` are separated by commas; an absolute path goes to the same path, `~/…` from home to home, `local:remote` anywhere. One that
        does not exist here is passed over silently.
        """
        return self._run("copy_over", lambda: self._server.copy_over(files))

    def create_file(self, content: str | bytes, dest: str) -> None:
        """Make a file with that content, and the directories above it; it appears under its name only when it is complete."""
        return self._run("create_file", lambda: self._server.create_file(content, dest))

    def download_file(self, source: str, dest: str | _os.PathLike[str], *, progress: Progress | None = None) -> None:
        """Fetch a file, or a whole tree; the directory of `dest` must exist here. No half file is left under the final name."""
        inbox = Inbox()
        relayed = inbox.relay(progress)
        return self._run("download_file", lambda: self._server.download_file(source, dest, progress=relayed), inbox)

    def upload_file(self, source: str | _os.PathLike[str], dest: str, *, progress: Progress | None = None) -> None:
        """Send a file, or a whole tree, making the directories above it. No half file is left under the final name."""
        inbox = Inbox()
        relayed = inbox.relay(progress)
        return self._run("upload_file", lambda: self._server.upload_file(source, dest, progress=relayed), inbox)

    def mkdir(self, dir: str) -> None:
        """Make a directory and those above it; one that exists is a success. `sudo` is tried only where plain rights do not do."""
        return self._run("mkdir", lambda: self._server.mkdir(dir))

    def home_dir(self) -> str:
        """The login user's home, absolute."""
        return self._run("home_dir", self._server.home_dir)

    def time_zone(self) -> timezone:
        """The server's offset from UTC now, as a fixed zone named `SER`."""
        return self._run("time_zone", self._server.time_zone)

    def ssh_client(self) -> SSHClient:
        """A connection of the server's pool, verified. It stays the pool's."""
        return SSHClient(self._run("ssh_client", self._server.ssh_client), self._provider._portal)

    def ssh_session(self) -> AbstractContextManager[SSHClient]:
        """A connection on which one session may be opened; its place is given back at the end. Keeps the server from being idle."""
        return self._session()

    @contextlib.contextmanager
    def _session(self) -> Iterator[SSHClient]:
        session = self._server.ssh_session()
        connection = self._run(
            "ssh_session", session.__aenter__, discard=lambda _connection: session.__aexit__(None, None, None)
        )
        try:
            yield SSHClient(connection, self._provider._portal)
        finally:
            self._run("ssh_session", lambda: session.__aexit__(None, None, None))

    # --- its room ---

    def allocate(self, cores: float, ram_mb: int, disk_gb: int) -> bool:
        """Take room, if there is enough; False otherwise. Its idle clock stops. Freed when this process ends."""

        async def give_back(taken: bool) -> None:
            if taken:
                await self._server.release(cores, ram_mb, disk_gb)

        return self._run("allocate", lambda: self._server.allocate(cores, ram_mb, disk_gb), discard=give_back)

    def release(self, cores: float, ram_mb: int, disk_gb: int) -> bool:
        """Give room back; when nothing is left taken, its idle clock starts. False if this process had not that much."""
        return self._run("release", lambda: self._server.release(cores, ram_mb, disk_gb))

    def has_space_for(self, cores: float, ram_mb: int, disk_gb: int) -> int:
        """How many pieces of work of that size fit into the room that is left; 0 on a destroyed or bad server."""
        return self._run("has_space_for", lambda: self._server.has_space_for(cores, ram_mb, disk_gb))

    # --- its health and its end ---

    def alive(self, check_ssh: bool = False) -> bool:
        """Ask the cloud whether it works, and with `check_ssh` try to run a command on it too."""
        return self._run("alive", lambda: self._server.alive(check_ssh))

    def destroy(self) -> None:
        """Delete it and all that was made for it, and wait until it is gone. May be repeated."""
        return self._run("destroy", self._server.destroy)

    def gone_bad(self, permanent_problem: str | None = None) -> None:
        """Mark it as one not to be used, for good when a problem is told. No effect once it is destroyed."""
        return self._run("gone_bad", lambda: self._server.gone_bad(permanent_problem))

    def not_bad(self) -> bool:
        """Take `gone_bad` back; False, and no effect, on a permanent problem or once it is destroyed."""
        return self._run("not_bad", self._server.not_bad)

    # --- shared disk ---

    def create_shared_disk(self) -> None:
        """Serve `/shared` to the deployment's other servers.

        Raises:
            UnsupportedError: the provider cannot.
        """
        return self._run("create_shared_disk", self._server.create_shared_disk)

    def mount_shared_disk(self, nfs_server_ip: str) -> None:
        """Mount the `/shared` of another server.

        Raises:
            UnsupportedError: the provider cannot.
        """
        return self._run("mount_shared_disk", lambda: self._server.mount_shared_disk(nfs_server_ip))
