"""The script for a real machine, run for real where it can reach nothing: in namespaces, with directories of its own."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from pileus import boot
from pileus.models import BootTarget

from .conftest import AUTHORIZED_KEY, PRIVATE_KEY, PUBLIC_KEY

NAMESPACES = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child"]
if os.getuid():
    NAMESPACES[1:1] = ["--user", "--map-root-user"]

COVERED = ("etc", "run", "var/lib", "home", "dev")
SETUP = r"""
set -e
mount --make-rprivate /
mount --rbind "$M" /mnt
touch /mnt/dev/null; mount --bind /dev/null /mnt/dev/null
for d in etc run var/lib home dev; do mount --rbind "/mnt/$d" "/$d"; done
PATH=/mnt/bin:$PATH; export PATH
"""


def can_unshare() -> bool:
    if not shutil.which("unshare"):
        return False
    tried = subprocess.run([*NAMESPACES, "mount", "--make-rprivate", "/"], capture_output=True)
    return tried.returncode == 0


pytestmark = pytest.mark.skipif(not can_unshare(), reason="this system lets us make no namespaces of our own")


class Machine:
    """Directories that stand over the host's own, and stand-ins for the commands that reach beyond them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in (*COVERED, "bin", "etc/ssh", "etc/sudoers.d", "home/tester", "run/sshd", "var/lib/cloud"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "var/lib/cloud/scripts/per-boot").mkdir(parents=True)
        self.path("etc/passwd").write_text(
            "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/:/usr/sbin/nologin\n"
            "debian:x:1000:1000::/home/debian:/bin/bash\ntester:x:0:0::/home/tester:/bin/sh\n"
        )
        self.path("dev/fuse").touch(mode=0o600)
        for command in ("systemctl", "service", "shutdown", "visudo", "poweroff", "halt", "restorecon"):
            file = self.path(f"bin/{command}")
            file.write_text(f'#!/bin/sh\nprintf "%s\\n" "{command} $*" >>/mnt/log\n')
            file.chmod(0o755)

    def path(self, path: str) -> Path:
        return self.root / path

    @property
    def log(self) -> list[str]:
        return self.path("log").read_text().splitlines() if self.path("log").exists() else []

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*NAMESPACES, "sh", "-c", SETUP + "set +e\n" + script],
            env={"M": str(self.root), "PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def user_data(self, user_name: str = "tester", lease_s: float = 0) -> str:
        plan = boot.BootPlan(BootTarget(), "lab-1", user_name, AUTHORIZED_KEY, PRIVATE_KEY, PUBLIC_KEY, lease_s)
        file = self.path("user-data")
        file.write_bytes(boot.render(plan))
        return f"sh /mnt/{file.name}"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_it_makes_a_machine_ready(machine: Machine) -> None:
    done = machine.run(f"{machine.user_data()} && uname -n")
    assert (done.returncode, done.stdout) == (0, "lab-1\n"), done.stderr
    assert machine.path("etc/ssh/ssh_host_ed25519_key").read_text() == PRIVATE_KEY
    assert machine.path("home/tester/.ssh/authorized_keys").read_text() == f"{AUTHORIZED_KEY}\n"
    assert machine.path("etc/hosts").read_text() == "127.0.1.1 lab-1\n"
    assert "user_allow_other" in machine.path("etc/fuse.conf").read_text()
    assert stat.S_IMODE(machine.path("dev/fuse").stat().st_mode) == 0o666
    assert machine.path("etc/sudoers.d/pileus").read_text() == "Defaults !requiretty\n"
    assert machine.path("run/pileus/ready").exists()
    assert "service ssh reload" in machine.log
    assert "visudo -cqf /etc/sudoers.d/pileus.new" in machine.log
    assert not any(line.startswith(("systemctl", "shutdown", "poweroff")) for line in machine.log)


def test_where_systemd_runs_it_reloads_the_unit(machine: Machine) -> None:
    machine.path("run/systemd/system").mkdir(parents=True)
    assert machine.run(machine.user_data()).returncode == 0
    assert "systemctl try-reload-or-restart ssh.service" in machine.log
    assert not any(line.startswith("service") for line in machine.log)


def test_an_unknown_user_is_a_failure_that_names_those_there_are(machine: Machine) -> None:
    assert machine.run(machine.user_data("ubuntu")).returncode == 1
    failure = machine.path("run/pileus/failed").read_text()
    assert failure == "authorized_key: this image has no user ubuntu; it has: root debian tester\n"
    assert not machine.path("run/pileus/ready").exists()


def test_sudoers_that_visudo_does_not_like_are_not_left_behind(machine: Machine) -> None:
    machine.path("bin/visudo").write_text("#!/bin/sh\necho 'bad line' >&2\nexit 1\n")
    assert machine.run(machine.user_data()).returncode == 1
    assert machine.path("run/pileus/failed").read_text() == "sudo_without_terminal: bad line\n"
    assert list(machine.path("etc/sudoers.d").iterdir()) == []


def test_a_lease_that_runs_out_powers_the_machine_off(machine: Machine) -> None:
    done = machine.run(
        f"{machine.user_data(lease_s=1)} && i=0 && "
        f"until grep -q shutdown /mnt/log || [ $i = 300 ]; do i=$((i + 1)); sleep 0.1; done"
    )
    assert done.returncode == 0, done.stderr
    assert "shutdown -h now" in machine.log
    assert os.access(machine.path("var/lib/cloud/scripts/per-boot/pileus"), os.X_OK)


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="ssh-keygen is not installed")
def test_a_host_key_is_made_and_switched_to(machine: Machine) -> None:
    machine.run(machine.user_data())
    first = machine.run(boot.make_host_key(BootTarget()))
    made = machine.run(boot.make_host_key(BootTarget()))
    assert made.stdout != first.stdout
    assert made.stdout.startswith("ssh-ed25519 AAAA"), made.stderr
    assert machine.path("etc/ssh/ssh_host_ed25519_key").read_text() == PRIVATE_KEY
    switched = machine.run(boot.switch_host_key(BootTarget()))
    assert switched.stdout == made.stdout
    assert machine.path("etc/ssh/ssh_host_ed25519_key.pub").read_text() == made.stdout
    assert machine.log.count("service ssh reload") == 2


def test_powering_off_tries_what_there_is(machine: Machine) -> None:
    machine.path("run/systemd/system").mkdir(parents=True)
    machine.path("bin/systemctl").write_text("#!/bin/sh\nexit 1\n")
    machine.path("bin/shutdown").write_text("#!/bin/sh\nexit 1\n")
    assert machine.run(boot.power_off(BootTarget())).returncode == 0
    assert machine.log == ["poweroff "]


def test_the_stand_ins_cover_the_hosts_own_directories(machine: Machine) -> None:
    """Were it otherwise, the tests above would change this machine."""
    machine.run("for d in etc run var/lib home dev; do touch /$d/covered; done")
    assert all(machine.path(f"{name}/covered").exists() for name in COVERED)
    assert not any(Path(f"/{name}/covered").exists() for name in COVERED)
