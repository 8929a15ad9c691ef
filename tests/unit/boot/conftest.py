"""A tree to boot in, every shell there is, and the certainty that nothing goes on running."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

import pytest

from pileus import boot
from pileus.models import BootTarget


def _shells() -> dict[str, list[str]]:
    """Every kind of shell that is installed, `/bin/sh` being one of the others."""
    found = {}
    for name, command in (
        ("dash", ["dash"]),
        ("bash", ["bash", "--posix"]),
        ("busybox", ["busybox", "sh"]),
        ("sh", ["/bin/sh"]),
    ):
        path = shutil.which(command[0])
        if path and Path(path).resolve() not in [Path(other[0]).resolve() for other in found.values()]:
            found[name] = [path, *command[1:]]
    return found


SHELLS = _shells()
PRIVATE_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nsecret'$(touch stolen)`\\n\n-----END OPENSSH PRIVATE KEY-----\n"
PUBLIC_KEY = "ssh-ed25519 AAAAhost host"
AUTHORIZED_KEY = "ssh-ed25519 AAAAours me@here"


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that is going to happen; the limit is far beyond any noise."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def uptime() -> int:
    """Whole seconds since this machine was booted."""
    return int(float(Path("/proc/uptime").read_text().split()[0]))


def running(mark: str) -> list[int]:
    """The processes that have `mark` in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if mark.encode() in environment:
                found.append(int(entry.name))
    return found


@dataclass
class Tree:
    """A tree that stands for a server, and how to run things there."""

    root: Path
    mark: str
    shell: list[str] = field(default_factory=lambda: ["/bin/sh"])

    @property
    def target(self) -> BootTarget:
        """Commands that leave traces: `keys-made`, `reloads` and `powered-off` count how often they were run."""
        here = quote(str(self.root))
        return BootTarget(
            root=str(self.root),
            keygen=f'echo x >>{here}/keys-made; n=$(wc -l <{here}/keys-made); echo private-$((n)) >"$1"; '
            'echo public-$((n)) >"$1.pub"',
            reload_sshd=f"cat {here}/etc/ssh/ssh_host_ed25519_key >>{here}/reloads",
            power_off=f"echo x >>{here}/powered-off",
        )

    def plan(self, lease_s: float = 0, **other: str) -> boot.BootPlan:
        values = {
            "host_name": "lab-1",
            "user_name": "me",
            "authorized_key": AUTHORIZED_KEY,
            "host_private_key": PRIVATE_KEY,
            "host_public_key": PUBLIC_KEY,
        }
        return boot.BootPlan(target=self.target, lease_s=lease_s, **(values | other))

    def boot(self, lease_s: float = 0, **other: str) -> subprocess.CompletedProcess[bytes]:
        """Run the user-data as cloud-init does: from a file."""
        script = self.root / "user-data"
        script.write_bytes(boot.render(self.plan(lease_s, **other)))
        return self._run([*self.shell, str(script)])

    def run(self, command: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command as SSH does."""
        return self._run([*self.shell, "-c", command])

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Begin a command."""
        return subprocess.Popen(
            [*self.shell, "-c", command],
            env=self._environment(),
            cwd=self.root,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def _run(self, argv: list[str]) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            argv,
            env=self._environment(),
            cwd=self.root,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PILEUS_TEST": self.mark}


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    """A fresh tree; whatever still runs in it at the end is ended."""
    yield _plant(tmp_path / "server")
    _end_all(str(tmp_path))


@pytest.fixture
def forest(tmp_path: Path) -> Iterator[Callable[[str], Tree]]:
    """Plants any number of trees, so that leases can run out side by side and not one after the other."""
    yield lambda name: _plant(tmp_path / name)
    _end_all(str(tmp_path))


def _plant(root: Path) -> Tree:
    root.mkdir()
    return Tree(root, mark=str(root))


def _end_all(mark: str) -> None:
    """End what runs with that mark. A process shows no environment in the moment of its exec: so it is asked for twice."""
    empty = 0
    while empty < 2:
        left = running(mark)
        empty = 0 if left else empty + 1
        for process_id in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
        time.sleep(0.005)


@pytest.fixture(params=SHELLS)
def tree_in_each_shell(request: pytest.FixtureRequest, tree: Tree) -> Tree:
    """The same, once for every kind of shell that is installed."""
    tree.shell = SHELLS[request.param]
    return tree
