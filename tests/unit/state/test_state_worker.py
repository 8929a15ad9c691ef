from __future__ import annotations

import asyncio
import os
import sys
import textwrap
import threading

import pytest
from state_helpers import add_server, intent, make_store, open_store

from pileus.errors import StateLockedError, UsageError
from pileus.state import AsyncStore, Store


@pytest.fixture
async def astore(store):
    astore = AsyncStore(store)
    yield astore
    await astore.aclose()


class Gate:
    """Keeps the thread busy until it is opened, so that what comes meanwhile queues up."""

    def __init__(self):
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, store):
        self.entered.set()
        assert self.opened.wait(30)

    async def held(self, astore):
        task = asyncio.ensure_future(astore.read(self))
        await asyncio.to_thread(self.entered.wait)
        return task


def record(id):
    return lambda store: store.record_intents([intent(id)])


async def test_writes_that_wait_together_share_one_commit(astore, store):
    gate = Gate()
    holding = await gate.held(astore)
    before = store.commits
    writes = [asyncio.ensure_future(astore.write(record(f"i{number}"))) for number in range(200)]
    await asyncio.sleep(0)
    gate.opened.set()
    await asyncio.gather(holding, *writes)
    assert store.commits == before + 1
    assert len(await astore.read(Store.open_intents)) == 200


async def test_a_write_that_fails_spoils_no_other(astore, store):
    gate = Gate()
    holding = await gate.held(astore)

    def half(store):
        store.record_intents([intent("half")])
        raise KeyError("half")

    writes = [asyncio.ensure_future(astore.write(each)) for each in (record("a"), half, record("a"), record("b"))]
    await asyncio.sleep(0)
    gate.opened.set()
    results = await asyncio.gather(holding, *writes, return_exceptions=True)
    assert [type(each).__name__ for each in results[1:]] == ["NoneType", "KeyError", "StateError", "NoneType"]
    assert [each.id for each in store.open_intents()] == ["a", "b"]


async def test_a_write_returns_only_when_others_can_see_it(astore, path):
    with open_store(path) as other:
        for number in range(5):
            assert await astore.write(lambda store, number=number: (record(f"i{number}")(store), number)[1]) == number
            assert len(other.open_intents()) == number + 1


async def test_nobody_hears_of_success_when_the_commit_fails(astore, store, path):
    store._run("PRAGMA busy_timeout = 20")
    with open_store(path) as other, other.transaction():
        results = await asyncio.gather(astore.write(record("a")), astore.write(record("b")), return_exceptions=True)
        assert [type(each) for each in results] == [StateLockedError, StateLockedError]
    await astore.write(record("c"))
    assert [each.id for each in store.open_intents()] == ["c"]


