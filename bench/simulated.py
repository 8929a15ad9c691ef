"""What waiting for many servers costs, on a simulated cloud with the real clock."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import Figure

BOOT_S = 10.0


async def spawn_all(count: int, boot_s: float) -> dict[str, float]:
    """Spawn `count` servers at once; what it took."""
    from pileus import AsyncProvider
    from pileus.testing.simulator import simulated_cloud

    with tempfile.TemporaryDirectory() as folder, simulated_cloud("bench", boot_s=boot_s, delete_s=0.1) as cloud:
        settings = {"cloud": "bench", "poll_interval_s": "1", "max_batch": "1000"}
        async with AsyncProvider("simulator", "bench", Path(folder) / "state", settings=settings) as provider:
            await provider.deploy()
            flavor = await provider.cheapest_server_flavor(1, 512)
            one = time.monotonic()
            await (await provider.spawn("", "", flavor)).destroy()
            cloud.forget_calls()
            one = time.monotonic() - one if count == 1 else 0.0
            began, cpu, memory = time.monotonic(), time.process_time(), _memory_mb()
            servers = [server async for server in provider.spawn_many(count, "", "", flavor)]
            took, cpu = time.monotonic() - began, time.process_time() - cpu
            memory = _memory_mb() - memory
            counts = dict(cloud.counts)
            assert len(servers) == count
            await provider.tear_down()
    batches = -(-count // 1000)
    listings = counts.pop("list_servers", 0)
    return {
        "seconds": took,
        "cpu_s": cpu,
        "memory_mb": memory,
        "listings_per_s": listings / took,
        "calls_per_batch": sum(counts.values()) / batches,
    }


def _memory_mb() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def in_a_process_of_its_own(count: int, boot_s: float = BOOT_S) -> dict[str, float]:
    """Memory and CPU are those of one process, so each measurement gets its own."""
    done = subprocess.run(
        [sys.executable, __file__, str(count), str(boot_s)], stdout=subprocess.PIPE, check=True, timeout=600
    )
    return dict(json.loads(done.stdout))


def figures(short: bool) -> list[Figure]:
    """The figures; in the short form with a tenth of the servers and of their boot."""
    scale, boot_s = (10, 1.5) if short else (1, BOOT_S)
    thousand = in_a_process_of_its_own(1000 // scale, boot_s)
    rows = {count: in_a_process_of_its_own(count // scale, boot_s) for count in (100, 10_000)}
    rows[1000] = thousand
    few, many = _marginal(rows, 100, 1000), _marginal(rows, 1000, 10_000)
    count = 1000 // scale
    return [
        Figure(
            f"{count} simulated servers of {boot_s:g} s boot, all ready",
            thousand["seconds"] / boot_s,
            1.2,
            "x of one boot",
        ),
        Figure("listings per second meanwhile", thousand["listings_per_s"], 1.0, "/s"),
        Figure("other driver calls per batch", thousand["calls_per_batch"], 2.0, "calls"),
        Figure(
            "CPU of a further server, 1,000 to 10,000 against 100 to 1,000",
            _ratio(many["cpu_s"], few["cpu_s"]),
            1.5,
            "x",
        ),
        Figure(
            "memory of a further server, 1,000 to 10,000 against 100 to 1,000",
            _ratio(many["memory_mb"], few["memory_mb"]),
            1.5,
            "x",
        ),
    ]


def _ratio(one: float, other: float) -> float:
    """Not a number where there was too little to measure, as in the short form."""
    return one / other if other > 0 else float("nan")


def _marginal(rows: dict[int, dict[str, float]], low: int, high: int) -> dict[str, float]:
    return {name: (rows[high][name] - rows[low][name]) / (high - low) for name in ("cpu_s", "memory_mb")}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(spawn_all(int(sys.argv[1]), float(sys.argv[2])))))
