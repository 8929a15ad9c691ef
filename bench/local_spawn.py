"""How long the local provider takes from a request to the first command over SSH, beside the same done by hand.

By hand: a process that has the SSH library loaded forks one that serves SSH with a fresh host key and runs commands,
and the same client connects to it: no boot script, no namespaces, no record of anything.

    python bench/local_spawn.py [--rounds 20] [--many 100] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import signal
import socket
import statistics
import tempfile
import time
from pathlib import Path

import asyncssh

from pileus.boot import BootPlan, render
from pileus.drivers.base import TAG_DEPLOYMENT, TAG_INTENT, Call, ServerRequest
from pileus.drivers.local import LocalDriver

CLIENT_KEY = asyncssh.generate_private_key("ssh-ed25519")
OPTIONS = asyncssh.SSHClientConnectionOptions(
    client_keys=[CLIENT_KEY], known_hosts=None, config=None, agent_path=None, gss_host=None, compression_algs=None
)


async def first_command(port: int, user_name: str) -> None:
    """Connect, again and again until let in, and run `true`."""
    while True:
        try:
            connection = await asyncssh.connect("127.0.0.1", port, options=OPTIONS, username=user_name)
        except (OSError, asyncssh.PermissionDenied):
            await asyncio.sleep(0.01)
            continue
        async with connection:
            await connection.run("true", check=True)
        return


class ByHand:
    """Forks a plain SSH server for each request; this process has one thread and has loaded all that it needs."""

    def __init__(self) -> None:
        self.pids: list[int] = []

    def spawn(self, count: int) -> list[tuple[int, str]]:
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
        async def handle(process: asyncssh.SSHServerProcess[str]) -> None:
            child = await asyncio.create_subprocess_shell(process.command or "true")
            process.exit(await child.wait())

        await asyncssh.listen(
            sock=listener,
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            authorized_client_keys=asyncssh.import_authorized_keys(CLIENT_KEY.export_public_key().decode()),
            process_factory=handle,
        )
        await asyncio.Event().wait()

    def end(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.pids.clear()


class ByPileus:
    """The same by the driver, with the whole boot."""

    def __init__(self, directory: Path) -> None:
        self.driver = LocalDriver({"dir": str(directory), "overcommit": "10000"})
        self.deployment = f"d-bench-{secrets.token_hex(4)}"
        self.driver.check(self.call())  # the helper runs

    def call(self) -> Call:
        return Call(secrets.token_hex(4), time.monotonic() + 120)

    def request(self) -> ServerRequest:
        image = self.driver.images(self.call())[0]
        intent_id = f"i-{secrets.token_hex(8)}"
        host_key = asyncssh.generate_private_key("ssh-ed25519")
        plan = BootPlan(
            target=self.driver.boot_target(intent_id),
            host_name="bench",
            user_name=image.default_user,
            authorized_key=CLIENT_KEY.export_public_key().decode(),
            host_private_key=host_key.export_private_key().decode(),
            host_public_key=host_key.export_public_key().decode(),
        )
        tags = {TAG_DEPLOYMENT: self.deployment, TAG_INTENT: intent_id}
        flavor = self.driver.flavors(self.call())[0]
        return ServerRequest(
            intent_id, f"bench-{intent_id}", flavor, image, image.default_user, 0, True, tags, render(plan)
        )

    def spawn(self, count: int) -> list[tuple[int, str]]:
        outcomes = self.driver.create_servers([self.request() for _ in range(count)], self.call())
        records = []
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
            assert outcome.record is not None
            records.append((outcome.record.port, self.driver.images(self.call())[0].default_user))
        return records

    def end(self) -> None:
        ids = [record.id for record in self.driver.list_servers(self.deployment, self.call())]
        self.driver.delete_servers(ids, self.call())
        while self.driver.list_servers(self.deployment, self.call()):
            time.sleep(0.01)


def measure(way: ByHand | ByPileus, count: int) -> float:
    """Seconds until all of `count` servers have run their first command."""

    async def all_of_them(made: list[tuple[int, str]]) -> None:
        await asyncio.gather(*(first_command(port, user_name) for port, user_name in made))

    began = time.monotonic()
    asyncio.run(all_of_them(way.spawn(count)))
    took = time.monotonic() - began
    way.end()
    return took


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--many", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    result: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        hand, pileus = ByHand(), ByPileus(Path(directory) / "local")
        for count, rounds in ((1, chosen.rounds), (chosen.many, 3)):
            # In turns, so that both meet the same noise.
            times = [(measure(hand, count), measure(pileus, count)) for _ in range(rounds)]
            by_hand, by_pileus = (statistics.median(column) for column in zip(*times, strict=True))
            result[str(count)] = {"by_hand_s": by_hand, "pileus_s": by_pileus, "ratio": by_pileus / by_hand}
    if chosen.json:
        print(json.dumps(result))
        return
    print("| servers together | by hand, s | local provider, s | ratio |\n|---|---|---|---|")
    for count, row in result.items():
        print(f"| {count} | {row['by_hand_s']:.3f} | {row['pileus_s']:.3f} | {row['ratio']:.2f} |")


if __name__ == "__main__":
    main()
