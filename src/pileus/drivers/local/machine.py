"""A server's first process: runs the boot script as cloud-init would, keeps the host key, and serves SSH.

It never returns. In a process tree of its own it is process 1: with it, everything ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import signal
import socket
import sys
from pathlib import Path

import asyncssh

from pileus.drivers.local import trees
from pileus.drivers.local.cards import Card
from pileus.drivers.local.children import Children
from pileus.drivers.local.processes import MARKER
from pileus.drivers.local.sessions import Session

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BOOT_WAIT_S = 2.0
_WINDOW = 8 * 1024 * 1024
_PACKET = 128 * 1024


def run(card: Card, user_data: bytes, listener: socket.socket, *, own_tmp: bool) -> None:
    """Be the server until it is ended. The working directory becomes its home."""
    os.umask(0o022)
    os.chdir(trees.home(Path(card.tree), card.user_name))
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="sshd: %(message)s")
    asyncio.run(Machine(card, user_data, listener, own_tmp=own_tmp).run())


class Machine:
    """One server, seen from its inside."""

    def __init__(self, card: Card, user_data: bytes, listener: socket.socket, *, own_tmp: bool) -> None:
        self._card = card
        self._tree = Path(card.tree)
        self._user_data = user_data
        self._listener = listener
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._key: asyncssh.SSHKey | None = None
        self._key_text = b""
        self._script_ended = asyncio.Event()
        self.user_name = card.user_name
        self.home = trees.home(self._tree, card.user_name)
        self.shell = login_shell()
        base = {
            "HOME": str(self.home),
            "USER": card.user_name,
            "LOGNAME": card.user_name,
            "SHELL": self.shell,
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            MARKER: card.id,
        }
        if not own_tmp:
            base["TMPDIR"] = str(self._tree / "tmp")
        self._environment = {key.encode(): os.fsencode(value) for key, value in base.items()}

    def environment(self, wished: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """The environment of a command: ours, what the client wishes over it, and the mark, which nobody may change."""
        result = {**self._environment, **wished}
        result[MARKER.encode()] = self._environment[MARKER.encode()]
        return result

    async def run(self) -> None:
        """Boot, then serve for ever."""
        loop = asyncio.get_running_loop()
        self.children = Children(loop)
        # The pid file is what commands send their signals to, so it comes after the handlers.
        loop.add_signal_handler(signal.SIGHUP, self._answer_requests)
        loop.add_signal_handler(signal.SIGTERM, os._exit, 0)
        (trees.requests(self._tree) / "sshd.pid").write_text(f"{os.getpid()}\n")
        if self._user_data:
            self._boot()
        else:
            self._script_ended.set()
        await self._wait_for_key()
        assert self._key is not None
        self._acceptor = await asyncssh.listen(
            sock=self._listener,
            server_factory=lambda: Gate(self),
            server_host_keys=[self._key],
            encoding=None,
            line_editor=False,
            allow_scp=False,
            agent_forwarding=False,
            x11_forwarding=False,
            gss_host=None,
            compression_algs=["none"],
            login_timeout=60,
            window=_WINDOW,
            max_pktsize=_PACKET,
            backlog=1024,
        )
        (trees.requests(self._tree) / "serving").touch()
        self._load_key()  # whoever changed it before that file was there did not ask
        self._keep_spare()
        await asyncio.Event().wait()

    # --- the boot script ---

    def _boot(self) -> None:
        script = self._tree / "var/lib/user-data"
        descriptor = os.open(script, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o700)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._user_data)
        self._user_data = b""  # it has keys in it
        actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]

        def ended(status: int) -> None:
            self._script_ended.set()
            script.unlink(missing_ok=True)
            code = os.waitstatus_to_exitcode(status)
            if code:
                self.log(f"boot script ended with {code}")

        # cloud-init starts scripts in the root directory; the tree is the nearest to it. Nothing else runs meanwhile.
        os.chdir(self._tree)
        try:
            self.children.start([str(script)], self.environment({}), actions, ended)
        except OSError as problem:
            self.log(f"boot script cannot be run: {problem}")
            self._script_ended.set()
        finally:
            os.chdir(self.home)

    def log(self, line: str) -> None:
        """Write a line to the console."""
        print(line, file=sys.stderr, flush=True)  # noqa: T201

    # --- the host key ---

    async def _wait_for_key(self) -> None:
        """Give the boot script a moment to bring the key by which the client will know us; else make one.

        Clients that come earlier wait. Were they let on as soon as the key is there, most would find that the script has
        not authorised theirs yet, and both sides would have paid for a key exchange in vain.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._script_ended.wait(), _BOOT_WAIT_S)
        if not self._load_key():
            self._write_key(trees.host_key(self._tree))
            self._load_key()

    def _load_key(self) -> bool:
        """Take up the host key's file for connections to come, if it is there and whole."""
        try:
            text = trees.host_key(self._tree).read_bytes()
            if text != self._key_text:
                self._key, self._key_text = asyncssh.import_private_key(text), text
                if self._acceptor is not None:
                    self._acceptor.update(server_host_keys=[self._key])
        except (OSError, asyncssh.KeyImportError) as problem:
            if not isinstance(problem, FileNotFoundError) and self._acceptor is not None:
                self.log(f"host key cannot be read, the former one stays: {problem}")
            return False
        return True

    def _write_key(self, path: Path) -> None:
        key = asyncssh.generate_private_key("ssh-ed25519", comment=self._card.name)
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.export_private_key())
        path.with_name(path.name + ".pub").write_bytes(key.export_public_key())

    def _answer_requests(self) -> None:
        """Do what commands have asked for (see `trees.boot_target`): read the host key anew, write a fresh one somewhere."""
        asked = list(trees.requests(self._tree).glob("ask.*"))
        self._load_key()
        for ask in asked:
            wish = ask.with_name("key" + ask.suffix)
            try:
                if wish.exists():
                    self._write_key(Path(os.fsdecode(wish.read_bytes())))
            except (OSError, ValueError) as problem:
                ask.with_name("failed" + ask.suffix).write_text(f"{problem}\n")
            wish.unlink(missing_ok=True)
            ask.unlink(missing_ok=True)
        self._keep_spare()

    def _keep_spare(self) -> None:
        """Have a fresh key ready for whoever asks for one: then nobody needs to wait for it."""
        spare = trees.requests(self._tree) / "spare"
        with contextlib.suppress(OSError):
            if not spare.exists() or not spare.stat().st_size:
                self._write_key(spare)


class Gate(asyncssh.SSHServer):
    """Who may come in: the server's user, by a public key in its `authorized_keys`, read anew each time."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Somebody knocks."""
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        """Lay out the keys that are good for `username`; there is no way in without one."""
        if username == self._machine.user_name:
            # Missing, unreadable or empty: nobody comes in.
            with contextlib.suppress(OSError, ValueError):
                self._connection.set_authorized_keys(str(self._machine.home / ".ssh/authorized_keys"))
        return True

    def session_requested(self) -> Session:
        """As many sessions on a connection as the client likes."""
        return Session(self._machine, self._connection)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        """Ports are forwarded, as for tunnels to what runs on the server."""
        return True

    def unix_connection_requested(self, dest_path: str) -> bool:
        """UNIX sockets too."""
        return True

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        """And the other way round."""
        return True


def login_shell() -> str:
    """Our login shell, or `/bin/sh` where it is none that anybody could work in."""
    try:
        shell = pwd.getpwuid(os.geteuid()).pw_shell
    except KeyError:
        shell = ""
    usable = shell and Path(shell).name not in ("nologin", "false", "true") and os.access(shell, os.X_OK)
    return shell if usable else "/bin/sh"
