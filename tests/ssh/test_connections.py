import asyncio
import contextlib
import socket
import threading

import asyncssh
import pytest

from pileus.errors import ConfigError, ConnectError, HostKeyError
from pileus.remote import Remote, keys
from pileus.remote.dial import Setback, has_penalties, pause

from .places import Place, eventually, free_port


class Impostor(asyncssh.SSHServer):
    """Would let anybody in, and notes what it is told."""

    def __init__(self, told):
        self._told = told

    def begin_auth(self, username):
        self._told.append(username)
        return False


@contextlib.asynccontextmanager
async def impostor(told, host_key, port=0):
    key = asyncssh.import_private_key(host_key.private_pem)
    factory = lambda: Impostor(told)  # noqa: E731
    process = lambda process: told.append(process.command)  # noqa: E731
    async with asyncssh.create_server(
        factory, "127.0.0.1", port, server_host_keys=[key], process_factory=process, config=None
    ) as acceptor:
        yield acceptor.get_port()


async def test_impostor_is_refused_at_once_and_told_nothing(tmp_path):
    told, stranger = [], keys.generate()
    place = Place("asyncssh", tmp_path)
    async with impostor(told, stranger) as place.port, Remote(place.endpoint()) as remote:
        with pytest.raises(HostKeyError) as caught:
            await remote.connect(30)
        with pytest.raises(HostKeyError):
            await remote.run("echo secret")
    assert told == []
    assert keys.fingerprint(stranger.public_line) in str(caught.value)
    assert keys.fingerprint(place.host_key.public_line) in str(caught.value)
    assert "try:" in str(caught.value)


async def test_impostor_with_another_kind_of_key_is_an_impostor_too(tmp_path):
    key = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
    pem = key.export_private_key().decode()
    told, place = [], Place("asyncssh", tmp_path)
    async with impostor(told, keys.KeyPair(pem, "")) as place.port, Remote(place.endpoint()) as remote:
        with pytest.raises(HostKeyError) as caught:
            await remote.connect(30)
    assert key.get_fingerprint() in str(caught.value)
    assert told == []


async def test_with_no_known_key_nobody_is_trusted(tmp_path):
    told, place = [], Place("asyncssh", tmp_path)
    async with impostor(told, place.host_key) as place.port, Remote(place.endpoint(host_keys=())) as remote:
        with pytest.raises(HostKeyError):
            await remote.connect(30)
    assert told == []


async def test_server_with_several_keys_shows_the_one_that_is_known(sshd):
    other = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
    (sshd.directory / "other_key").write_bytes(other.export_private_key())
    (sshd.directory / "other_key").chmod(0o600)
    sshd.settings = f"HostKey {sshd.directory}/other_key"
    sshd.start()
    for line in (sshd.host_key.public_line, other.export_public_key().decode().strip() + " comment"):
        async with Remote(sshd.endpoint(host_keys=(line,))) as remote:
            await remote.connect(30)


async def test_booting_waits_for_the_port_the_host_key_and_the_login_key(new_place):
    """The server comes in the order in which one boots: nothing, a foreign key, its own key, our key."""
    told, stranger = [], keys.generate()
    new_place.port = free_port()
    if new_place.kind == "asyncssh":
        pytest.skip("this kind of server chooses its port itself")
    (new_place.directory / "authorized_keys").write_text("")
    async with Remote(new_place.endpoint()) as remote:
        connecting = asyncio.ensure_future(remote.connect(60, booting=True))
        await asyncio.sleep(0.2)
        async with impostor(told, stranger, new_place.port):
            await asyncio.sleep(0.3)
        assert not connecting.done()
        authorize, new_place.authorize = new_place.authorize, lambda: None
        await asyncio.to_thread(new_place.start)
        await asyncio.sleep(0.5)
        assert not connecting.done()
        authorize()
        await connecting
        assert (await remote.run("echo ready")).stdout == "ready\n"
    assert told == []


async def test_booting_that_never_ends_says_what_was_missing(new_place):
    async with Remote(new_place.endpoint(port=free_port())) as remote:
        with pytest.raises(ConnectError, match="connection refused"):
            await remote.connect(0.3, booting=True)
    new_place.start()
    async with Remote(new_place.endpoint(host_keys=(keys.generate().public_line,))) as remote:
        with pytest.raises(ConnectError, match=r"does not show its own host key yet.*SHA256:"):
            await remote.connect(1, booting=True)
    async with Remote(new_place.endpoint(private_key=keys.generate().private_pem)) as remote:
        with pytest.raises(ConnectError, match="does not accept our key yet"):
            await remote.connect(1, booting=True)
        with pytest.raises(ConnectError, match="refused our key"):
            await remote.connect(30)


