"""Spawning on the `local` provider through the public API, beside the same SSH server forked by hand; and from sentinel to return.

By hand: a process that has the SSH library loaded forks one that serves SSH, and asyncssh connects to it. Through Pileus the same
comes with intents on disk, a verified host key, a boot script, a second host key made on the server, and namespaces.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from figures import Figure


class Forker:
    """The process that forks SSH servers by hand; one of its own, without threads."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "forker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.key: str = self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def ask(self, count: int) -> list[int]:
        """Fork so many; their ports. 0 ends all."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return list(self._read())

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=30)


def forker() -> None:
    """What that process does."""
    from local_spawn import CLIENT_KEY, ByHand

    hand = ByHand()
    print(json.dumps(CLIENT_KEY.export_private_key().decode()), flush=True)
    for line in sys.stdin:
        if int(line):
            print(json.dumps([port for port, _ in hand.spawn(int(line))]), flush=True)
        else:
            hand.end()
            print("[]", flush=True)
    hand.end()


async def measure(short: bool) -> list[Figure]:
    """Medians of interleaved rounds."""
    from pileus import AsyncProvider

    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.environ["PILEUS_LOCAL_DIR"] = f"{folder}/local"
        os.environ["PILEUS_LOCAL_OVERCOMMIT"] = "10000"
        hand = Forker()
        async with AsyncProvider("local", "bench", Path(folder) / "state") as provider:
            await provider.deploy()
            flavor = await provider.cheapest_server_flavor(1, 1)
            one = await _compare(hand, provider, flavor, 1, 3 if short else 21)
            many = await _compare(hand, provider, flavor, 10 if short else 100, 1 if short else 3)
            sentinel = await _sentinel(provider, flavor, 3 if short else 15)
            await provider.tear_down()
        hand.close()
    count = 10 if short else 100
    return [
        _ratio("spawn and wait_until_ready, helper running", *one),
        _ratio(f"{count} servers spawned together, all ready", *many),
        Figure("from the sentinel's appearance to the return of wait_until_ready", sentinel * 1000, 100, "ms"),
    ]


def _ratio(what: str, by_hand: float, by_pileus: float) -> Figure:
    return Figure(
        what, by_pileus / by_hand, 1.5, "x of by hand", f"{by_pileus * 1000:.0f} ms, {by_hand * 1000:.0f} ms by hand"
    )


async def _compare(hand: Forker, provider: Any, flavor: Any, count: int, rounds: int) -> tuple[float, float]:
    import asyncssh

    key = asyncssh.import_private_key(hand.key)
    options = asyncssh.SSHClientConnectionOptions(
        client_keys=[key], known_hosts=None, config=None, agent_path=None, gss_host=None, compression_algs=None
    )

    async def connect(port: int) -> None:
        connection = await asyncssh.connect("127.0.0.1", port, options=options, username="anybody")
        connection.close()

    async def by_hand() -> None:
        ports = await asyncio.to_thread(hand.ask, count)
        await asyncio.gather(*(connect(port) for port in ports))

    async def ready(server: Any) -> None:
        await server.wait_until_ready()

    async def by_pileus() -> None:
        async with asyncio.TaskGroup() as group:
            async for server in provider.spawn_many(count, "", "", flavor):
                group.create_task(ready(server))

    await _timed(by_pileus)  # the helper runs from now on
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        one = await _timed(by_hand)
        await asyncio.to_thread(hand.ask, 0)
        other = await _timed(by_pileus)
        servers = await provider.servers(all=True)
        await asyncio.gather(*(server.destroy() for server in servers.values()))
        times.append((one, other))
    return statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)


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
        [sentinel] = Path(os.environ["PILEUS_LOCAL_DIR"]).glob(f"{server.id}/run/pileus/ready")
        late.append(returned - sentinel.stat().st_mtime)
        await server.destroy()
    return statistics.median(late)


def figures(short: bool) -> list[Figure]:
    """The figures; fewer servers and rounds in the short form."""
    return asyncio.run(measure(short))


if __name__ == "__main__":
    forker()
