"""Spawning on the `local` provider through the public API, beside the same done by hand; and from sentinel to return.

Two ways of doing it by hand, in turns with ours so that all meet the same noise:

- the same server: the provider's own helper forks the same SSH server, with its namespaces, and a boot script of one line that lets
  us in; asyncssh, as it comes, connects to it. What we add to that: intents and outcomes on disk, a host key that is known before
  the first connection, the whole boot script, and a second host key made on the server.
- a bare fork: a process that has asyncssh loaded forks one that serves SSH and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from figures import Figure

# --- by hand: a process of its own, which has no threads and answers lines ---


class BareFork:
    """Forks a plain SSH server for each request."""

    def __init__(self, public_key: str) -> None:
        import asyncssh  # noqa: F401  (before the fork, as the provider's helper does)

        self.public_key = public_key
        self.pids: list[int] = []

    def spawn(self, count: int) -> list[tuple[int, str]]:
        """So many; the port and user of each."""
        made = []
        for _ in range(count):
            listener = socket.create_server(("127.0.0.1", 0), backlog=100)
            pid = os.fork()
            if pid == 0:
                try:
                    os.setsid()
                    asyncio.run(self._serve(listener))
                finally:
                    os._exit(0)
            self.pids.append(pid)
            made.append((listener.getsockname()[1], "anybody"))
            listener.close()
        return made

    async def _serve(self, listener: socket.socket) -> None:
        import asyncssh

        async def handle(process: asyncssh.SSHServerProcess[str]) -> None:
            child = await asyncio.create_subprocess_shell(process.command or "true")
            process.exit(await child.wait())

        await asyncssh.listen(
            sock=listener,
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            authorized_client_keys=asyncssh.import_authorized_keys(self.public_key),
            process_factory=handle,
        )
        await asyncio.Event().wait()

    def end(self) -> None:
        """All of them."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.pids.clear()


class SameServer:
    """Has the provider's helper fork the same server, with the least boot script that lets us in."""

    def __init__(self, public_key: str) -> None:
        from pileus.drivers.local import LocalDriver

        self.driver = LocalDriver({})
        self.deployment = f"d-{secrets.token_hex(8)}"
        self.image = self.driver.images(self.call())[0]
        self.flavor = self.driver.flavors(self.call())[0]
        self.user_data = (
            f"#!/bin/sh\numask 077; mkdir -p ~/.ssh; echo '{public_key}' >~/.ssh/authorized_keys\n".encode()
        )
        self.driver.check(self.call())

    def call(self) -> Any:
        from pileus.drivers.base import Call

        return Call(secrets.token_hex(4), time.monotonic() + 120)

    def spawn(self, count: int) -> list[tuple[int, str]]:
        """So many; the port and user of each."""
        from pileus.drivers.base import TAG_DEPLOYMENT, TAG_INTENT, ServerRequest

        requests = []
        for _ in range(count):
            intent = f"i-{secrets.token_hex(8)}"
            tags = {TAG_DEPLOYMENT: self.deployment, TAG_INTENT: intent}
            user = self.image.default_user
            requests.append(
                ServerRequest(intent, f"hand-{intent}", self.flavor, self.image, user, 0, True, tags, self.user_data)
            )
        outcomes = self.driver.create_servers(requests, self.call())
        return [(outcome.record.port, self.image.default_user) for outcome in outcomes if outcome.record]

    def end(self) -> None:
        """All of them."""
        ids = [record.id for record in self.driver.list_servers(self.deployment, self.call())]
        self.driver.delete_servers(ids, self.call())
        while self.driver.list_servers(self.deployment, self.call()):
            time.sleep(0.01)


def answer(way: BareFork | SameServer) -> None:
    """Answer lines: a number of servers to spawn, or 0 to end them all."""
    for line in sys.stdin:
        if int(line):
            print(json.dumps(way.spawn(int(line))), flush=True)
        else:
            way.end()
            print("[]", flush=True)


