"""Several servers at once, in the async form: each gets its piece of work the moment that it runs."""

import asyncio
import sys
import tempfile
from pathlib import Path

from pileus import AsyncProvider, AsyncServer, PileusError, SpawnError

PIECES = ["alpha", "beta", "gamma"]


async def work(server: AsyncServer, piece: str) -> str:
    """Do one piece of work on one server."""
    await server.wait_until_ready()
    result = await server.run_cmd(f"printf %s {piece} | tr a-z A-Z")
    return result.stdout


async def run(place: Path) -> list[str]:
    """Do all pieces, a server each."""
    async with AsyncProvider("local", "many-servers", place / "state") as provider:
        await provider.deploy()
        try:
            flavor = await provider.cheapest_server_flavor(cores=1, ram_mb=100)
            waiting = list(PIECES)
            async with asyncio.TaskGroup() as tasks:
                started = [
                    tasks.create_task(work(server, waiting.pop(0)))
                    async for server in provider.spawn_many(len(PIECES), "", "", flavor, ttd=600)
                ]
            return sorted(task.result() for task in started)
        finally:
            await provider.tear_down()


def main() -> int:
    """Print what came of each piece."""
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        try:
            print(*asyncio.run(run(Path(place))), sep="\n")
        except* SpawnError as group:
            failures += [f"a server did not arrive: {error}" for error in group.exceptions]
        except* PileusError as group:
            failures += [str(error) for error in group.exceptions]
    print(*failures, sep="\n", end="", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
