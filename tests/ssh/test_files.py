import asyncio
import os
import stat
import sys
from datetime import datetime, timedelta

import pytest

from pileus.errors import ConfigError, ConnectError, TransferError, UnsupportedError
from pileus.remote import Remote
from pileus.remote.copyspec import Copy, parse

NAMES = [
    "plain",
    "two words",
    "it's",
    'say "hi"',
    "new\nline",
    "-rf",
    "été ☁",
    "back\\slash",
    "$HOME `x` *?",
    b"\xff\xfe".decode(errors="surrogateescape"),
    "x" * 255,
]


def content(path):
    return path.read_bytes()


def names(directory):
    return sorted(os.listdir(directory))


@pytest.fixture
def there(place, request):
    """A directory of the test's own on the server."""
    directory = place.home / f"dir-{abs(hash(request.node.name))}"
    directory.mkdir()
    return directory


async def test_created_file_has_its_content_and_parents(remote, there):
    await remote.create_file("héllo\n", str(there / "a" / "b" / "c.txt"))
    assert content(there / "a" / "b" / "c.txt") == "héllo\n".encode()
    await remote.create_file(b"\x00\xff", str(there / "a" / "b" / "c.txt"), mode=0o751)
    assert content(there / "a" / "b" / "c.txt") == b"\x00\xff"
    assert stat.S_IMODE((there / "a" / "b" / "c.txt").stat().st_mode) == 0o751
    await remote.create_file(b"", str(there / "a" / "b" / "c.txt"))
    assert content(there / "a" / "b" / "c.txt") == b""
    assert stat.S_IMODE((there / "a" / "b" / "c.txt").stat().st_mode) == 0o751  # kept
    assert names(there / "a" / "b") == ["c.txt"]


async def test_paths_are_relative_to_the_home(remote, place, there):
    name = there.name
    await remote.create_file("1", f"{name}/one")
    await remote.create_file("2", f"~/{name}/two")
    assert (content(there / "one"), content(there / "two")) == (b"1", b"2")
    assert await remote.home_dir() == str(place.home)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
async def test_any_name_goes_up_and_comes_down(remote, there, tmp_path, name):
    (tmp_path / "up").mkdir()
    (tmp_path / "down").mkdir()
    (tmp_path / "up" / name).write_bytes(b"data")
    await remote.upload_file(tmp_path / "up" / name, f"{there}/{name}")
    assert names(there) == [name]
    await remote.download_file(f"{there}/{name}", tmp_path / "down" / name)
    assert content(tmp_path / "down" / name) == b"data"
    await remote.upload_file(tmp_path / "up", f"{there}/tree")
    await remote.download_file(f"{there}/tree", tmp_path / "tree")
    assert names(tmp_path / "tree") == [name]


async def test_mode_and_time_are_kept_both_ways(remote, there, tmp_path):
    (tmp_path / "tool").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o754)
    os.utime(tmp_path / "tool", (1_000_000_000, 1_000_000_000))
    await remote.upload_file(tmp_path / "tool", str(there / "tool"))
    await remote.download_file(str(there / "tool"), tmp_path / "back")
    for path in (there / "tool", tmp_path / "back"):
        assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_mtime) == (0o754, 1_000_000_000)


async def test_large_file_is_exact_and_tells_its_progress(remote, there, tmp_path):
    data = os.urandom(1 << 20) * 20
    (tmp_path / "large").write_bytes(data)
    told = []
    await remote.upload_file(tmp_path / "large", str(there / "large"), progress=lambda *pair: told.append(pair))
    assert content(there / "large") == data
    assert told[-1] == (len(data), len(data))
    assert len(told) >= 5
    assert told == sorted(told)
    told.clear()
    await remote.download_file(str(there / "large"), tmp_path / "back", progress=lambda *pair: told.append(pair))
    assert content(tmp_path / "back") == data
    assert told[-1] == (len(data), len(data))


async def test_sparse_and_empty_files_keep_their_size(remote, there, tmp_path):
    with (tmp_path / "holes").open("wb") as file:
        file.write(b"begin")
        file.truncate(5_000_000)
    (tmp_path / "empty").touch()
    for name in ("holes", "empty"):
        await remote.upload_file(tmp_path / name, str(there / name))
        assert content(there / name) == content(tmp_path / name)
        await remote.download_file(str(there / name), tmp_path / f"{name}.back")
        assert content(tmp_path / f"{name}.back") == content(tmp_path / name)


@pytest.mark.skipif(not os.path.exists("/proc/version"), reason="this system has no /proc")
async def test_file_without_a_known_size_is_downloaded_whole(remote, tmp_path):
    await remote.download_file("/proc/version", tmp_path / "version")
    with open("/proc/version", "rb") as file:
        assert content(tmp_path / "version") == file.read()


