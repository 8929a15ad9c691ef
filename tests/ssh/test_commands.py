import asyncio
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap

import asyncssh
import psutil
import pytest

from pileus.errors import CommandError, ConfigError, ConnectError, UsageError
from pileus.remote import Remote, script

from .places import eventually, until


async def test_output_and_status_are_exact(remote):
    result = await remote.run("echo out; echo err >&2; exit 3", check=False)
    assert (result.stdout, result.stderr, result.exit_status, result.exit_signal) == ("out\n", "err\n", 3, None)
    stdout, stderr = result
    assert (stdout, stderr) == ("out\n", "err\n")


@pytest.mark.parametrize("status", [0, 1, 125, 127, 129, 137, 255])
async def test_exit_status_is_the_commands_own(remote, status):
    result = await remote.run(f"exit {status}", check=False)
    assert (result.exit_status, result.exit_signal) == (status, None)


@pytest.mark.parametrize("name", ["KILL", "TERM", "HUP", "SEGV"])
async def test_ending_signal_is_named(remote, name):
    result = await remote.run(f"ulimit -c 0; kill -{name} $$", check=False)
    assert (result.exit_status, result.exit_signal) == (None, name)


async def test_failed_command_raises_with_its_result_and_the_tail_of_stderr(remote):
    with pytest.raises(CommandError, match="exited with 4:\n  it broke") as caught:
        await remote.run("echo partial; echo it broke >&2; exit 4")
    assert caught.value.result.stdout == "partial\n"
    assert caught.value.result.exit_status == 4
    assert str(remote.endpoint.port) in caught.value.host


@pytest.mark.parametrize(
    "command",
    [
        "printf '%s\n' 'a b' \"c'd\"",
        'printf "%s\\n" "back\\\\slash" \'!bang\' "$((1 + 2))" "`echo tick`"',
        "cat <<'END'\nline one\n  'quoted' \"text\" \\ $HOME %s %b\nEND\n",
        "printf '%s' 'été ☁ \t'",
        "# only a comment",
        "printf '%s' '-n' '\\0101'",
    ],
)
async def test_any_command_text_arrives_unchanged(remote, command):
    expected = subprocess.run(["/bin/sh", "-c", command], capture_output=True).stdout
    assert (await remote.run(command)).stdout_bytes == expected


async def test_output_that_is_not_utf8_harms_nothing(remote):
    other = asyncio.ensure_future(remote.run("sleep 0.3; echo fine"))
    result = await remote.run(r"printf '\377\376\000\n'")
    assert result.stdout_bytes == b"\xff\xfe\x00\n"
    assert result.stdout == "��\0\n"
    assert (await other).stdout == "fine\n"


async def test_environment_is_exported_whatever_its_values(remote):
    values = {"ONE": 'it\'s "two" $HOME\n`three`', "EMPTY": ""}
    result = await remote.run('printf \'%s|%s\' "$ONE" "$EMPTY"; sh -c \'printf %s "$ONE"\'', env=values)
    assert result.stdout == f"{values['ONE']}|{values['ONE']}"
    with pytest.raises(ConfigError, match="environment variable"):
        await remote.run("true", env={"a-b": "c"})


async def test_command_that_cannot_be_sent_is_refused_before(remote):
    with pytest.raises(ConfigError, match="create_file"):
        await remote.run("x" * 200_000)
    with pytest.raises(ConfigError, match="NUL"):
        await remote.run("echo \0")
    assert not remote.connected


async def test_long_command_runs(remote):
    assert (await remote.run("printf %s " + "x" * 90_000)).stdout == "x" * 90_000


async def test_standard_input_is_given_whole_and_ends(remote):
    data = os.urandom(3_000_000)
    result = await remote.run("cat", stdin=data)
    assert result.stdout_bytes == data
    assert (await remote.run("cat; echo end")).stdout == "end\n"
    assert (await remote.run("cat; echo end", stdin=b"")).stdout == "end\n"


async def test_command_that_reads_none_of_its_input_ends(remote):
    assert (await remote.run("exec <&-; echo early", stdin=b"x" * 2_000_000)).stdout == "early\n"


async def test_given_input_leaves_no_file_behind(remote, place):
    await remote.run("sleep 0", stdin=b"secret", env={})
    listing = await remote.run('ls -a "${TMPDIR:-/tmp}" "$HOME" | grep pileus[.] || true', stdin=b"secret")
    assert listing.stdout == ""


