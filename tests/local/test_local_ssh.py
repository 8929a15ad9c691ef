"""What an SSH client meets on a server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from local_place import CLIENT_KEY, Place, call, eventually

from pileus.boot import commands
from pileus.drivers.base import ServerRecord
from pileus.drivers.local import processes
from pileus.drivers.local.host import user_name


def sleeping(server_id: str) -> list[int]:
    """The server's processes that run `sleep 1000`."""
    found = []
    for pid in processes.marked(server_id):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\0001000\0":
                found.append(pid)
    return found


async def test_the_three_streams_are_apart_and_exact(place: Place) -> None:
    data = bytes(range(256)) * 4096
    async with place.connect(place.spawn()) as connection:
        done = await connection.run("cat; printf problem >&2; exit 3", input=data, encoding=None)
        assert (done.stdout, done.stderr, done.exit_status) == (data, b"problem", 3)


async def test_the_end_of_input_is_passed_on_in_both_directions(place: Place) -> None:
    async with place.connect(place.spawn()) as connection:
        # The command closes its output first and goes on reading; then it is the other way round.
        done = await connection.run("exec >&- 2>&-; test $(wc -c) = 5", input="12345")
        assert done.exit_status == 0
        done = await connection.run("exec <&-; sleep 0.05; echo out", input="never read" * 100_000)
        assert (done.stdout, done.exit_status) == ("out\n", 0)


async def test_a_command_killed_by_a_signal_says_so(each_place: Place) -> None:
    async with each_place.connect(each_place.spawn()) as connection:
        done = await connection.run("kill -KILL $$")
        assert (done.exit_status, done.exit_signal and done.exit_signal[0]) == (-1, "KILL")


async def test_a_signal_reaches_the_command_and_its_children(each_place: Place) -> None:
    record = each_place.spawn()
    async with each_place.connect(record) as connection:
        process = await connection.create_process("sleep 1000 & sleep 1000; wait")
        while len(sleeping(record.id)) < 2:
            await asyncio.sleep(0.01)
        process.send_signal("TERM")
        done = await process.wait()
        assert done.exit_signal is not None
        assert done.exit_signal[0] == "TERM"
    eventually(lambda: not sleeping(record.id))


async def test_a_client_that_does_not_read_holds_the_command_back(place: Place) -> None:
    record = place.spawn()
    finished = place.tree(record) / "home" / user_name() / "finished"
    async with place.connect(record) as connection:
        process = await connection.create_process("head -c 40000000 /dev/zero; touch finished", encoding=None)
        process.channel.pause_reading()
        await asyncio.sleep(1)
        assert not finished.exists()  # more than window and buffers hold
        process.channel.resume_reading()
        size = 0
        while data := await process.stdout.read(1 << 20):
            size += len(data)
        assert size == 40_000_000
    assert finished.exists()


async def test_input_that_nobody_reads_does_not_keep_a_closed_channel(place: Place) -> None:
    record = place.spawn()
    async with place.connect(record) as connection:
        await connection.run("true")
        server = place.card(record.id).pid
        before = len(os.listdir(f"/proc/{server}/fd"))
        process = await connection.create_process("sleep 1000", encoding=None)
        process.stdin.write(b"x" * 4_000_000)
        await asyncio.sleep(0.1)
        assert len(os.listdir(f"/proc/{server}/fd")) == before + 3
        process.close()
        while len(os.listdir(f"/proc/{server}/fd")) > before:
            await asyncio.sleep(0.01)
        assert (await connection.run("echo alive")).stdout == "alive\n"


async def test_closing_a_channel_kills_nothing_but_the_pipes(place: Place) -> None:
    async with place.connect(place.spawn()) as connection:
        home = Path((await connection.run("pwd", check=True)).stdout.strip())
        kept = await connection.create_process(
            "trap '' PIPE; while sleep 0.02; do echo x || { touch told; exit; }; done"
        )
        await kept.stdout.readline()
        kept.close()
        while not (home / "told").exists():
            await asyncio.sleep(0.01)


async def test_a_terminal_has_a_size_a_controlling_process_and_a_hang_up(each_place: Place) -> None:
    record = each_place.spawn()
    async with each_place.connect(record) as connection:
        process = await connection.create_process(
            "stty size; trap 'stty size' WINCH; trap 'touch hung-up; exit' HUP; echo $TERM; tty >/dev/tty && while :; do sleep 0.02; done",
            term_type="xterm",
            term_size=(80, 24),
        )
        assert (await process.stdout.readline()).strip() == "24 80"
        assert (await process.stdout.readline()).strip() == "xterm"
        assert (await process.stdout.readline()).startswith("/dev/pts/")
        process.change_terminal_size(132, 43)
        assert (await process.stdout.readline()).strip() == "43 132"
        process.close()
        home = each_place.tree(record) / "home" / user_name()
        while not (home / "hung-up").exists():
            await asyncio.sleep(0.01)


async def test_an_interactive_shell_takes_lines_and_control_characters(place: Place) -> None:
    async with place.connect(place.spawn()) as connection:
        process = await connection.create_process(term_type="dumb")
        process.stdin.write("sleep 1000\n")
        await asyncio.sleep(0.3)
        process.stdin.write("\x03")
        process.stdin.write("echo $((40 + 2)); exit 7\n")
        done = await asyncio.wait_for(process.wait(), 20)
        assert "42" in done.stdout
        assert done.exit_status == 7


