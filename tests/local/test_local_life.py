"""A server's life: made, found again by anybody, ended with all that it started."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from local_place import Place, call, eventually

from pileus.drivers.base import TAG_DEPLOYMENT, ServerStatus
from pileus.drivers.local import calling, cards, processes
from pileus.errors import NotFoundError, ProviderError, QuotaError

_DAEMON = """
setsid sh -c 'sleep 1000 & sleep 1000' </dev/null >/dev/null 2>&1 &
(cd /; (sleep 1001 </dev/null >/dev/null 2>&1 &) &)
exit 0
"""


def sleepers(server_id: str) -> int:
    count = 0
    for pid in processes.marked(server_id):
        try:
            count += Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\0")
        except OSError:
            continue
    return count


def runs(pid: int) -> bool:
    found = processes.look(pid)
    return found is not None and found.alive


def helper_pid() -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + calling.address()[1:])
        pid = calling.read_line(connection)["ready"]
    assert isinstance(pid, int)
    return pid


async def test_a_new_server_runs_commands_and_then_vanishes_with_its_directory(each_place: Place) -> None:
    record = each_place.spawn()
    assert each_place.card(record.id).isolation == each_place.isolation
    assert await each_place.run(record, "echo $((6 * 7)) $PILEUS_SERVER") == f"42 {record.id}"
    each_place.delete(record)
    assert not each_place.tree(record).exists()


async def test_destroying_ends_daemons_that_left_their_session(each_place: Place) -> None:
    record = each_place.spawn()
    await each_place.run(record, _DAEMON)
    eventually(lambda: sleepers(record.id) == 3)
    each_place.delete(record)
    assert processes.marked(record.id) == set()


async def test_a_daemon_that_cleared_its_environment_ends_too_where_a_keeper_adopts_it(tmp_path: Path) -> None:
    for level in ("namespaces", "subreaper"):
        place = Place(tmp_path / level, isolation=level)
        record = place.spawn()
        await place.run(record, "env -i setsid sleep 1002 </dev/null >/dev/null 2>&1 &\n")
        keeper = place.card(record.id).keeper
        below = processes.descendants([keeper])
        found = [pid for pid in below if b"1002" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(found) == 1
        place.delete(record)
        eventually(lambda pid=found[0]: not processes.started(pid))
        place.clean_up()


async def test_a_server_that_powers_itself_off_is_gone_with_all_it_started(each_place: Place) -> None:
    record = each_place.spawn()
    await each_place.run(record, _DAEMON)
    root = each_place.tree(record)
    async with each_place.connect(record) as connection:
        await connection.run(f'kill -TERM "$(cat {root}/run/pileus/sshd.pid)"')
    eventually(lambda: not each_place.list())
    assert processes.marked(record.id) == set()
    assert not root.exists()


_SPAWN_AND_DIE = """
import os, signal, sys, pickle
from local_place import Place
from pathlib import Path
place = Place(Path(sys.argv[1]), deployment=sys.argv[2])
print(place.spawn(b"").id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_server_outlives_a_killed_program_and_another_one_finds_and_ends_it(place: Place) -> None:
    root = Path(__file__).parent
    made = subprocess.run(
        [sys.executable, "-c", _SPAWN_AND_DIE, str(place.directory), place.deployment],
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])},
    )
    assert made.returncode == -signal.SIGKILL, made.stderr
    (record,) = place.list()
    assert record.id == made.stdout.strip()
    assert record.status is ServerStatus.ACTIVE
    place.delete(record)


async def test_servers_are_listed_with_all_details_when_every_file_is_gone(place: Place) -> None:
    record = place.spawn(tags={TAG_DEPLOYMENT: place.deployment, "pileus-owner": "ünï@côde", "long": "x" * 5000})
    async with place.connect(record) as connection:
        shutil.rmtree(place.directory)
        assert place.list() == [record]
        done = await connection.run("echo still here")
        assert done.stdout == "still here\n"
    place.delete(record)


