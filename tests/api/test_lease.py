"""A server whose controller is dead ends itself; one whose controller lives stays."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pileus import Provider
from pileus.drivers.base import Call
from pileus.drivers.local import LocalDriver

CONTROLLER = """
import sys, time
from pileus import Provider
provider = Provider("local", sys.argv[1], sys.argv[2])
provider.deploy()
server = provider.spawn("", "", provider.cheapest_server_flavor(1, 1), ttd=2)
server.wait_until_ready()
assert server.allocate(1, 1, 0)
print(server.id, flush=True)
time.sleep(600)
"""


def controller(name: str, save_path: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, name, str(save_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def standing(driver: LocalDriver) -> set[str]:
    return {record.id for record in driver.list_servers(None, Call("test", time.monotonic() + 30))}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_outlives_its_dead_controller_by_no_more_than_its_lease(home: Path) -> None:
    names = [f"{word}-{secrets.token_hex(3)}" for word in ("dead", "alive")]
    dead, orphan = controller(names[0], home / "state")
    alive, held = controller(names[1], home / "state")
    driver = LocalDriver({})
    try:
        assert {orphan, held} <= standing(driver)
        os.kill(dead.pid, signal.SIGKILL)
        killed = time.monotonic()
        dead.wait()
        while orphan in standing(driver):
            assert time.monotonic() - killed < 2 + 60 + 60
            time.sleep(0.5)
        assert time.monotonic() - killed > 30, "the lease was not waited for"
        while time.monotonic() - killed < 75:  # past the end of a lease that is not renewed
            time.sleep(0.5)
        assert held in standing(driver)
    finally:
        for process in (dead, alive):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        for name in names:
            with Provider("local", name, home / "state") as provider:
                provider.tear_down()
        assert not {orphan, held} & standing(driver)
        driver.close()
