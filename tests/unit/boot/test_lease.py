"""The lease: a server ends by itself, when and only when nobody renews it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pileus import boot
from pileus.boot import lease
from pileus.models import BootTarget

from .conftest import SHELLS, Tree, running, until, uptime


def is_off(tree: Tree) -> bool:
    return tree.path("powered-off").exists()


def job(tree: Tree, process_id: object, *, name: str = "j1") -> Path:
    directory = tree.path(f"home/me/.pileus/jobs/{name}")
    directory.mkdir(parents=True)
    (directory / "pid").write_text(f"{process_id}\n")
    return directory


def commands(tree: Tree) -> list[str]:
    """The names of the processes that run in a tree."""
    names = []
    for process_id in running(tree.mark):
        with contextlib.suppress(OSError):
            names.append(Path(f"/proc/{process_id}/comm").read_text().strip())
    return names


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    """A process that could be a job's."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def test_a_server_that_nobody_renews_ends_and_leaves_no_process(forest: Callable[[str], Tree]) -> None:
    begun, trees = uptime(), []
    for name, shell in SHELLS.items():
        tree = forest(name)
        tree.shell = shell
        assert tree.boot(lease_s=1).returncode == 0
        assert begun + 1 <= int(tree.path("run/pileus/lease").read_text()) <= uptime() + 1
        assert running(tree.mark)
        trees.append(tree)
    for tree in trees:
        name = tree.root.name
        until(lambda tree=tree: is_off(tree), f"the end of the server in {name}")
        assert uptime() > begun + 1
        until(lambda tree=tree: not running(tree.mark), f"the end of the watchdog in {name}")
        assert tree.path("powered-off").read_text() == "x\n"


def test_renewals_and_running_jobs_keep_the_server_until_they_end(
    forest: Callable[[str], Tree], worker: subprocess.Popen[bytes]
) -> None:
    renewed = []
    for name, shell in SHELLS.items():
        tree = forest(name)
        tree.shell = shell
        tree.boot(lease_s=1)
        assert tree.run(boot.renew_lease(tree.target, 600)).returncode == 0
        renewed.append(tree)
    began = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[19]
    working = []
    for written in (f"{worker.pid}", f"{worker.pid} {began}"):
        tree = forest(f"job {written}")
        job(tree, "nonsense", name="j0")
        job(tree, written)
        tree.boot(lease_s=1)
        working.append(tree)
    rested = forest("job that is over since a moment")
    with subprocess.Popen(["sleep", "600"]) as brief:
        job(rested, brief.pid)
        rested.boot(lease_s=19)
        until(lambda: any("sleep" in name for name in commands(rested)), "the first look at the job")
        rested.run(boot.renew_lease(rested.target, 0))
        brief.kill()
    time.sleep(3.5)  # time enough for an end, if there was a reason
    assert not [tree.root.name for tree in [*renewed, *working, rested] if is_off(tree)]
    worker.kill()
    worker.wait()
    for tree in renewed:
        tree.run(boot.renew_lease(tree.target, 0))
    for tree in renewed + working:
        until(lambda tree=tree: is_off(tree), f"the end of {tree.root.name}")


def test_jobs_that_are_over_and_broken_files_do_not_keep_the_server(
    forest: Callable[[str], Tree], worker: subprocess.Popen[bytes]
) -> None:
    """Job files, each with a process that runs but is not the job's, or with what `kill` would take for a crowd."""
    trees = []
    alive = worker.pid
    for number, written in enumerate((f"{alive} 1", "0", "-1", "-0", "nonsense", "", "999999999", f"x {alive}")):
        tree = forest(f"job {number}")
        job(tree, written)
        tree.boot(lease_s=1)
        trees.append(tree)
    tree = forest("job with a status")
    (job(tree, alive) / "status").write_text("0\n")
    tree.boot(lease_s=1)
    trees.append(tree)
    for tree in trees:
        until(lambda tree=tree: is_off(tree), f"the end of {tree.root.name}")


def test_a_lease_file_that_cannot_be_read_means_the_last_one_that_could(forest: Callable[[str], Tree]) -> None:
    trees = []
    for number, content in enumerate((None, "", "soon\n", "-5\n", "1e9\n", "9" * 30 + "\n", "\n99999999\n")):
        tree = forest(f"lease {number}")
        tree.boot(lease_s=1)
        file = tree.path("run/pileus/lease")
        file.unlink() if content is None else file.write_text(content)
        trees.append(tree)
    for tree in trees:
        until(lambda tree=tree: is_off(tree), f"the end of {tree.root.name}")


def test_a_power_off_that_fails_is_tried_again(tree: Tree) -> None:
    done, gate = tree.path("powered-off"), tree.path("tried")
    command = f"[ -e '{gate}' ] && exec touch '{done}'; touch '{gate}'; exit 1"
    target = BootTarget(root=str(tree.root), power_off=command)
    plan = boot.BootPlan(target, "h", "me", "ssh-ed25519 k", "p", "ssh-ed25519 h", 1)
    tree.path("script").write_bytes(boot.render(plan))
    assert tree.run("sh ./script").returncode == 0
    until(lambda: is_off(tree), "the second try")


def test_the_watchdog_outlives_the_shell_and_its_hangup(tree: Tree) -> None:
    """As when cloud-init ends, or the session that ran the script is hung up."""
    tree.path("user-data").write_bytes(boot.render(tree.plan(600)))
    tree.run("sh ./user-data; kill -HUP 0")
    left = running(tree.mark)
    assert left
    commands = [Path(f"/proc/{process_id}/cmdline").read_bytes() for process_id in left]
    assert any(b"watchdog\0watch" in command for command in commands)


def test_the_lease_is_armed_anew_at_every_boot_where_cloud_init_is(tree_in_each_shell: Tree) -> None:
    tree = tree_in_each_shell
    per_boot = tree.path("var/lib/cloud/scripts/per-boot")
    per_boot.mkdir(parents=True)
    tree.boot(lease_s=600)
    shutil.rmtree(tree.path("run/pileus"))  # what a reboot does
    before = len(running(tree.mark))
    assert tree.run(f"'{per_boot}/pileus'").returncode == 0
    assert int(tree.path("run/pileus/lease").read_text()) > uptime() + 500
    assert len(running(tree.mark)) > before


def test_the_watchdog_looks_ten_times_a_lease_within_bounds() -> None:
    assert [lease.poll_seconds(each) for each in (1, 10, 30, 60, 86400)] == [1, 1, 3, 5, 5]