def test_a_stopped_server_is_listed_and_can_be_destroyed(each_place: Place) -> None:
    record = each_place.spawn()
    card = each_place.card(record.id)
    for pid in (card.keeper, card.pid):
        os.kill(pid, signal.SIGSTOP)
    assert [found.id for found in each_place.list()] == [record.id]
    each_place.delete(record)


@pytest.mark.usefixtures("own_helper")
def test_a_killed_helper_takes_no_server_with_it_and_is_replaced(place: Place) -> None:
    first = place.spawn(b"")
    killed = helper_pid()
    assert processes.kill(killed, processes.started(killed))
    second = place.spawn(b"")
    assert {record.id for record in place.list()} == {first.id, second.id}
    assert helper_pid() != killed


@pytest.mark.usefixtures("own_helper")
def test_an_idle_helper_ends_and_its_servers_live_on(place: Place) -> None:
    driver = place.driver(helper_idle="0.05")
    (outcome,) = driver.create_servers([place.request(b"")], call())
    assert outcome.record is not None
    name = "@" + calling.address()[1:]
    eventually(lambda: name not in Path("/proc/net/unix").read_text())
    assert [record.status for record in place.list()] == [ServerStatus.ACTIVE]
    place.spawn(b"")  # and the next request finds or starts one


def test_a_server_whose_keeper_is_killed_is_gone_and_the_next_create_removes_its_tree(each_place: Place) -> None:
    record = each_place.spawn(b"#!/bin/sh\nsetsid sleep 1000 &\nexit 0\n")
    eventually(lambda: sleepers(record.id) == 1)
    card = each_place.card(record.id)
    assert processes.kill(card.keeper, processes.started(card.keeper))
    eventually(lambda: not each_place.list() and not runs(card.pid))
    assert each_place.tree(record).exists()
    each_place.spawn(b"")
    assert not each_place.tree(record).exists()
    assert sleepers(record.id) == 0


def test_deleting_cleans_up_after_a_killed_keeper_and_says_that_the_server_is_gone(place: Place) -> None:
    record = place.spawn(b"")
    card = place.card(record.id)
    assert processes.kill(card.keeper, processes.started(card.keeper))
    eventually(lambda: not place.list() and not runs(card.pid))
    (outcome,) = place.driver().delete_servers([record.id], call())
    assert isinstance(outcome.error, NotFoundError)
    assert not place.tree(record).exists()


def test_a_tree_with_directories_that_cannot_be_written_is_removed(place: Place) -> None:
    record = place.spawn(b"#!/bin/sh\nmkdir -p home/a/b/c; touch home/a/b/f; chmod 500 home/a/b; chmod 0 home/a\n")
    eventually(
        lambda: (place.tree(record) / "home/a").exists() and not (place.tree(record) / "home/a").stat().st_mode & 0o777
    )
    place.delete(record)
    eventually(lambda: os.listdir(place.directory) == [])


def test_a_number_that_another_process_has_got_is_never_killed() -> None:
    with subprocess.Popen(["sleep", "1000"]) as bystander:
        start = processes.started(bystander.pid)
        assert not processes.kill(bystander.pid, start - 1)
        time.sleep(0.02)
        assert bystander.poll() is None
        assert processes.kill(bystander.pid, start)
    assert not processes.kill(bystander.pid, start)


@pytest.mark.usefixtures("own_helper")
def test_no_server_comes_into_being_after_the_deadline(place: Place) -> None:
    place.driver().check(call())  # there is a helper
    pid = helper_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        (outcome,) = place.driver().create_servers([place.request(b"")], call(0.3))
        assert isinstance(outcome.error, ProviderError)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert helper_pid() == pid  # it has worked off what came before
    assert place.list() == []


