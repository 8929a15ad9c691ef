"""What holds for all tests: none leaves a process, a thread or an open state file behind."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pileus.state import locks

LASTING = ("pileus-loop", "asyncio_", "pytest_timeout", "Dummy-")
"""Beginnings of names of threads that are the process's, not a test's: the one loop of the blocking form, asyncio's own pool."""


FOR_ALL = ("asyncssh_server.py", "sshd")
"""In the command lines of servers that are started once for all tests, and ended by their own fixture."""


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left_behind() -> Iterator[None]:
    """After each module: threads, children and open state files are those of before."""
    before = left_behind()
    yield
    deadline = time.monotonic() + 10.0
    while (new := left_behind() - before) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
    assert not new


def left_behind() -> set[str]:
    """What there is now, in words."""
    threads = {f"thread {t.name}" for t in threading.enumerate() if not t.name.startswith(LASTING)}
    files = {f"state file {key}" for key in locks._open_files}
    return threads | files | {f"process {child}" for child in children()}


def children() -> set[str]:
    """Children of this process that run, by id and command line."""
    found = set()
    for task in Path("/proc/self/task").glob("*/children"):
        for pid in task.read_text().split():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if command and not any(word in command for word in FOR_ALL):
                found.add(f"{pid} {command[:200]}")
    return found