async def test_a_cancelled_caller_neither_loses_its_write_nor_breaks_the_thread(astore, store):
    gate = Gate()
    holding = await gate.held(astore)
    task = asyncio.ensure_future(astore.write(record("i")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.opened.set()
    await holding
    assert [each.id for each in await astore.read(Store.open_intents)] == ["i"]


async def test_the_failure_of_a_write_whose_caller_was_cancelled_is_logged(astore, caplog):
    gate = Gate()
    holding = await gate.held(astore)
    task = asyncio.ensure_future(astore.write(lambda store: store.settle_nothing()))
    await asyncio.sleep(0)
    task.cancel()
    gate.opened.set()
    await holding
    await astore.read(Store.open_intents)
    await asyncio.sleep(0)
    assert "whose caller was cancelled failed" in caplog.text


async def test_the_loop_runs_on_while_the_thread_waits(astore):
    gate = Gate()
    holding = await gate.held(astore)
    ticks = 0
    while ticks < 100:
        await asyncio.sleep(0)
        ticks += 1
    assert not holding.done()
    gate.opened.set()
    await holding


def test_several_loops_and_threads_may_use_it(path):
    astore = AsyncStore(make_store(path))
    assert astore.run_sync(lambda store: astore.run_sync(Store.open_intents)) == []

    async def work(prefix):
        await asyncio.gather(*(astore.write(record(f"{prefix}{number}")) for number in range(20)))

    threads = [threading.Thread(target=asyncio.run, args=(work(prefix),)) for prefix in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(astore.run_sync(Store.open_intents)) == 60
    with pytest.raises(KeyError):
        astore.run_sync(lambda store: {}["x"])
    astore.close()
    astore.close()
    with pytest.raises(UsageError, match="closed"):
        astore.run_sync(Store.open_intents)


def test_a_loop_that_is_closed_meanwhile_harms_nobody(path):
    astore = AsyncStore(make_store(path))
    gate = Gate()

    async def leave():
        await gate.held(astore)
        task = asyncio.ensure_future(astore.write(record("i")))
        await asyncio.sleep(0)
        assert not task.done()

    asyncio.run(leave())
    gate.opened.set()
    assert [each.id for each in astore.run_sync(Store.open_intents)] == ["i"]
    astore.close()


async def test_closing_finishes_what_was_asked_for_and_ends_the_thread(path):
    astore = AsyncStore(make_store(path))
    writes = [asyncio.ensure_future(astore.write(record(f"i{number}"))) for number in range(10)]
    await asyncio.sleep(0)
    await asyncio.gather(astore.aclose(), astore.aclose())
    await asyncio.gather(*writes)
    assert not [thread for thread in threading.enumerate() if thread.name == "pileus-state"]
    with open_store(path) as store:
        assert len(store.open_intents()) == 10
    with pytest.raises(UsageError):
        await astore.write(record("late"))


async def test_closing_without_any_use_closes_the_store(store):
    await AsyncStore(store).aclose()
    with pytest.raises(UsageError, match="closed"):
        store.servers()


async def test_an_operation_lock_excludes_and_does_not_block_the_loop(astore, store):
    order = []

    async def operate(name):
        async with astore.operation_lock("deploy", 30.0):
            order.append(f"{name} in")
            await asyncio.sleep(0.01)
            order.append(f"{name} out")

    await asyncio.gather(operate("a"), operate("b"))
    assert order in (["a in", "a out", "b in", "b out"], ["b in", "b out", "a in", "a out"])
    with store.operation_lock("deploy", 0.0), pytest.raises(StateLockedError, match="deploy is going on already"):
        async with astore.operation_lock("deploy", 0.05):
            pass


async def test_an_operation_lock_is_given_back_when_its_holder_is_cancelled(astore, store):
    entered = asyncio.Event()

    async def operate():
        async with astore.operation_lock("deploy", 1.0):
            entered.set()
            await asyncio.sleep(60)

    task = asyncio.ensure_future(operate())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    again = store.operation("deploy")
    assert again.try_acquire()
    again.release()


async def test_secrets_are_forgotten_off_the_loop(astore, store):
    add_server(store, "s", admin_pass="pw")
    await astore.forget_secrets()
    assert store.server("s").admin_pass == ""


async def test_the_state_cannot_be_used_after_a_fork(astore):
    await astore.read(Store.open_intents)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        verdict = b"failed"
        try:
            with pytest.raises(UsageError, match="fork"):
                astore.run_sync(Store.open_intents)
            astore.close()
            verdict = b"fine"
        finally:
            os.write(write, verdict)
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    assert os.read(read, 100) == b"fine"
    os.close(read)


def test_leaving_the_program_does_not_wait_for_the_thread(path, spawn_child):
    make_store(path).close()
    child = spawn_child(
        path,
        """
        import threading
        astore = AsyncStore(open_store(path))
        entered = threading.Event()
        async def work():
            import asyncio
            asyncio.ensure_future(astore.read(lambda store: (entered.set(), time.sleep(600))))
            await asyncio.to_thread(entered.wait)
        import asyncio
        asyncio.run(work())
        say("leaving")
        """,
    )
    assert child.rest().split() == ["leaving"]
    assert child.process.returncode == 0


def test_the_layer_loads_neither_asyncio_nor_asyncssh(path, spawn_child):
    code = "import pileus.state; say([name for name in ('asyncio', 'asyncssh', 'platformdirs') if name in sys.modules])"
    child = spawn_child(
        path,
        textwrap.dedent(f"""
        import subprocess
        done = subprocess.run([sys.executable, "-c", "import sys; say = print; " + {code!r}], capture_output=True, text=True)
        say(done.stdout.strip() + done.stderr)
        """),
    )
    assert child.rest().strip() == "[]"
    assert "pileus.state" in sys.modules
