"""The clock that tests drive."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import datetime, timedelta

import pytest

from pileus.testing import ManualClock
from pileus.testing.clock import wait


async def test_time_stands_still_until_it_is_moved() -> None:
    clock = ManualClock()
    began = clock.now()
    await asyncio.sleep(0.01)
    assert clock.monotonic() == 0.0
    await clock.advance(2.5)
    assert clock.monotonic() == 2.5
    assert clock.now() - began == timedelta(seconds=2.5)


async def test_advance_wakes_sleepers_in_order_and_each_at_its_own_moment() -> None:
    clock, woken = ManualClock(), []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, clock.monotonic()))

    tasks = [asyncio.create_task(sleeper(seconds)) for seconds in (3, 1, 2, 9)]
    await asyncio.sleep(0)
    await clock.advance(5)
    assert woken == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert clock.sleeping == 1
    await clock.advance(4)
    await asyncio.gather(*tasks)
    assert clock.sleeping == 0


async def test_a_loop_of_sleeps_keeps_its_rhythm_within_one_advance() -> None:
    clock, ticks = ManualClock(), []

    async def ticker() -> None:
        for _ in range(5):
            await clock.sleep(1)
            ticks.append(clock.monotonic())

    task = asyncio.create_task(ticker())
    await asyncio.sleep(0)
    await clock.advance(10)
    await task
    assert ticks == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert clock.monotonic() == 10.0


async def test_a_cancelled_sleep_is_forgotten() -> None:
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(5))
    await asyncio.sleep(0)
    assert clock.sleeping == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.sleeping == 0
    await clock.advance(10)


def test_a_thread_sleeps_until_the_clock_gets_there() -> None:
    clock = ManualClock()
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(clock.sleep_blocking(3)))
    thread.start()
    while not clock.sleeping:
        time.sleep(0.001)
    clock.tick(2.9)
    assert results == []
    clock.tick(0.1)
    thread.join(10)
    assert results == [True]


def test_a_threads_sleep_ends_at_its_real_timeout() -> None:
    clock = ManualClock()
    assert clock.sleep_blocking(3, real_timeout_s=0.01) is False
    assert clock.sleeping == 0
    wait(clock, 3, time.monotonic() + 0.01)
    assert clock.sleeping == 0


async def test_auto_jumps_over_every_wait_of_tasks_and_threads() -> None:
    clock = ManualClock()
    with clock.auto(quiet_s=0.002):
        await clock.sleep(3600)
        await asyncio.to_thread(clock.sleep_blocking, 3600)
        await asyncio.gather(clock.sleep(10), clock.sleep(20))
    assert clock.monotonic() == 7220.0
    waiting = asyncio.create_task(clock.sleep(1))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    waiting.cancel()


async def test_auto_does_not_jump_while_the_loop_is_busy() -> None:
    clock = ManualClock()
    sleeper = asyncio.create_task(clock.sleep(5))
    await asyncio.sleep(0)
    with clock.auto(quiet_s=0.001):
        time.sleep(0.1)  # as a task that computes would
        assert clock.monotonic() == 0.0
        await sleeper


def test_a_naive_start_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        ManualClock(datetime(2030, 1, 1))


async def test_auto_does_not_jump_while_sleeps_begin_and_end() -> None:
    clock = ManualClock()
    sleeper = asyncio.create_task(clock.sleep(5))
    with clock.auto(quiet_s=0.2):
        for _ in range(40):
            other = asyncio.create_task(clock.sleep(1000))
            await asyncio.sleep(0.01)
            other.cancel()
            assert clock.monotonic() == 0.0
        await sleeper