class ByHand:
    """One of the two ways, in its process."""

    def __init__(self, way: str, public_key: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, way, public_key], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, count: int) -> list[tuple[int, str]]:
        """Spawn so many, or end all for 0."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return [(port, user) for port, user in json.loads(self._process.stdout.readline())]

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=30)


# --- side by side ---


async def measure(short: bool) -> list[Figure]:
    """Medians of interleaved rounds."""
    import asyncssh

    from pileus import AsyncProvider

    key = asyncssh.generate_private_key("ssh-ed25519")
    public = key.export_public_key().decode().strip()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.environ["PILEUS_LOCAL_DIR"] = f"{folder}/local"
        os.environ["PILEUS_LOCAL_OVERCOMMIT"] = "10000"
        same, bare = ByHand("same", public), ByHand("bare", public)
        async with AsyncProvider("local", "bench", Path(folder) / "state") as provider:
            await provider.deploy()
            flavor = await provider.cheapest_server_flavor(1, 1)
            one = await _compare(same, bare, provider, flavor, key, 1, 3 if short else 21)
            many = await _compare(same, bare, provider, flavor, key, 10 if short else 100, 1 if short else 5)
            sentinel = await _sentinel(provider, flavor, 3 if short else 15)
            await provider.tear_down()
        same.close()
        bare.close()
    count = 10 if short else 100
    return [
        _ratio("spawn and wait_until_ready, helper running", one),
        _ratio(f"{count} servers spawned together, all ready", many),
        Figure("from the sentinel's appearance to the return of wait_until_ready", sentinel * 1000, 100, "ms"),
    ]


def _ratio(what: str, times: dict[str, float]) -> Figure:
    ours, same, bare = (times[name] * 1000 for name in ("ours", "same", "bare"))
    detail = f"{ours:.0f} ms; the same server by hand {same:.0f} ms, a bare fork {bare:.0f} ms"
    return Figure(what, ours / same, 1.5, "x of by hand", detail)


async def _compare(
    same: ByHand, bare: ByHand, provider: Any, flavor: Any, key: Any, count: int, rounds: int
) -> dict[str, float]:
    import asyncssh

    async def connect(port: int, user: str) -> None:
        connection = await asyncssh.connect(
            "127.0.0.1", port, username=user, client_keys=[key], known_hosts=None, config=None, agent_path=None
        )
        connection.close()

    async def by_hand(way: ByHand) -> None:
        made = await asyncio.to_thread(way.ask, count)
        assert len(made) == count
        await asyncio.gather(*(connect(port, user) for port, user in made))

    async def ready(server: Any) -> None:
        await server.wait_until_ready()

    async def ours() -> None:
        async with asyncio.TaskGroup() as group:
            async for server in provider.spawn_many(count, "", "", flavor):
                group.create_task(ready(server))

    times: dict[str, list[float]] = {"ours": [], "same": [], "bare": []}
    for number in range(rounds + 1):
        taken = {"same": await _timed(lambda: by_hand(same))}
        await asyncio.to_thread(same.ask, 0)
        taken["ours"] = await _timed(ours)
        servers = await provider.servers(all=True)
        await asyncio.gather(*(server.destroy() for server in servers.values()))
        taken["bare"] = await _timed(lambda: by_hand(bare))
        await asyncio.to_thread(bare.ask, 0)
        if number:  # in the first round the helper was started, and modules were loaded
            for name, value in taken.items():
                times[name].append(value)
    return {name: statistics.median(values) for name, values in times.items()}


async def _timed(work: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def _sentinel(provider: Any, flavor: Any, rounds: int) -> float:
    """The median; the sentinel's own modification time tells when it appeared."""
    late = []
    for _ in range(rounds):
        server = await provider.spawn("", "", flavor)
        await server.wait_until_ready()
        returned = time.time()
        sentinel = Path(os.environ["PILEUS_LOCAL_DIR"]) / server.id / "run" / "pileus" / "ready"
        late.append(returned - sentinel.stat().st_mtime)
        await server.destroy()
    return statistics.median(late)


def figures(short: bool) -> list[Figure]:
    """The figures; fewer servers and rounds in the short form."""
    return asyncio.run(measure(short))


if __name__ == "__main__":
    answer({"bare": BareFork, "same": SameServer}[sys.argv[1]](sys.argv[2]))