async def test_forwarded_input_streams_both_ways(remote):
    source, seen, answers = asyncio.StreamReader(), bytearray(), asyncio.Event()

    def hear(data):
        seen.extend(data)
        answers.set()

    running = asyncio.ensure_future(
        remote.run(
            "echo noise >&2; while read -r x; do echo got $x; done; exit 6",
            check=False,
            forward_stdin=source,
            on_stdout=hear,
        )
    )
    for number in range(3):
        answers.clear()
        source.feed_data(b"%d\n" % number)
        await answers.wait()
        assert seen.endswith(b"got %d\n" % number)
    source.feed_eof()
    result = await running
    assert (result.exit_status, result.stderr, bytes(seen)) == (6, "noise\n", b"got 0\ngot 1\ngot 2\n")


async def test_forwarded_commands_do_not_starve_each_other(place):
    async with Remote(place.endpoint(), max_sessions=2) as remote:

        async def one(number):
            source = asyncio.StreamReader()
            source.feed_data(b"%d" % number)
            source.feed_eof()
            return (await remote.run("cat", forward_stdin=source)).stdout

        assert await asyncio.gather(*(one(number) for number in range(20))) == [str(number) for number in range(20)]


async def test_streamed_output_is_not_kept(remote):
    seen = {1: 0, 2: 0}

    def count(stream):
        return lambda data: seen.__setitem__(stream, seen[stream] + len(data))

    command = "head -c 50000000 /dev/zero; head -c 1000000 /dev/zero >&2"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = await remote.run(command, on_stdout=count(1), on_stderr=count(2))
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert seen == {1: 50_000_000, 2: 1_000_000}
    assert (result.stdout_bytes, result.stderr_bytes) == (b"", b"")
    assert grown_kb < 25_000


async def test_slow_sink_holds_the_command_back(remote):
    """A sink that awaits gets its pieces one at a time, and what waits meanwhile stays below one window."""
    busy, total, release = 0, 0, asyncio.Event()

    async def sink(data):
        nonlocal busy, total
        assert busy == 0
        busy += 1
        total += len(data)
        await release.wait()
        busy -= 1

    mark = f"{remote.endpoint.port}-progress"
    running = asyncio.ensure_future(remote.run(f"head -c 20000000 /dev/zero; echo {mark} >&2", on_stdout=sink))
    await eventually(lambda: total, "output arrives")
    await asyncio.sleep(0.3)
    assert total < 1_000_000
    assert not running.done()
    release.set()
    assert (await running).stderr == f"{mark}\n"
    assert total == 20_000_000


async def test_last_piece_is_sunk_before_the_end(remote):
    seen = []

    async def sink(data):
        await asyncio.sleep(0.1)
        seen.append(data)

    await remote.run("echo last", on_stdout=sink)
    assert seen == [b"last\n"]


async def test_error_of_a_sink_stops_the_command_and_is_raised(remote, place):
    def sink(data):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        await remote.run("echo x; sleep 1001", on_stdout=sink)
    await eventually(lambda: not place.running("1001"), "the command is gone")
    assert (await remote.run("echo still")).stdout == "still\n"


async def test_timeout_stops_the_command_and_shows_what_came(remote, place):
    with pytest.raises(CommandError, match=r"timed out after 0\.5 s") as caught:
        await remote.run("echo before; sleep 1002", timeout=0.5)
    result = caught.value.result
    assert (result.stdout, result.exit_status, result.exit_signal) == ("before\n", None, None)
    await eventually(lambda: not place.running("1002"), "the command is gone")


@pytest.mark.parametrize(
    "command",
    [
        "sleep 1003",
        "sleep 1003 & sleep 1003 | cat; wait",
        "timeout 2000 sleep 1003",  # puts itself into a process group of its own
        "(trap '' TERM; while :; do sleep 1003; done)",
        "sh -c 'set -m; sleep 1003 & wait' 2>/dev/null",
    ],
    ids=["plain", "pipeline", "own group", "deaf to TERM", "job control"],
)
async def test_cancelled_command_is_gone_from_the_server(remote, place, command):
    running = asyncio.ensure_future(remote.run(command))
    await eventually(lambda: place.running("1003"), "it runs")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await eventually(lambda: not place.running("1003"), "it is gone")