async def test_files_are_moved_relative_to_the_home(place: Place, tmp_path: Path) -> None:
    record = place.spawn()
    async with place.connect(record) as connection, connection.start_sftp_client() as sftp:
        (tmp_path / "file").write_bytes(os.urandom(3_000_000))
        await sftp.put(tmp_path / "file", "näme with ' quote\n")
        await sftp.get("näme with ' quote\n", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()
        home = place.tree(record) / "home" / user_name()
        assert sorted(os.listdir(home)) == [".ssh", "näme with ' quote\n"]
        assert await sftp.realpath(".") == str(home)
        with pytest.raises(asyncssh.SFTPNoSuchFile):
            await sftp.get("missing", tmp_path / "never")
        with pytest.raises(asyncssh.SFTPError, match="No space left"):
            async with sftp.open("/dev/full", "wb") as full:
                await full.write(b"x" * 100_000)


async def test_ports_are_forwarded(place: Place) -> None:
    async def hello(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(hello, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, place.connect(place.spawn()) as connection:
        reader, writer = await connection.open_connection("127.0.0.1", port)
        assert await reader.read() == b"hello"
        writer.close()


async def test_more_sessions_than_openssh_allows_share_a_connection(place: Place) -> None:
    async with place.connect(place.spawn()) as connection:
        done = await asyncio.gather(*(connection.run(f"echo {number}") for number in range(60)))
        assert [one.stdout for one in done] == [f"{number}\n" for number in range(60)]


async def test_only_the_users_key_opens(place: Place) -> None:
    record = place.spawn()
    await place.run(record, "true")
    stranger = asyncssh.generate_private_key("ssh-ed25519")
    for changes in ({"client_keys": [stranger]}, {"username": "somebody-else"}, {"client_keys": None, "password": "x"}):
        with pytest.raises(asyncssh.PermissionDenied):
            async with _once(record, changes):
                pass


def _once(record: ServerRecord, changes: dict[str, Any]) -> Any:
    options = {
        "username": user_name(),
        "client_keys": [CLIENT_KEY],
        "known_hosts": None,
        "config": None,
        "agent_path": None,
        **changes,
    }
    return asyncssh.connect(record.address, record.port, **options)


async def test_a_server_without_user_data_lets_nobody_in(place: Place) -> None:
    record = place.spawn(b"")
    with pytest.raises(asyncssh.PermissionDenied):
        async with _once(record, {}):
            pass


async def test_a_host_key_made_on_the_server_is_in_force_once_the_command_has_returned(each_place: Place) -> None:
    request = each_place.request()
    (outcome,) = each_place.driver().create_servers([request], call())
    record, target = outcome.record, each_place.driver().boot_target(request.intent_id)
    assert record is not None
    async with each_place.connect(record) as connection:
        fresh = await connection.run(commands.make_host_key(target), check=True)
        other = await connection.run(commands.make_host_key(target), check=True)
        assert fresh.stdout != other.stdout
        await connection.run("true", check=True)
        await connection.run(commands.switch_host_key(target), check=True)
        new_key = asyncssh.import_public_key(other.stdout)
        assert new_key != each_place.host_keys[record.id].convert_to_public()
        known = ([new_key], [], [])
        async with each_place.connect(record, known_hosts=known) as second:
            assert (await second.run("echo new")).stdout == "new\n"
        assert (await connection.run("echo old")).stdout == "old\n"  # open connections stay
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        async with each_place.connect(record):
            pass


async def test_orphans_are_reaped_and_statuses_stay_right(place: Place) -> None:
    record = place.spawn()
    async with place.connect(record) as connection:
        await connection.run("for i in 1 2 3 4 5; do (sh -c 'sleep 0.05' &); done")
        done = await asyncio.gather(*(connection.run(f"(sleep 0.01 &); exit {number}") for number in range(40)))
        assert [one.exit_status for one in done] == list(range(40))

    def zombies() -> list[int]:
        below = processes.descendants([place.card(record.id).pid])
        return [pid for pid in below if (found := processes.look(pid)) and found.state == "Z"]

    eventually(lambda: not zombies() and len(processes.descendants([place.card(record.id).pid])) == 0)


@pytest.mark.skipif(not shutil.which("ssh"), reason="there is no OpenSSH client here")
async def test_the_openssh_client_gets_along(place: Place, tmp_path: Path) -> None:
    record = place.spawn()
    await place.run(record, "true")
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_bytes(CLIENT_KEY.export_private_key())
    known = tmp_path / "known"
    public = place.host_keys[record.id].export_public_key().decode()
    known.write_text(f"[{record.address}]:{record.port} {public}")
    argv = ["ssh", "-F", "/dev/null", "-i", str(key), "-o", f"UserKnownHostsFile={known}", "-o", "BatchMode=yes"]
    argv += ["-o", "IdentitiesOnly=yes", "-p", str(record.port), f"{user_name()}@{record.address}", "cat; exit 5"]
    done = await asyncio.to_thread(subprocess.run, argv, input=b"over", capture_output=True, timeout=30)
    assert (done.stdout, done.returncode) == (b"over", 5), done.stderr


async def test_a_client_that_is_killed_leaves_a_server_that_serves(place: Place) -> None:
    record = place.spawn()
    async with place.connect(record) as connection:
        process = await connection.create_process("echo $$; exec sleep 1000")
        await process.stdout.readline()
        connection._transport.abort()
    assert await place.run(record, "echo again") == "again"
