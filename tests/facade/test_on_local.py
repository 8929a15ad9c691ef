"""The blocking Server on real local servers: commands, callbacks, plain SSH, Ctrl-C from a terminal's point of view."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pileus import CommandError, ConnectError, Provider, Server


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    place = tmp_path_factory.mktemp("local")
    settings = {"dir": str(place / "trees"), "overcommit": "100", "helper_idle": "1"}
    with Provider("local", "facade", place / "state", settings=settings) as provider:
        provider.deploy()
        yield provider
        provider.tear_down()


@pytest.fixture(scope="module")
def server(provider: Provider) -> Server:
    server = provider.spawn("", "", provider.cheapest_server_flavor(1, 1))
    server.wait_until_ready()
    return server


def test_output_is_told_in_the_callers_thread_in_order_and_before_the_return(server: Server) -> None:
    pieces: list[bytes] = []
    threads: set[threading.Thread] = set()

    def note(piece: bytes) -> None:
        pieces.append(piece)
        threads.add(threading.current_thread())

    result = server.run_cmd("seq 1 10000; echo end >&2", on_stdout=note, on_stderr=note)

    assert threads == {threading.current_thread()}
    assert result.stdout_bytes == b""
    lines = b"".join(pieces).split()
    assert [line for line in lines if line != b"end"] == [str(number).encode() for number in range(1, 10001)]
    assert b"end" in lines


def test_an_error_in_on_stdout_ends_the_command_and_is_raised(server: Server) -> None:
    def complain(piece: bytes) -> None:
        raise LookupError(piece)

    with pytest.raises(LookupError):
        server.run_cmd("echo $$ > doomed.pid; echo word; sleep 600", on_stdout=complain)
    gone = "while kill -0 $(cat doomed.pid) 2>/dev/null; do sleep 0.02; done"
    assert server.run_cmd(gone, timeout=30).ok


def test_room_is_taken_and_given_back(server: Server) -> None:
    assert server.allocate(0.5, 1, 0)
    assert server.has_space_for(0.5, 1, 0) == 2 * server.flavor.cores - 1
    assert server.release(0.5, 1, 0)
    assert not server.release(0.5, 1, 0)


def test_files_go_there_and_back(server: Server, tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(b"\x00 bytes")
    server.upload_file(tmp_path / "here", "deep/down/there")
    server.download_file("deep/down/there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"\x00 bytes"


def test_an_ssh_client_runs_commands_and_reaches_the_rest_of_asyncssh(server: Server) -> None:
    client = server.ssh_client()

    assert client.run("cat; echo oops >&2; exit 0", stdin=b"fed").stdout == "fed"
    with pytest.raises(CommandError, match=r"exit status 3.*sorry") as caught:
        client.run("echo sorry >&2; exit 3")
    assert caught.value.result.exit_status == 3
    assert client.run("kill -KILL $$", check=False).exit_signal == "KILL"
    with pytest.raises(CommandError, match=r"did not end within 0\.2 s"):
        client.run("sleep 600", timeout=0.2)

    process = client.call(client.connection.create_process, "read word; echo got $word")
    client.call(process.stdin.write, b"it\n")
    assert client.call(process.stdout.readline) == b"got it\n"
    client.call(process.close)
    client.call(process.wait_closed)


def test_ssh_sessions_give_their_places_back(server: Server) -> None:
    for _ in range(12):  # more than a connection has places
        with server.ssh_session() as session:
            assert session.run("echo hello").stdout == "hello\n"
    with pytest.raises(LookupError), server.ssh_session():
        raise LookupError
    with server.ssh_session() as session:
        assert session.run("true").ok


def test_a_connection_that_is_lost_is_not_taken_for_a_result(provider: Provider) -> None:
    doomed = provider.spawn("", "", provider.cheapest_server_flavor(1, 1))
    doomed.wait_until_ready()
    client = doomed.ssh_client()

    def destroy_it_once_it_works() -> None:
        doomed.run_cmd("until test -e begun; do sleep 0.02; done", timeout=30)
        doomed.destroy()

    thread = threading.Thread(target=destroy_it_once_it_works)
    thread.start()
    with pytest.raises(ConnectError, match=r"lost|could not be run"):
        client.run("touch begun; sleep 600")
    thread.join()


PROGRAM = """
import sys
from pileus import Provider

with Provider("local", "interrupted", sys.argv[1] + "/state", settings={"dir": sys.argv[1] + "/trees", "overcommit": "100",
              "helper_idle": "1"}) as provider:
    provider.deploy()
    try:
        server = provider.spawn("", "", provider.cheapest_server_flavor(1, 1))
        server.wait_until_ready()
        server.run_cmd("echo $$ > job.pid; echo started; sleep 600", on_stdout=lambda piece: print(piece.decode(), end="", flush=True))
    except KeyboardInterrupt:
        server.run_cmd("while kill -0 $(cat job.pid) 2>/dev/null; do sleep 0.02; done", timeout=30)
        print("alive:", server.alive(check_ssh=True), flush=True)
        raise
    finally:
        provider.tear_down()
        print("left:", provider.audit(), flush=True)
"""


def test_an_interrupt_ends_the_remote_command_and_leaves_the_rest_to_the_program(tmp_path: Path) -> None:
    program = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(PROGRAM), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stdout is not None
        first = program.stdout.readline()
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=60)
    finally:
        program.kill()
        program.wait()
    assert first + out == "started\nalive: True\nleft: []\n", err
    assert program.returncode == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert list((tmp_path / "trees").iterdir()) == []
