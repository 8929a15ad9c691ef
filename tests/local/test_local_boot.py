"""What user-data can do on a server, and what it cannot do to this machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from local_place import LEVELS, Place, call, eventually

from pileus.drivers.base import ServerStatus
from pileus.drivers.local import trees
from pileus.drivers.local.host import user_name
from pileus.errors import NotFoundError


def fingerprint(directory: Path) -> dict[str, str]:
    found = {}
    for path in sorted(directory.rglob("*")):
        facts = path.lstat()
        data = path.read_bytes() if path.is_file() and os.access(path, os.R_OK) else b""
        found[str(path)] = f"{facts.st_mode:o} {facts.st_uid} {facts.st_mtime_ns} {hashlib.sha256(data).hexdigest()}"
    return found


async def test_user_data_is_run_in_the_tree_and_heard_on_the_console(each_place: Place) -> None:
    script = b"#!/bin/sh\npwd\necho $HOME $PILEUS_SERVER\necho oops >&2\ntouch made-by-boot\nexit 4\n"
    record = each_place.spawn(script)
    tree = each_place.tree(record)

    def console() -> str:
        return each_place.driver().console(record.id, call())

    eventually(lambda: "ended with 4" in console())
    assert console().splitlines()[-4:] == [
        str(tree),
        f"{tree}/home/{user_name()} {record.id}",
        "oops",
        "boot script ended with 4",
    ]
    assert (tree / "made-by-boot").exists()
    assert not (tree / "var/lib/user-data").exists()  # it had keys in it


async def test_user_data_in_another_language_is_run_by_its_interpreter(place: Place) -> None:
    record = place.spawn(f"#!{sys.executable}\nprint('from python', 6 * 7)\n".encode())
    eventually(lambda: "from python 42" in place.driver().console(record.id, call()))


async def test_user_data_that_is_no_script_is_told_on_the_console(place: Place) -> None:
    record = place.spawn(b"\x00\x01\x02 nothing that could be run")
    eventually(lambda: "boot script cannot be run: " in place.driver().console(record.id, call()))
    assert place.list()[0].status is ServerStatus.ACTIVE


def test_the_console_of_no_server_is_not_found(place: Place) -> None:
    with pytest.raises(NotFoundError):
        place.driver().console("local-0000000000000000", call())


@pytest.mark.parametrize("level", LEVELS)
async def test_booting_leaves_the_machines_own_configuration_alone(tmp_path: Path, level: str) -> None:
    before = {name: fingerprint(Path("/etc") / name) for name in ("ssh", "sudoers.d")}
    files = {name: Path(name).read_bytes() for name in ("/etc/hosts", "/etc/passwd") if Path(name).exists()}
    place = Place(tmp_path / "local", isolation=level)
    record = place.spawn()
    await place.run(record, "true")
    eventually(lambda: (place.tree(record) / "run/pileus/ready").exists())
    place.delete(record)
    place.clean_up()
    assert {name: fingerprint(Path("/etc") / name) for name in before} == before
    assert {name: Path(name).read_bytes() for name in files} == files


async def test_a_server_cannot_write_to_the_machines_etc(tmp_path: Path) -> None:
    place = Place(tmp_path / "local", isolation="namespaces")
    record = place.spawn()
    refused = await place.run(record, "(: >/etc/pileus-was-here) 2>&1 || echo refused")
    assert refused.endswith("refused")
    assert not Path("/etc/pileus-was-here").exists()
    place.clean_up()


async def test_servers_have_their_own_tmp_processes_and_host_name(tmp_path: Path) -> None:
    place = Place(tmp_path / "local", isolation="namespaces")
    first, second = place.spawn(name="box-1"), place.spawn(name="box-2")
    mine = f"pileus-own-tmp-{os.getpid()}"
    await place.run(first, f"touch /tmp/{mine}")
    assert (place.tree(first) / "tmp" / mine).exists()
    assert not Path("/tmp", mine).exists()
    assert await place.run(second, f"ls /tmp/{mine} 2>/dev/null || echo none") == "none"
    assert await place.run(second, "hostname 2>/dev/null || uname -n") == "box-2"
    assert "box-1" not in await place.run(second, "cat /proc/[0-9]*/environ | tr '\\0' '\\n' | grep box-1; true")
    assert await place.run(second, "id -u; id -g") == f"{os.geteuid()}\n{os.getegid()}"
    place.clean_up()


async def test_a_tree_with_odd_characters_in_its_path_works(tmp_path: Path) -> None:
    place = Place(tmp_path / 'it\'s "odd"\n$HOME ünï')
    record = place.spawn()
    target = place.driver().boot_target("any")
    assert target.root.startswith(str(place.directory))
    assert await place.run(record, 'cd; basename "$PWD"') == user_name()
    await place.run(
        record, f"key=$HOME/k; set -- $key; {trees.boot_target(place.tree(record)).keygen.replace('$1', '$HOME/k')}"
    )
    assert (place.tree(record) / "home" / user_name() / "k.pub").read_bytes().startswith(b"ssh-ed25519 ")
    place.clean_up()


async def test_a_very_long_path_works(tmp_path: Path) -> None:
    place = Place(tmp_path / ("d" * 200) / ("e" * 200))
    record = place.spawn()
    assert await place.run(record, "echo fine") == "fine"
    place.clean_up()


async def test_a_key_that_comes_late_is_replaced_by_one_that_is_made(place: Place) -> None:
    began = time.monotonic()
    record = place.spawn(b"#!/bin/sh\nexec sleep 1000\n")
    key = trees.host_key(place.tree(record)).with_suffix(".pub")
    eventually(key.exists)
    assert time.monotonic() - began >= 1.9  # the boot script had its time
    assert key.read_bytes().startswith(b"ssh-ed25519 ")


_AS_SOMEBODY = """
import asyncio, sys
from pathlib import Path
from local_place import Place
place = Place(Path(sys.argv[1]))
record = place.spawn()
print(asyncio.run(place.run(record, "id -un; echo ~; touch /tmp/x && echo own tmp")))
print(place.card(record.id).isolation)
place.delete(record)
place.clean_up()
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_an_ordinary_user_has_servers_too() -> None:
    def as_nobody(*argv: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONPATH": path}
        return subprocess.run(
            argv, user="nobody", group=65534, extra_groups=[], env=environment, cwd="/", capture_output=True, text=True
        )

    try:
        runnable = as_nobody(sys.executable, "-c", "import local_place").returncode == 0
    except PermissionError:
        runnable = False
    if not runnable:
        pytest.skip("this Python lies in a directory that other users cannot read")
    directory = Path("/var/tmp") / f"pileus-of-nobody-{os.getpid()}"
    directory.mkdir(mode=0o755)
    try:
        os.chown(directory, 65534, 65534)
        done = as_nobody(sys.executable, "-c", _AS_SOMEBODY, str(directory / "local"))
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[0] == "nobody"
        assert lines[1].startswith(str(directory / "local"))
        assert lines[-1] in LEVELS
    finally:
        shutil.rmtree(directory)