async def test_tree_goes_up_and_comes_down_the_same(remote, there, tmp_path):
    top = tmp_path / "top"
    (top / "a" / "deep" / "er").mkdir(parents=True)
    (top / "empty").mkdir()
    for number in range(40):
        (top / "a" / f"{number}").write_bytes(b"%d" % number * number)
    (top / "a" / "deep" / "er" / "run").write_bytes(b"x")
    (top / "a" / "deep" / "er" / "run").chmod(0o700)
    (top / "link").symlink_to("a/1")
    (top / "dangling").symlink_to("nowhere")
    os.mkfifo(top / "pipe")
    (top / "a" / "deep").chmod(0o555)
    os.utime(top / "a", (1_000_000_000, 1_000_000_000))
    told = []
    await remote.upload_file(top, str(there / "copy"), progress=lambda *pair: told.append(pair))
    await remote.download_file(str(there / "copy"), tmp_path / "back")
    for copy in (there / "copy", tmp_path / "back"):
        assert names(copy) == ["a", "dangling", "empty", "link"]
        assert all(content(copy / "a" / f"{number}") == b"%d" % number * number for number in range(40))
        assert os.readlink(copy / "link") == "a/1"
        assert stat.S_IMODE((copy / "a" / "deep" / "er" / "run").stat().st_mode) == 0o700
        assert stat.S_IMODE((copy / "a" / "deep").stat().st_mode) == 0o555
        assert (copy / "a").stat().st_mtime == 1_000_000_000
    assert told[-1][0] == told[-1][1] == sum(len(str(number)) * number for number in range(40)) + 1
    for copy in (top, there / "copy", tmp_path / "back"):
        (copy / "a" / "deep").chmod(0o755)


