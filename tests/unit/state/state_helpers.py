from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from typing import Any

from pileus.state import Deployment, Intent, ServerRow, Settled, Store

GB = 1024
FLAVOR = {"id": "f", "name": "f", "cores": 4, "ram": 8 * GB, "disk": 10}


def open_store(path, **more: Any) -> Store:
    return Store.open(path, provider="simulator", resource_name="lab", **more)


def deployment(**changes: Any) -> Deployment:
    fields = {"id": "d-1", "provider": "simulator", "resource_name": "lab", "status": "deployed"}
    return Deployment(**{**fields, **changes})


def make_store(path, **more: Any) -> Store:
    store = open_store(path, **more)
    store.save_deployment(deployment())
    return store


def intent(id: str, kind: str = "server", **more: Any) -> Intent:
    return Intent(id, kind, f"name-{id}", created=1.0, deadline=2.0, **more)


def server(id: str, **more: Any) -> ServerRow:
    fields = {"flavor": FLAVOR, "disk_gb": 10, "status": "ready", "intent_id": f"intent-{id}", "name": f"name-{id}"}
    return ServerRow(id, **{**fields, **more})


def add_server(store: Store, id: str, **more: Any) -> ServerRow:
    row = server(id, **more)
    store.settle([Settled(row.intent_id, "done", server=row)])
    return row


class Child:
    """A Python process that runs some code; `opened` there is the store at the path."""

    def __init__(self, path, code: str) -> None:
        prelude = f"""
            import os, sys, time
            sys.path.insert(0, {str(__file__.rsplit("/", 1)[0])!r})
            from state_helpers import *
            from pileus.state import *
            path = {str(path)!r}
            def say(*words):
                print(*words, flush=True)
        """
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(code)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self) -> str:
        return self.process.stdout.readline().strip()

    def tell(self, line: str = "") -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def rest(self) -> str:
        out, _ = self.process.communicate(timeout=60)
        return out

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Children:
    def __init__(self) -> None:
        self.all: list[Child] = []

    def __call__(self, path, code: str) -> Child:
        self.all.append(Child(path, code))
        return self.all[-1]

    def end(self) -> None:
        for child in self.all:
            child.end()
