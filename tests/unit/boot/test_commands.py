"""The commands that are run on a booted server."""

from __future__ import annotations

import stat
import time

import pytest

from pileus import boot
from pileus.models import BootTarget

from .conftest import PRIVATE_KEY, Tree, uptime


def test_waiting_ends_with_the_sentinel(tree_in_each_shell: Tree) -> None:
    tree = tree_in_each_shell
    tree.path("run/pileus").mkdir(parents=True)
    waiting = tree.start(boot.wait_for_sentinel(tree.target))
    time.sleep(0.1)
    assert waiting.poll() is None
    tree.path("run/pileus/ready").touch()
    assert waiting.communicate(timeout=30) == (b"", b"")
    assert waiting.returncode == 0


def test_waiting_for_what_is_there_returns(tree: Tree) -> None:
    tree.boot()
    assert tree.run(boot.wait_for_sentinel(tree.target, 0)).returncode == 0


def test_waiting_ends_with_a_failure_and_tells_it(tree_in_each_shell: Tree) -> None:
    tree = tree_in_each_shell
    tree.path("etc/fuse.conf").mkdir(parents=True)
    waiting = tree.start(boot.wait_for_sentinel(tree.target, 60))
    tree.boot()
    out, err = waiting.communicate(timeout=30)
    assert (waiting.returncode, out) == (boot.FAILED, b"")
    assert err.startswith(b"fuse: ")
    assert tree.run(boot.read_failure(tree.target)).stdout == err


def test_waiting_gives_up_in_time(tree_in_each_shell: Tree) -> None:
    begun = time.monotonic()
    assert tree_in_each_shell.run(boot.wait_for_sentinel(tree_in_each_shell.target, 0.5)).returncode == boot.TIMED_OUT
    assert time.monotonic() - begun >= 0.5


def test_no_failure_reads_as_nothing(tree: Tree) -> None:
    tree.boot()
    done = tree.run(boot.read_failure(tree.target))
    assert (done.returncode, done.stdout) == (0, b"")


def test_a_made_host_key_is_kept_aside_until_it_is_switched_to(tree_in_each_shell: Tree) -> None:
    tree = tree_in_each_shell
    tree.boot()
    key = tree.path("etc/ssh/ssh_host_ed25519_key")
    aside = tree.path(boot.Paths(BootTarget()).next_host_key)
    made = tree.run(boot.make_host_key(tree.target))
    assert (made.returncode, made.stdout) == (0, b"public-1\n")
    assert key.read_text() == PRIVATE_KEY
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    switched = tree.run(boot.switch_host_key(tree.target))
    assert (switched.returncode, switched.stdout) == (0, b"public-1\n")
    assert (key.read_text(), stat.S_IMODE(key.stat().st_mode)) == ("private-1\n", 0o600)
    assert key.with_suffix(".pub").read_text() == "public-1\n"
    assert tree.path("reloads").read_text() == PRIVATE_KEY + "private-1\n"
    aside = key.with_name(f"{key.name}.pileus-next.pub")
    assert sorted(path.name for path in key.parent.iterdir()) == [key.name, aside.name, f"{key.name}.pub"]
    assert aside.read_text() == ""


def test_making_again_makes_another_key(tree: Tree) -> None:
    tree.boot()
    tree.run(boot.make_host_key(tree.target))
    assert tree.run(boot.make_host_key(tree.target)).stdout == b"public-2\n"
    assert tree.run(boot.switch_host_key(tree.target)).stdout == b"public-2\n"


def test_switching_again_is_success_and_reloads(tree_in_each_shell: Tree) -> None:
    tree = tree_in_each_shell
    tree.boot()
    tree.run(boot.make_host_key(tree.target))
    for _ in range(2):
        again = tree.run(boot.switch_host_key(tree.target))
        assert (again.returncode, again.stdout) == (0, b"public-1\n")
    assert tree.path("reloads").read_text().endswith("private-1\nprivate-1\n")


def test_switching_without_a_made_key_is_refused_and_changes_nothing(tree: Tree) -> None:
    tree.boot()
    done = tree.run(boot.switch_host_key(tree.target))
    assert done.returncode != 0
    assert b"no new host key" in done.stderr
    assert tree.path("etc/ssh/ssh_host_ed25519_key").read_text() == PRIVATE_KEY


def test_a_key_without_its_public_half_is_not_switched_to(tree: Tree) -> None:
    """What a keygen leaves that was killed half-way."""
    tree.boot()
    tree.path(boot.Paths(BootTarget()).next_host_key).write_text("half\n")
    assert tree.run(boot.switch_host_key(tree.target)).returncode != 0
    assert tree.path("etc/ssh/ssh_host_ed25519_key").read_text() == PRIVATE_KEY


def test_a_switch_that_was_interrupted_is_taken_up(tree: Tree) -> None:
    tree.boot()
    tree.run(boot.make_host_key(tree.target))
    key = tree.path("etc/ssh/ssh_host_ed25519_key")
    tree.path(boot.Paths(BootTarget()).next_host_key).rename(key)  # as far as the first move
    assert tree.run(boot.switch_host_key(tree.target)).stdout == b"public-1\n"
    assert (key.read_text(), key.with_suffix(".pub").read_text()) == ("private-1\n", "public-1\n")


def test_a_keygen_that_fails_is_an_error(tree: Tree) -> None:
    tree.boot()
    done = tree.run(boot.make_host_key(BootTarget(root=str(tree.root), keygen="echo no entropy >&2; exit 1")))
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"no entropy\n")


def test_powering_off_runs_the_targets_command(tree_in_each_shell: Tree) -> None:
    tree = tree_in_each_shell
    assert tree.run(boot.power_off(tree.target)).returncode == 0
    assert tree.path("powered-off").exists()


def test_a_tree_without_a_power_off_of_its_own_refuses(tree: Tree) -> None:
    done = tree.run(boot.power_off(BootTarget(root=str(tree.root))))
    assert done.returncode == 1
    assert b"nothing to power off" in done.stderr


def test_renewing_writes_the_uptime_at_which_the_lease_ends(tree_in_each_shell: Tree) -> None:
    tree = tree_in_each_shell
    lease = tree.path("run/pileus/lease")
    lease.parent.mkdir(parents=True)
    lease.write_text("1\n")
    before = uptime()
    assert tree.run(boot.renew_lease(tree.target, 99.5)).returncode == 0
    after = uptime()
    assert before + 100 <= int(lease.read_text()) <= after + 100


def test_renewing_without_a_lease_is_an_error(tree: Tree) -> None:
    done = tree.run(boot.renew_lease(tree.target, 60))
    assert done.returncode == 1
    assert b"no lease" in done.stderr


@pytest.mark.parametrize("make", [boot.make_host_key, boot.switch_host_key, boot.power_off])
def test_as_an_ordinary_user_on_a_real_machine_root_is_got_by_sudo(tree: Tree, make: object) -> None:
    """`id` and `sudo` are stand-ins, and the `sh` that sudo would run as root too: nothing is done to this machine."""
    for name, text in {
        "id": "echo 1000",
        "sudo": f'printf "%s\\n" "$@" >{tree.root}/sudo-got; exit 0',
    }.items():
        file = tree.path(name)
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
    assert callable(make)
    command = make(BootTarget())
    assert tree.run(f"PATH={tree.root}; {command}").returncode == 0
    assert tree.path("sudo-got").read_text().startswith("-n\nsh\n-c\n")
    tree.path("sudo").unlink()
    refused = tree.run(f"PATH={tree.root}; {command}")
    assert refused.returncode == 1
    assert b"this needs root, or sudo without a password" in refused.stderr