async def test_slash_at_the_end_means_into_the_directory(remote, there, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    await remote.upload_file(tmp_path / "file", f"{there}/new/")
    assert content(there / "new" / "file") == b"x"
    (tmp_path / "down").mkdir()
    await remote.download_file(f"{there}/new/file", f"{tmp_path}/down/")
    assert content(tmp_path / "down" / "file") == b"x"


async def test_link_at_the_destination_is_followed(remote, there, tmp_path):
    (there / "real").write_bytes(b"old")
    (there / "link").symlink_to("real")
    await remote.create_file("new", str(there / "link"))
    assert (there / "link").is_symlink()
    assert content(there / "real") == b"new"


async def test_failures_say_why_and_name_the_path(remote, there, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (there / "file").write_bytes(b"old")
    (there / "dir").mkdir()
    os.mkfifo(there / "pipe")
    cases = [
        (remote.upload_file(tmp_path / "missing", str(there / "x")), "no such file"),
        (remote.download_file(str(there / "missing"), tmp_path / "x"), "no such file"),
        (remote.upload_file(tmp_path / "file", str(there / "dir")), "is a directory"),
        (remote.create_file("x", str(there / "dir")), "is a directory"),
        (remote.download_file(str(there / "file"), tmp_path), "is a directory"),
        (remote.create_file("x", str(there / "file" / "below")), "not a directory"),
        (remote.mkdir(str(there / "file" / "below")), "not a directory"),
        (remote.mkdir(str(there / "file")), "not a directory"),
        (remote.create_file("x", str(there / "pipe")), "not a regular file"),
        (remote.upload_file("/dev/null", str(there / "x")), "neither a file nor a directory"),
        (remote.download_file("/dev/zero", tmp_path / "x"), "neither a file nor a directory"),
        (remote.create_file("x", str(there / ("y" * 256))), "cannot create"),
    ]
    for doing, why in cases:
        with pytest.raises(TransferError, match=why) as caught:
            await doing
        assert caught.value.path
        assert caught.value.host
    assert content(there / "file") == b"old"
    assert names(there) == ["dir", "file", "pipe"]
    assert names(tmp_path) == ["file"]


async def test_download_into_a_missing_directory_asks_the_server_nothing(place, tmp_path):
    async with Remote(place.endpoint()) as remote:
        with pytest.raises(TransferError, match="does not exist"):
            await remote.download_file("whatever", tmp_path / "missing" / "file")
        assert not remote.connected
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root is refused nothing")
async def test_permission_denied_is_told(remote, there, tmp_path):
    (there / "closed").mkdir(mode=0o500)
    with pytest.raises(TransferError, match="permission denied"):
        await remote.create_file("x", str(there / "closed" / "x"))


@pytest.mark.skipif(os.geteuid() != 0 or not sys.platform.startswith("linux"), reason="needs to mount a small disk")
async def test_full_disk_is_told_and_leaves_nothing(remote, there, tmp_path):
    if os.system(f"mount -t tmpfs -o size=64k none {there} 2>/dev/null"):
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(TransferError, match="no space left"):
            await remote.create_file(b"x" * 1_000_000, str(there / "big"))
        assert names(there) == []
    finally:
        assert os.system(f"umount {there}") == 0


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_cancelled_transfer_leaves_nothing_and_keeps_the_old(remote, there, tmp_path, direction):
    (tmp_path / "big").write_bytes(b"x" * 50_000_000)
    (there / "big").write_bytes(b"x" * 50_000_000)
    (tmp_path / "target").write_bytes(b"old")
    (there / "target").write_bytes(b"old")
    begun = asyncio.Event()
    progress = lambda done, total: begun.set()  # noqa: E731
    if direction == "up":
        moving = asyncio.ensure_future(remote.upload_file(tmp_path / "big", str(there / "target"), progress=progress))
    else:
        moving = asyncio.ensure_future(remote.download_file(str(there / "big"), tmp_path / "target", progress=progress))
    await begun.wait()
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert (content(tmp_path / "target"), content(there / "target")) == (b"old", b"old")
    assert names(there) == ["big", "target"]
    assert names(tmp_path) == ["big", "target"]
    await remote.create_file("usable", str(there / "after"))


async def test_lost_connection_in_a_transfer_is_a_connect_error_and_the_next_works(sshd, tmp_path):
    sshd.start()
    (tmp_path / "big").write_bytes(b"x" * 100_000_000)
    async with Remote(sshd.endpoint()) as remote:
        begun = asyncio.Event()
        moving = asyncio.ensure_future(
            remote.upload_file(tmp_path / "big", "target", progress=lambda done, total: begun.set())
        )
        await begun.wait()
        for process in sshd.connections():
            process.kill()
        with pytest.raises(ConnectError):
            await moving
        assert not (sshd.home / "target").exists()
        await remote.create_file("x", "after")
        assert content(sshd.home / "after") == b"x"


async def test_lost_sftp_channel_is_opened_again(sshd):
    sshd.start()
    async with Remote(sshd.endpoint()) as remote:
        await remote.create_file("1", "one")
        _, client = await remote._pool.sftp()
        client.exit()
        await client.wait_closed()
        with pytest.raises(ConnectError):
            await remote.create_file("2", "two")
        await remote.create_file("2", "two")
        assert content(sshd.home / "two") == b"2"


async def test_server_without_sftp_says_so(sshd):
    sshd.sftp = ""
    sshd.start()
    async with Remote(sshd.endpoint()) as remote:
        with pytest.raises(ConnectError, match="no SFTP"):
            await remote.create_file("x", "x")
        assert (await remote.run("echo fine")).stdout == "fine\n"


async def test_mkdir_makes_parents_and_may_be_repeated(remote, there):
    for _ in range(2):
        await remote.mkdir(str(there / "a" / "b c" / "d"))
        assert (there / "a" / "b c" / "d").is_dir()
    await remote.mkdir(f"{there}/slash/")
    await asyncio.gather(*(remote.mkdir(str(there / "p" / "q" / "r")) for _ in range(10)))
    assert (there / "p" / "q" / "r").is_dir()


@pytest.mark.skipif(os.geteuid() == 0, reason="root needs no sudo")
async def test_mkdir_that_needs_root_is_unsupported_without_sudo(remote):
    if (await remote.run("sudo -n true", check=False)).ok:
        pytest.skip("sudo is free of charge here")
    with pytest.raises(UnsupportedError, match="root is needed"):
        await remote.mkdir("/pileus-test-needs-root")


async def test_time_zone_is_the_servers_offset(remote):
    zone = await remote.time_zone()
    assert zone.tzname(None) == "SER"
    assert zone.utcoffset(None) == datetime.now().astimezone().utcoffset()
    assert abs(zone.utcoffset(None)) < timedelta(days=1)


async def test_copy_over_puts_each_file_where_it_belongs(remote, place, there, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cfg").write_bytes(b"config")
    os.utime(tmp_path / ".cfg", (1_000_000_000, 1_000_000_000))
    (tmp_path / "a,b:c").write_bytes(b"odd")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "leaf").write_bytes(b"leaf")
    spec = rf"~/.cfg, ~/missing,{tmp_path}/a\,b\:c:{there}/odd,/no/such/file,,~/tree:~/{there.name}/tree,~/.cfg:{there}/x/cfg"
    await remote.copy_over(spec)
    assert content(place.home / ".cfg") == b"config"
    assert (place.home / ".cfg").stat().st_mtime == 1_000_000_000
    assert content(there / "odd") == b"odd"
    assert content(there / "tree" / "leaf") == b"leaf"
    assert content(there / "x" / "cfg") == b"config"
    assert names(there) == ["odd", "tree", "x"]


async def test_copy_over_reports_a_file_that_cannot_be_written(remote, there, tmp_path):
    (tmp_path / "one").write_bytes(b"1")
    (there / "busy").mkdir()
    with pytest.raises(TransferError, match="is a directory"):
        await remote.copy_over(f"{tmp_path}/one:{there}/busy")


def test_copy_specification_is_read_exactly(monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    assert parse("") == parse(" , ") == []
    assert parse("/a/b,~/c, d/e ") == [Copy("/a/b", "/a/b"), Copy("/h/c", "~/c"), Copy("d/e", "d/e")]
    assert parse(r"x\\\,y:~/z") == [Copy("x\\,y", "~/z")]
    assert parse(r"C\x:y") == [Copy(r"C\x", "y")]
    assert parse("../a:b") == [Copy("../a", "b")]
    for wrong in ("../a", "a:b:c", ":b", "a:", "a/../../b"):
        with pytest.raises(ConfigError):
            parse(wrong)
