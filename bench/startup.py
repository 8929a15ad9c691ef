"""How long the command takes to say anything, against an interpreter that imports asyncio."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import Figure

SERVERS = 1000


def figures(short: bool) -> list[Figure]:
    """Medians of interleaved runs."""
    with tempfile.TemporaryDirectory() as folder:
        save_path = Path(folder) / "state"
        _fill(save_path)
        environment = {**os.environ, "PILEUS_SAVE_PATH": str(save_path), "HOME": folder, "PILEUS_NAME": "bench"}
        pileus = str(Path(sys.executable).with_name("pileus"))
        commands = {
            "asyncio": [sys.executable, "-c", "import asyncio"],
            "help": [pileus, "--help"],
            "list": [pileus, "list", "--provider", "simulator"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(3 if short else 11):
            for name, command in commands.items():
                began = time.perf_counter()
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, timeout=60)
                times[name].append(time.perf_counter() - began)
                if name == "list":
                    assert done.stdout.count(b"\n") >= SERVERS, done.stdout[:500]
    median = {name: statistics.median(values) for name, values in times.items()}
    base = median["asyncio"]
    return [
        Figure("`pileus --help`", median["help"] / base, 3, "x of `import asyncio`", f"{median['help'] * 1000:.0f} ms"),
        Figure(
            f"`pileus list`, {SERVERS:,} servers in the state",
            median["list"] / base,
            5,
            "x of `import asyncio`",
            f"{median['list'] * 1000:.0f} ms",
        ),
    ]


def _fill(save_path: Path) -> None:
    from pileus.state import Deployment, Intent, ServerRow, Settled, Store, state_path

    path = state_path("simulator", "bench", save_path)
    with Store.open(path, provider="simulator", resource_name="bench") as store:
        store.save_deployment(
            Deployment("d-0", "simulator", "bench", created=time.time(), status="deployed", config={}, private_key="k")
        )
        names = [f"bench-{number:012x}" for number in range(SERVERS)]
        store.record_intents([Intent(f"i-{name}", "server", name) for name in names])
        store.settle(
            [
                Settled(
                    f"i-{name}",
                    "done",
                    name,
                    server=ServerRow(
                        name,
                        f"i-{name}",
                        name,
                        flavor={"id": "m", "name": "medium", "cores": 2, "ram": 4096, "disk": 20},
                        ip="127.64.0.1",
                        ttd_s=60,
                        created=time.time(),
                    ),
                )
                for name in names
            ]
        )
