"""Processes that race for one state, and are killed at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from pileus.state import Deployment, ServerRow, Settled, Store, nano_cores

PRELUDE = """
import os, random, sys
from pileus.state import *
path, number = sys.argv[1], int(sys.argv[2])
store = Store.open(path, provider="simulator", resource_name="lab", busy_timeout_s=60)
def say(*words):
    print(*words, flush=True)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lab.db"


@pytest.fixture
def start(path):
    processes = []

    def run(number, code):
        process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(path), str(number)],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()


def make(path, servers=(), **columns):
    store = Store.open(path, provider="simulator", resource_name="lab", busy_timeout_s=60)
    store.save_deployment(Deployment("d", "simulator", "lab", status="deployed"))
    fields = {"flavor": {"cores": 4, "ram": 1000}, "disk_gb": 10, "status": "ready", **columns}
    store.settle([Settled(f"i-{key}", "done", server=ServerRow(key, f"i-{key}", key, **fields)) for key in servers])
    return store


def test_of_racing_processes_one_alone_claims_each_server(path, start):
    ids = [f"s{number}" for number in range(30)]
    with make(path, ids):
        code = """
            say("ready")
            sys.stdin.readline()
            ids = [row.id for row in store.servers()]
            random.Random(number).shuffle(ids)
            say(*[key for key in ids if store.claim_destroy(key)])
            """
        racers = [start(number, code) for number in range(4)]
        assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 4
        for racer in racers:
            racer.stdin.write("\n")
            racer.stdin.flush()
        won = [racer.stdout.readline().split() for racer in racers]
    assert sorted(key for each in won for key in each) == sorted(ids)


def test_racing_processes_never_take_more_than_a_server_has_though_some_are_killed(path, start):
    code = """
        import time
        session = store.begin_session()
        dice = random.Random(number)
        held = 0
        say("ready")
        while True:
            if held and dice.random() < 0.4:
                assert store.release("s", session, nano_cores(0.5), 10, 0)
                held -= 1
            elif store.allocate("s", session, nano_cores(0.5), 10, 0):
                held += 1
            usage = store.usage("s")
            if usage.nano_cores > nano_cores(4) or usage.ram_mb != usage.nano_cores // nano_cores(0.5) * 10:
                say("wrong", usage)
        """
    with make(path, ["s"]) as store:
        mine = store.begin_session()
        racers = [start(number, code) for number in range(3)]
        assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 3
        dice = random.Random(7)
        for number in range(3, 8):
            time.sleep(dice.random() * 0.1)
            victim = racers.pop(0)
            victim.send_signal(signal.SIGKILL)
            assert victim.stdout.read() == ""
            victim.wait()
            racers.append(start(number, code))
            assert racers[-1].stdout.readline() == "ready\n"
            assert len(store.live_sessions()) == 4
            assert store.usage("s").nano_cores <= nano_cores(4)
        for racer in racers:
            racer.send_signal(signal.SIGKILL)
            assert racer.stdout.read() == ""
            racer.wait()
        assert store.usage("s").nano_cores == 0
        assert store.allocate("s", mine, nano_cores(4), 1000, 10)
        assert store.drop_dead_sessions()
        assert store.live_sessions() == {mine}


def test_whatever_was_confirmed_is_there_after_a_kill_at_any_moment(path, start):
    code = """
        count = 0
        while True:
            count += 1
            key = f"s{number}-{count}"
            store.record_intents([Intent("i-" + key, "server", key, payload={"filler": "x" * 3000})])
            say("wished", key)
            store.settle([Settled("i-" + key, "done", server=ServerRow(key, "i-" + key, key))])
            say("made", key)
            store.add_events([Event(1.0, "made", key)])
            if count % 3 == 0:
                assert store.mark_destroyed(key)
                say("destroyed", key)
        """
    make(path).close()
    dice = random.Random(3)
    confirmed = {"wished": set(), "made": set(), "destroyed": set()}
    for number in range(6):
        process = start(number, code)
        heard = "".join(process.stdout.readline() for _ in range(dice.randrange(4, 20)))
        assert heard.endswith("\n"), f"process {number} ended by itself, status {process.wait()}"
        time.sleep(dice.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        # What comes after the last newline was cut off by the kill: half a word, or half of another server's name.
        for line in (heard + process.stdout.read()).split("\n")[:-1]:
            what, key = line.split()
            confirmed[what].add(key)
        process.wait()
        with Store.open(path, provider="simulator", resource_name="lab") as store:
            rows = {row.id: row for row in store.servers(include_destroyed=True)}
            assert confirmed["made"] <= rows.keys()
            assert all(rows[key].status == "destroyed" for key in confirmed["destroyed"])
            for key in confirmed["wished"]:
                intent = store.intent(f"i-{key}")
                assert (intent.status == "done") == (key in rows)
            settled = [intent.id for intent in store.open_intents()]
            store.settle([Settled(key, "failed") for key in settled])
            assert store._all("PRAGMA integrity_check") == [("ok",)]
    assert len(confirmed["made"]) >= 6


def test_a_process_killed_while_it_creates_the_state_leaves_none_or_a_whole_one(tmp_path):
    code = """
        import os, signal, sys, threading, time
        from pileus.state import Store, opening, schema
        where = int(sys.argv[2])
        count = 0
        def stop(*_):
            global count
            count += 1
            if count == where:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(lambda event, args: stop() if event in (
            "open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "sqlite3.connect", "fcntl.lockf") else None)
        Store.open(sys.argv[1], provider="simulator", resource_name="lab").close()
        """
    killed = whole = 0
    for where in range(1, 40):
        path = tmp_path / str(where) / "lab.db"
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(path), str(where)], check=False)
        existed = os.path.exists(path)
        whole += existed
        with Store.open(path, provider="simulator", resource_name="lab", create=not existed) as store:
            assert store.deployment() is None
        killed += done.returncode == -signal.SIGKILL
        if done.returncode == 0:
            break
    assert killed >= 8
    assert 1 < whole < where