def test_an_order_that_is_too_late_leaves_nothing(place: Place) -> None:
    request = place.request(b"")
    driver = place.driver()
    late = call(20)
    wanted = [(0, driver._card(request), b"")]
    message = {**driver._request("create"), "deadline": time.monotonic() - 1, "limits": driver._limits([])}
    message["servers"] = [{"card": json.loads(wanted[0][1].to_json()), "user_data": ""}]
    (answer,) = list(calling.ask(message, late.deadline))
    assert "deadline" in answer["error"]
    assert os.listdir(place.directory) == []


def test_many_threads_make_and_end_servers_at_once(place: Place) -> None:
    problems: list[BaseException] = []

    def one() -> None:
        try:
            record = place.spawn(b"")
            assert record.id in {found.id for found in place.list()}
            place.delete(record)
        except BaseException as problem:  # noqa: BLE001
            problems.append(problem)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert place.list() == []


def test_what_does_not_fit_the_quota_is_refused_and_the_rest_is_made(place: Place) -> None:
    driver = place.driver()
    flavor = driver.flavors(call())[0]
    quota = driver.quota(call())
    fine, huge = place.request(b""), place.request(b"", disk_gb=quota.max_volume + flavor.disk + 1)
    made, refused = driver.create_servers([fine, huge], call())
    assert made.record is not None
    assert isinstance(refused.error, QuotaError)
    assert "GB of disk" in str(refused.error)
    assert [record.id for record in place.list()] == [made.record.id]


def test_used_quota_counts_what_runs(place: Place) -> None:
    def used() -> tuple[int, int]:
        found = cards.listed(place.deployment)
        return sum(card.cores for card in found), sum(card.volume_gb for card in found)

    flavor = place.driver().flavors(call())[0]
    small, large = place.spawn(b""), place.spawn(b"", disk_gb=flavor.disk + 1)
    assert used() == (2 * flavor.cores, flavor.disk + 1)
    quota = place.driver().quota(call())
    assert quota.used_cores >= 2 * flavor.cores
    assert quota.used_instances >= 2
    place.delete(small, large)
    assert used() == (0, 0)


def test_the_same_wish_is_not_granted_twice(place: Place) -> None:
    request = place.request(b"")
    first, second = (place.driver().create_servers([request], call())[0] for _ in range(2))
    assert first.record is not None
    assert second.error is not None
    assert "exists already" in str(second.error)
    assert [record.id for record in place.list()] == [first.record.id]


def _bind_as_nobody(names: list[str]) -> int:
    """A process of another user that sits on these names until it is killed; gives its pid."""
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgid(65534)
        os.setuid(65534)
        held = []
        for name in names:
            held.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            held[-1].bind("\0" + name.replace("{pid}", str(os.getpid())))
            held[-1].listen()
        os.write(done, b"!")
        signal.pause()
    os.close(done)
    assert os.read(ready, 1) == b"!"
    os.close(ready)
    return pid


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_marks_of_another_user_are_ignored(place: Place) -> None:
    record = place.spawn(b"")
    card = place.card(record.id)
    mine = f"pileus/0/{place.deployment}"
    # One that names itself, one that names a process of ours, and one that names a keeper of ours under another id.
    names = [
        f"{mine}/local-{'0' * 16}/{{pid}}",
        f"{mine}/local-{'1' * 16}/{os.getpid()}",
        f"{mine}/local-{'2' * 16}/{card.keeper}",
    ]
    impostor = _bind_as_nobody(names)
    try:
        text = Path("/proc/net/unix").read_text()
        assert text.count(f"@{mine}/") == 4
        assert [found.id for found in place.list()] == [record.id]
    finally:
        os.kill(impostor, signal.SIGKILL)
        os.waitpid(impostor, 0)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_a_helper_of_another_user_is_not_trusted(place: Place, own_helper: None) -> None:
    impostor = _bind_as_nobody([calling.address()[1:]])
    try:
        record = place.spawn(b"")
        assert [found.id for found in place.list()] == [record.id]
    finally:
        place.driver(helper_idle="0.01").check(call())
        os.kill(impostor, signal.SIGKILL)
        os.waitpid(impostor, 0)