@pytest.mark.parametrize("how", ["stdin", "forward"])
async def test_cancelled_command_with_input_is_gone_even_if_it_reads_nothing(remote, place, how):
    source = asyncio.StreamReader()
    source.feed_data(b"x" * 5_000_000)
    given = {"stdin": b"x" * 1_000_000} if how == "stdin" else {"forward_stdin": source}
    running = asyncio.ensure_future(remote.run("sleep 1004", **given))
    await eventually(lambda: place.running("1004"), "it runs")
    await asyncio.sleep(0.1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await eventually(lambda: not place.running("1004"), "it is gone")


async def test_cancelled_commands_give_their_places_back(place):
    """Also those that are cancelled while their channel is being opened; one connection has five places."""
    async with Remote(place.endpoint()) as remote:
        remote._pool._max_connections = 1
        for delay in [0.0, 0.001, 0.002, 0.004, 0.008, 0.016] * 5:
            running = asyncio.ensure_future(remote.run("sleep 1005"))
            await asyncio.sleep(delay)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        results = await asyncio.gather(*(remote.run(f"echo {number}") for number in range(10)))
        assert [result.stdout for result in results] == [f"{number}\n" for number in range(10)]
        await eventually(lambda: not place.running("1005"), "they are gone")


async def test_what_a_command_leaves_behind_on_purpose_stays(remote, place):
    await remote.run("sleep 1006 >/dev/null 2>&1 &")
    await asyncio.sleep(0.3)
    [left] = place.running("1006")
    left.kill()


async def test_the_watcher_is_no_child_of_the_command(remote):
    assert (await remote.run("ps -o pid= --ppid $$ | wc -l; wait")).stdout.strip() in ("1", "2")  # ps, wc
    assert (
        await remote.run(f"exec {sys.executable} -c 'import os\ntry: os.wait()\nexcept ChildProcessError: print(1)'")
    ).stdout == "1\n"


async def test_kill_of_the_own_group_is_a_commands_right(remote):
    result = await remote.run("trap 'exit 9' TERM; kill 0; sleep 1", check=False)
    assert result.exit_status == 9


async def test_lost_connection_is_never_a_result(sshd):
    sshd.start()
    async with Remote(sshd.endpoint()) as remote:
        running = [asyncio.ensure_future(remote.run("echo out; sleep 1007", check=check)) for check in (True, False)]
        await eventually(lambda: len(sshd.running("1007")) >= 4, "they run")
        for process in sshd.connections():
            process.kill()
        for command in running:
            with pytest.raises(ConnectError, match="how it ended is not known"):
                await command
        await eventually(lambda: not sshd.running("1007"), "they are gone from the server")
        assert (await remote.run("echo again")).stdout == "again\n"


async def test_server_that_locks_up_is_noticed(new_place):
    new_place.start()
    async with Remote(new_place.endpoint(), keepalive_interval_s=0.2, keepalive_count=2) as remote:
        await remote.run("true")
        running = asyncio.ensure_future(remote.run("sleep 1008"))
        await eventually(lambda: new_place.running("1008"), "it runs")
        frozen = new_place.connections()
        for process in frozen:
            process.suspend()
        try:
            with pytest.raises(ConnectError):
                await asyncio.wait_for(running, 30)
        finally:
            for process in frozen:
                with contextlib.suppress(psutil.Error):
                    process.resume()
        await eventually(lambda: not new_place.running("1008"), "it is gone once the server breathes")


@pytest.mark.parametrize("given", ["", "stdin=b'x'", "forward_stdin=source"])
async def test_killed_controller_leaves_nothing_running(place, given):
    program = textwrap.dedent(f"""
        import asyncio, os, sys
        from pileus.remote import Endpoint, Remote
        async def main():
            source = asyncio.StreamReader()
            endpoint = Endpoint("127.0.0.1", {place.port}, {place.login!r}, sys.stdin.read(), {(place.host_key.public_line,)!r}, "box")
            await Remote(endpoint).run("echo up; sleep 1009", on_stdout=lambda data: os.write(1, data), {given})
        asyncio.run(main())
    """)
    controller = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with controller:
        controller.stdin.write(place.user_key.private_pem.encode())
        controller.stdin.close()
        assert controller.stdout.readline() == b"up\n"
        assert place.running("1009")
        controller.send_signal(signal.SIGKILL)
    until(lambda: not place.running("1009"), "the command is gone")


async def test_two_hundred_commands_at_once_keep_their_outputs_apart(remote):
    results = await asyncio.gather(*(remote.run(f"echo {number}; echo e{number} >&2") for number in range(200)))
    assert [tuple(result) for result in results] == [(f"{number}\n", f"e{number}\n") for number in range(200)]


async def test_background_command_outlives_the_connection(place):
    async with Remote(place.endpoint()) as remote:
        result = await remote.run(
            'echo "$WORD"; echo oops >&2; sleep 0.5; exit 7', background=True, env={"WORD": "a 'b'"}
        )
        assert result.ok
        assert result.exit_status is None
        job = place.home / ".pileus" / "jobs" / result.job_id
        keeper = psutil.Process(int((job / "pid").read_text()))
        assert keeper.is_running()
    assert keeper.is_running()
    until(lambda: (job / "status").exists(), "it ends")
    read = {name: (job / name).read_text() for name in ("stdout", "stderr", "status")}
    assert read == {"stdout": "a 'b'\n", "stderr": "oops\n", "status": "7\n"}
    assert (job / "command").read_text().endswith("exit 7")
    assert (place.home / ".pileus").stat().st_mode & 0o077 == 0


async def test_background_command_takes_no_input_and_no_sinks(remote):
    with pytest.raises(ConfigError, match="background"):
        await remote.run("cat", background=True, stdin=b"x")


async def test_background_that_cannot_start_is_an_error(remote, place):
    (place.home / ".pileus").rename(place.home / "aside") if (place.home / ".pileus").exists() else None
    (place.home / ".pileus").write_text("in the way")
    try:
        with pytest.raises(CommandError, match="could not be started"):
            await remote.run("true", background=True)
    finally:
        (place.home / ".pileus").unlink()


async def test_leased_session_is_one_of_the_places(place):
    async with Remote(place.endpoint(), max_sessions=1) as remote:
        remote._pool._max_connections = 1
        async with remote.session() as connection:
            assert isinstance(connection, asyncssh.SSHClientConnection)
            waiting = asyncio.ensure_future(remote.run("echo mine"))
            assert (await connection.run("echo own")).stdout in ("own\n", b"own\n")
            await asyncio.sleep(0.2)
            assert not waiting.done()
        assert (await waiting).stdout == "mine\n"


async def test_no_place_for_a_session_is_a_connect_error(place, monkeypatch):
    monkeypatch.setattr("pileus.remote.remote.SESSION_S", 0.3)
    async with Remote(place.endpoint(), max_sessions=1) as remote:
        remote._pool._max_connections = 1
        async with remote.session():
            with pytest.raises(ConnectError, match="no free session"):
                async with remote.session():
                    pass


async def test_activity_is_told_from_begin_to_end(place, tmp_path):
    told = []
    async with Remote(place.endpoint(), on_activity=told.append) as remote:
        await remote.run("true")
        with pytest.raises(CommandError):
            await remote.run("false")
        async with remote.session():
            assert sum(told) == 1
        await remote.create_file("x", str(tmp_path / "x"))
        running = asyncio.ensure_future(remote.run("sleep 1010"))
        await eventually(lambda: sum(told) == 1, "it begins")
        running.cancel()
        await asyncio.wait({running})
    assert told == [1, -1] * 5


async def test_closed_remote_refuses(place):
    remote = Remote(place.endpoint())
    waiting = asyncio.ensure_future(remote.run("sleep 1011"))
    await eventually(lambda: place.running("1011"), "it runs")
    await remote.aclose()
    with pytest.raises(ConnectError):
        await waiting
    with pytest.raises(UsageError):
        await remote.run("true")
    await remote.aclose()


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "fish", "csh", "tcsh", "zsh", "ksh"])
@pytest.mark.parametrize("given", [None, b"in\nput"])
def test_any_login_shell_passes_the_command_on(shell, given):
    """What sshd does with the line, done here with shells that need not be anybody's login shell."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed on this machine")
    command = "printf '%s|' 'a'\"'\"'b!c\\d' \"x\ny\" 'été' \"$((1 + 2))\" `echo tick` !! !x %s; cat; exit 3"
    line = script.command_line(command) if given is None else script.fed_command_line(command, len(given))
    with subprocess.Popen(
        [shell, "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        process.stdin.write(given or b"")
        process.stdin.flush()
        assert process.wait(60) == 3
        process.stdin.close()
        assert process.stdout.read().decode() == "a'b!c\\d|x\ny|été|3|tick|!!|!x|%s|" + (given or b"").decode()
