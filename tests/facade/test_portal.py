"""The loop's thread by itself: what becomes of callbacks, interrupts, errors, forks and the program's end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import traceback
import weakref
from collections.abc import Callable

import pytest

from pileus.blocking import portal as portal_module
from pileus.blocking.portal import Inbox, portal
from pileus.errors import UsageError


async def test_a_call_from_an_event_loop_is_refused_with_the_async_name() -> None:
    called = []

    async def work() -> None:
        called.append(1)

    with pytest.raises(UsageError, match=r"Provider\.spawn blocks.*\n.*await AsyncProvider\.spawn"):
        portal().run(work, "Provider.spawn")
    assert not called


def test_results_come_back_and_all_calls_share_one_daemon_thread() -> None:
    async def where() -> threading.Thread:
        await asyncio.sleep(0)
        return threading.current_thread()

    threads = {portal().run(where, "test") for _ in range(3)}

    [thread] = threads
    assert thread.daemon
    assert thread is not threading.main_thread()


def test_an_error_keeps_its_identity_and_shows_both_sides_frames() -> None:
    error = ValueError("no")

    async def deep_inside() -> None:
        raise error

    with pytest.raises(ValueError, match="no") as caught:
        portal().run(deep_inside, "test")

    assert caught.value is error
    frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert frames[0] == "test_an_error_keeps_its_identity_and_shows_both_sides_frames"
    assert frames[-1] == "deep_inside"


def test_an_error_leaves_no_cycle_that_keeps_what_the_work_used() -> None:
    class Big:
        pass

    async def fail(big: Big) -> None:
        raise ValueError(big)

    def attempt() -> weakref.ref[Big]:
        big = Big()
        with contextlib.suppress(ValueError):
            portal().run(lambda: fail(big), "test")
        return weakref.ref(big)

    gc.disable()
    try:
        held = attempt()
        portal().run(lambda: asyncio.sleep(0), "test")  # the loop lets go of the task that ended
        assert held() is None
    finally:
        gc.enable()


def test_callbacks_run_in_the_callers_thread_in_order_and_before_the_return() -> None:
    inbox = Inbox()
    seen: list[tuple[int, threading.Thread]] = []
    later = inbox.relay(lambda number: seen.append((number, threading.current_thread())))
    assert later is not None

    async def work() -> None:
        for number in range(100):
            later(number)

    portal().run(work, "test", inbox=inbox)

    assert seen == [(number, threading.current_thread()) for number in range(100)]


def test_no_callback_stays_no_callback() -> None:
    assert Inbox().relay(None) is None


def test_an_error_in_a_callback_cancels_the_work_and_is_raised_after_its_clean_up() -> None:
    inbox = Inbox()
    steps: list[str] = []

    def complain() -> None:
        raise LookupError("in the callback")

    later = inbox.relay(complain)
    assert later is not None

    async def work() -> None:
        later()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            steps.append("clean")

    with pytest.raises(LookupError):
        portal().run(work, "test", inbox=inbox)
    assert steps == ["clean"]


def interrupting(work: Callable[[Callable[[], None]], object], **more: object) -> None:
    """Run work that is given a function to send this thread a Ctrl-C with."""
    portal().run(lambda: work(lambda: os.kill(os.getpid(), signal.SIGINT)), "test", **more)  # type: ignore[arg-type]


def test_an_interrupt_cancels_the_work_and_waits_for_its_clean_up() -> None:
    steps: list[str] = []

    async def work(interrupt: Callable[[], None]) -> None:
        interrupt()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            steps.append("clean")
            raise

    with pytest.raises(KeyboardInterrupt):
        interrupting(work)
    assert steps == ["clean"]


def test_a_second_interrupt_ends_the_waiting_for_clean_up() -> None:
    release: list[asyncio.Event] = []

    async def work(interrupt: Callable[[], None]) -> None:
        release.append(asyncio.Event())
        interrupt()
        try:
            await asyncio.sleep(60)
        finally:
            interrupt()
            await release[0].wait()

    with pytest.raises(KeyboardInterrupt) as caught:
        interrupting(work)
    assert "clean-up was interrupted" in caught.value.__notes__[0]

    async def let_go() -> None:
        release[0].set()

    portal().run(let_go, "test")


def test_waiting_for_clean_up_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portal_module, "CLEAN_UP_LIMIT_S", 0.05)
    release: list[asyncio.Event] = []

    async def work(interrupt: Callable[[], None]) -> None:
        release.append(asyncio.Event())
        interrupt()
        try:
            await asyncio.sleep(60)
        finally:
            await release[0].wait()

    with pytest.raises(KeyboardInterrupt) as caught:
        interrupting(work)
    assert "did not end within 0.05 s" in caught.value.__notes__[0]

    async def let_go() -> None:
        release[0].set()

    portal().run(let_go, "test")


def test_a_clean_up_that_fails_is_told_with_the_interrupt() -> None:
    async def work(interrupt: Callable[[], None]) -> None:
        interrupt()
        try:
            await asyncio.sleep(60)
        finally:
            raise OSError("disk on fire")

    with pytest.raises(KeyboardInterrupt) as caught:
        interrupting(work)
    assert caught.value.__notes__ == ["its clean-up failed: OSError: disk on fire"]


def test_a_result_that_an_interrupt_overtook_is_discarded() -> None:
    discarded: list[str] = []

    async def work(interrupt: Callable[[], None]) -> str:
        try:
            interrupt()
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "a server"
        return "never"

    async def discard(result: str) -> None:
        discarded.append(result)

    with pytest.raises(KeyboardInterrupt):
        interrupting(work, discard=discard)
    assert discarded == ["a server"]


def run_script(script: str, *, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_a_forked_child_is_refused_the_parents_portal_and_gets_its_own() -> None:
    done = run_script(
        """
        import asyncio, os
        from pileus.blocking.portal import portal
        from pileus.errors import UsageError

        async def answer():
            return 42

        ours = portal()
        assert ours.run(answer, "Provider.quota") == 42
        if (child := os.fork()) == 0:
            try:
                ours.run(answer, "Provider.quota")
            except UsageError as error:
                assert "make a new Provider in the child" in str(error), error
                assert portal() is not ours
                assert portal().run(answer, "Provider.quota") == 42
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert ours.run(answer, "Provider.quota") == 42
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_fork_while_another_thread_starts_the_portal_does_not_lock_the_child_out() -> None:
    done = run_script(
        """
        import os, signal
        from pileus.blocking import portal as module

        with module._lock:
            if (child := os.fork()) == 0:
                signal.alarm(10)
                module.portal()
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_program_ends_with_work_hanging_in_the_loop_and_in_its_helper_threads() -> None:
    done = run_script(
        """
        import asyncio, threading, time
        from pileus.blocking.portal import portal

        async def close():
            print("closed", flush=True)

        async def stubborn():
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    print("cancelled", flush=True)

        async def hang_in_a_thread():
            await asyncio.to_thread(time.sleep, 3600)

        portal().at_exit(1, close)
        portal().post(stubborn)
        portal().post(hang_in_a_thread)
        time.sleep(0.1)
        assert all(thread.daemon or thread is threading.main_thread() for thread in threading.enumerate())
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed\ncancelled\n", "")


def test_a_close_that_hangs_does_not_keep_the_program() -> None:
    done = run_script(
        """
        import asyncio, time
        from pileus.blocking.portal import portal

        async def block_the_loop():
            time.sleep(3600)

        portal().at_exit(1, block_the_loop)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_call_after_the_loops_end_says_so() -> None:
    done = run_script(
        """
        import asyncio
        from pileus.blocking.portal import portal
        from pileus.errors import UsageError

        ours = portal()
        ours.shut_down()
        try:
            ours.run(lambda: asyncio.sleep(0), "Provider.quota")
        except UsageError as error:
            print("refused:", error.operation)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "refused: Provider.quota\n", "")