@pytest.mark.parametrize("behaviour", ["silent", "closes", "nonsense"])
async def test_server_that_is_no_ssh_server_ends_in_a_connect_error(tmp_path, behaviour):
    answered = []

    async def answer(reader, writer):
        answered.append(asyncio.current_task())
        if behaviour == "silent":
            await reader.read()
        if behaviour == "nonsense":
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with Remote(Place("asyncssh", tmp_path).endpoint(port=port)) as remote:
            with pytest.raises(ConnectError, match="no SSH to box"):
                await remote.connect(0.5)
        await asyncio.gather(*answered)


async def test_name_that_does_not_resolve_says_so(tmp_path):
    async with Remote(Place("asyncssh", tmp_path).endpoint(host="no such host", port=22)) as remote:
        with pytest.raises(ConnectError, match="cannot be resolved"):
            await remote.connect(0.3)


async def test_refusing_server_fails_a_command_soon(tmp_path, monkeypatch):
    monkeypatch.setattr("pileus.remote.connections.REFUSED_S", 0.2)
    async with Remote(Place("asyncssh", tmp_path).endpoint(port=free_port())) as remote:
        outcomes = await asyncio.gather(*(remote.run("true") for _ in range(20)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {ConnectError}
        assert all("connection refused" in str(outcome) for outcome in outcomes)


async def test_trust_changes_what_later_connections_accept(place):
    wrong = keys.generate().public_line
    async with Remote(place.endpoint(host_keys=(wrong,))) as remote:
        with pytest.raises(HostKeyError):
            await remote.run("true")
        remote.trust([place.host_key.public_line])
        assert (await remote.run("echo in")).stdout == "in\n"
        remote.trust([wrong])
        assert (await remote.run("echo still")).stdout == "still\n"
        remote.reset()
        with pytest.raises(HostKeyError):
            await remote.run("true")
        assert remote.endpoint.host_keys == (wrong,)


async def test_reset_breaks_what_runs_and_the_next_command_reconnects(remote, place):
    running = asyncio.ensure_future(remote.run("sleep 1100"))
    await eventually(lambda: place.running("1100"), "it runs")
    remote.reset()
    assert not remote.connected
    with pytest.raises(ConnectError):
        await running
    assert (await remote.run("echo again")).stdout == "again\n"


async def test_connection_that_broke_while_idle_is_replaced_silently(sshd):
    sshd.start()
    async with Remote(sshd.endpoint()) as remote:
        await remote.run("true")
        for process in sshd.connections():
            process.kill()
        results = await asyncio.gather(*(remote.run(f"echo {number}") for number in range(5)), return_exceptions=True)
        assert [getattr(result, "stdout", result) for result in results] == [f"{number}\n" for number in range(5)]


async def test_burst_of_long_commands_gets_more_connections_up_to_the_limit(sshd):
    sshd.settings = "MaxSessions 6"
    sshd.start()
    async with Remote(sshd.endpoint()) as remote:
        await asyncio.gather(*(remote.run("sleep 0.3") for _ in range(60)))
        assert len(remote._pool._links) == 8
        assert all(link.used == 0 for link in remote._pool._links)


async def test_extra_connections_are_closed_when_idle(place, monkeypatch):
    monkeypatch.setattr("pileus.remote.connections.IDLE_S", 0.2)
    async with Remote(place.endpoint()) as remote:
        first = await remote.client()
        await asyncio.gather(*(remote.run("sleep 0.3") for _ in range(20)))
        assert len(remote._pool._links) > 1
        await eventually(lambda: len(remote._pool._links) == 1, "one is left")
        assert await remote.client() is first


async def test_refused_sessions_are_asked_for_again(sshd):
    """A server that allows fewer sessions than we ask for slows us down, and fails nothing."""
    sshd.settings = "MaxSessions 2"
    sshd.start()
    async with Remote(sshd.endpoint()) as remote:
        remote._pool._max_connections = 1
        results = await asyncio.gather(*(remote.run(f"sleep 0.02; echo {number}") for number in range(30)))
        assert [result.stdout for result in results] == [f"{number}\n" for number in range(30)]


async def test_those_in_line_are_served_in_order(place):
    order = []
    async with Remote(place.endpoint(), max_sessions=1) as remote:
        remote._pool._max_connections = 1

        async def one(number):
            await remote.run("true")
            order.append(number)

        await asyncio.gather(*(one(number) for number in range(20)))
    assert order == list(range(20))


@pytest.mark.parametrize("shared", [False, True])
async def test_jump_through_another_server_verifies_each_hop(new_place, place, shared):
    new_place.start()
    jump = new_place.endpoint(name="gate")
    async with Remote(jump) as gate:
        via = {"via": gate} if shared else {}
        endpoint = place.endpoint() if shared else place.endpoint(jump=jump)
        async with Remote(endpoint, **via) as remote:
            assert (await remote.run("echo $HOME")).stdout.strip() == str(place.home)
        async with Remote(place.endpoint(jump=new_place.endpoint(host_keys=(keys.generate().public_line,)))) as remote:
            with pytest.raises(HostKeyError):
                await remote.connect(30)
        async with Remote(place.endpoint(host_keys=(keys.generate().public_line,)), via=gate) as remote:
            with pytest.raises(HostKeyError):
                await remote.connect(30)
        async with Remote(place.endpoint(port=free_port()), via=gate) as remote:
            with pytest.raises(ConnectError, match="from the server in between"):
                await remote.connect(0.5)


async def test_agent_and_settings_of_the_user_are_not_asked(place, tmp_path, monkeypatch):
    """An agent that answers, a config that leads elsewhere, and a known_hosts that knows the impostor change nothing."""
    asked = []
    agent = socket.socket(socket.AF_UNIX)
    agent.bind(str(tmp_path / "agent"))
    agent.listen()
    agent.settimeout(0.2)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host *\n  Hostname 127.0.0.2\n  Port 1\n  User nobody\n")
    (tmp_path / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{place.port} {place.host_key.public_line}\n")
    with agent:
        async with Remote(place.endpoint()) as remote:
            await remote.run("true")
        async with Remote(place.endpoint(host_keys=(keys.generate().public_line,))) as remote:
            with pytest.raises(HostKeyError):
                await remote.connect(30)
        with contextlib.suppress(TimeoutError):
            asked.append(agent.accept())
    assert asked == []


async def test_cancelled_connect_leaves_no_connection(sshd):
    sshd.start()
    remote = Remote(sshd.endpoint())
    for delay in (0, 0.01, 0.03, 0.06):
        connecting = asyncio.ensure_future(remote.connect(30))
        await asyncio.sleep(delay)
        connecting.cancel()
        await asyncio.wait({connecting})
    await remote.aclose()
    await eventually(lambda: not sshd.connections(), "sshd serves nobody")


async def test_secrets_are_not_in_reprs(place):
    endpoint = place.endpoint()
    assert "PRIVATE" not in repr(endpoint) + repr(place.user_key) + repr(Remote(endpoint))


def test_bad_endpoints_are_refused(tmp_path):
    place = Place("asyncssh", tmp_path)
    for changes in ({"host_keys": ("nonsense",)}, {"host_keys": ("ssh-ed25519 AAAA",)}, {"port": 0}):
        with pytest.raises(ConfigError):
            place.endpoint(**({"port": 22} | changes))
    with pytest.raises(ConfigError, match="private key") as caught:
        Remote(place.endpoint(port=22, private_key="-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n"))
    assert "c2VjcmV0" not in str(caught.value)


def test_pauses_stay_below_what_newer_servers_punish():
    """sshd 9.8 counts 5 s for a failed login and 1 s for a visit without one, and shuts us out from 15 s on."""
    for kind, counted in (("login", 5.0), ("key", 1.0)):
        sum_s = 0.0
        for attempt in range(1, 100):
            sum_s += counted
            assert sum_s <= 15.0
            sum_s = max(0.0, sum_s - pause(attempt, Setback(kind, ConnectError("x"), penalised=True)))
    assert [has_penalties(f"SSH-2.0-OpenSSH_{version}") for version in ("8.9p1", "9.2p1", "9.8", "10.0p2")] == [
        False,
        False,
        True,
        True,
    ]


def test_keys_are_in_openssh_form_and_fit_together():
    pair = keys.generate()
    assert pair.public_line.startswith("ssh-ed25519 AAAA")
    assert keys.public_line(pair.private_pem) == pair.public_line
    assert keys.fingerprint(pair.public_line) == asyncssh.import_public_key(pair.public_line).get_fingerprint()
    with pytest.raises(ConfigError):
        keys.public_line("nonsense")


async def test_nothing_is_left_after_closing(place):
    before = {thread.name for thread in threading.enumerate()}
    async with Remote(place.endpoint()) as remote:
        await asyncio.gather(*(remote.run("sleep 0.2") for _ in range(12)))
        await remote.create_file("x", "left.txt")
    # asyncio itself keeps the threads in which names are resolved and options read; none is ours
    new = {thread.name for thread in threading.enumerate()} - before
    assert all(name.startswith("asyncio_") for name in new)
    assert asyncio.all_tasks() == {asyncio.current_task()}
