"""Servers to test against: real processes on the loopback interface, each with a home directory of its own."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pileus.remote import Endpoint, keys

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
USER = psutil.Process().username()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until(condition, what, seconds=15.0):
    """Wait for something that other processes do; the bound is for a hang, not for speed."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"still not so: {what}"
        time.sleep(0.01)


async def eventually(condition, what, seconds=15.0):
    """The same from an event loop, which is not held up by it."""
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < end, f"still not so: {what}"
        await asyncio.sleep(0.01)


@dataclass
class Place:
    """One server: where it is, and what a test may do to it."""

    kind: str
    directory: Path
    port: int = 0
    process: subprocess.Popen = None
    user_key: keys.KeyPair = field(default_factory=keys.generate)
    host_key: keys.KeyPair = field(default_factory=keys.generate)
    login: str = USER
    settings: str = ""
    sftp: str = "Subsystem sftp internal-sftp -d {home}"

    @property
    def home(self):
        return self.directory / "home"

    def endpoint(self, **changes):
        values = {
            "host": "127.0.0.1",
            "port": self.port,
            "user_name": self.login,
            "private_key": self.user_key.private_pem,
            "host_keys": (self.host_key.public_line,),
            "name": "box",
        }
        return Endpoint(**(values | changes))

    def prepare(self):
        self.home.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o755)
        (self.directory / "host_key").write_text(self.host_key.private_pem)
        (self.directory / "host_key").chmod(0o600)
        self.authorize()
        return self

    def authorize(self):
        (self.directory / "authorized_keys").write_text(self.user_key.public_line + "\n")

    def start(self):
        self.prepare()
        if self.kind == "openssh":
            self._start_sshd()
        else:
            arguments = [self.home, self.directory / "host_key", self.directory / "authorized_keys"]
            program = [sys.executable, Path(__file__).with_name("asyncssh_server.py"), *arguments]
            self.process = subprocess.Popen(program, stdout=subprocess.PIPE, env=os.environ | {"HOME": str(self.home)})
            self.port = int(self.process.stdout.readline())
            self.process.stdout.close()
        return self

    def _start_sshd(self):
        # bash reads .bashrc for commands too, and the real user's is none of our business: hence HOME. sshd begins in the
        # passwd home, with SFTP elsewhere only by -d.
        self.port = self.port or free_port()
        (self.directory / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.directory}/host_key\nPidFile none\n"
            f"AuthorizedKeysFile {self.directory}/authorized_keys\nUsePAM no\nStrictModes no\nUseDNS no\n"
            f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nSetEnv HOME={self.home}\n"
            f"{self.sftp.format(home=self.home)}\nPrintMotd no\nMaxStartups 100\n{self.settings}\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        with (self.directory / "sshd.log").open("w") as log:
            program = [SSHD, "-D", "-e", "-f", str(self.directory / "sshd_config")]
            self.process = subprocess.Popen(program, stdin=subprocess.DEVNULL, stderr=log)
        until(self._answers, "sshd answers")

    def _answers(self):
        assert self.process.poll() is None, (self.directory / "sshd.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as attempt:
            return attempt.recv(4).startswith(b"SSH")
        return False

    def connections(self):
        """The processes that serve connections (with asyncssh, the one process serves all)."""
        if self.kind != "openssh":
            return [psutil.Process(self.process.pid)]
        # for an ordinary user's login there are two for each connection
        return [child for child in psutil.Process(self.process.pid).children(recursive=True) if "sshd" in child.name()]

    def running(self, text):
        """What runs on this server with that in its command line."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("HOME") == str(self.home):
                    command = process.cmdline()
                    if any(text in part for part in command) and "asyncssh_server.py" not in " ".join(command):
                        found.append(process)
        return found

    def stop(self):
        if self.process is None:
            return
        served = []
        with contextlib.suppress(psutil.Error):
            served = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        for process in served:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        until(lambda: not self.running(""), "nothing is left")
