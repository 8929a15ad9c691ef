"""A clock that a test drives by hand, and waiting on any clock from a thread.

`ManualClock` has a `pileus.clock.Clock`'s methods. Its time stands still until `advance` or `tick` moves it, or, in
`auto` mode, until everything that uses it waits.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol


class TimeSource(Protocol):
    """The part of `pileus.clock.Clock` that a simulated cloud needs."""

    def monotonic(self) -> float:
        """Seconds that only grow."""
        ...

    def now(self) -> datetime:
        """The moment, aware and in UTC."""
        ...


@dataclass(order=True, slots=True)
class _Sleeper:
    due: float
    number: int
    wake: Callable[[], None] = field(compare=False)
    loop: asyncio.AbstractEventLoop | None = field(compare=False, default=None)
    gone: bool = field(compare=False, default=False)


class ManualClock:
    """A clock that moves only when it is told to. Safe to use from several threads and event loops at once.

    What is woken by a move runs on, in its own thread or loop, in real time; the clock cannot see when it has
    finished. `advance` therefore stops at every wake-up on its way for `settle_s` real seconds.

    Args:
        start: the moment that the clock shows first; naive is refused.
        settle_s: real seconds that `advance` gives to those whom it woke, before it moves on.
    """

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC), *, settle_s: float = 0.002) -> None:
        if start.tzinfo is None:
            raise ValueError("start must be an aware datetime")
        self._start = start
        self._settle_s = settle_s
        self._elapsed = 0.0
        self._sleepers: list[_Sleeper] = []
        self._numbers = itertools.count()
        self._changes = 0
        self._moved = threading.Condition()

    def monotonic(self) -> float:
        """Seconds since the clock was made, as moved."""
        return self._elapsed

    def now(self) -> datetime:
        """The start, plus what the clock was moved by."""
        return self._start + timedelta(seconds=self._elapsed)

    @property
    def sleeping(self) -> int:
        """How many tasks and threads wait for this clock now."""
        with self._moved:
            return sum(not sleeper.gone for sleeper in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Return once the clock was moved by that many seconds; at once (after other tasks had a turn) for 0."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        woken = loop.create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        sleeper = self._add(seconds, lambda: _soon(loop, wake), loop)
        try:
            await woken
        finally:
            self._drop(sleeper)

    def sleep_blocking(self, seconds: float, *, real_timeout_s: float | None = None) -> bool:
        """The same for a thread.

        Args:
            seconds: of this clock.
            real_timeout_s: seconds of real time after which to give up; None for never.

        Returns:
            Whether the clock got there; False when `real_timeout_s` ended the wait.
        """
        if seconds <= 0:
            return True
        woken = threading.Event()
        sleeper = self._add(seconds, woken.set, None)
        try:
            return woken.wait(real_timeout_s)
        finally:
            self._drop(sleeper)

    async def advance(self, seconds: float) -> None:
        """Move the clock, stopping at each wake-up on the way so that who wakes may run, and sleep again."""
        target = self._elapsed + seconds
        while self._move_to_next(target):
            await self._settle()
        self._finish(target)
        await self._settle()

    def tick(self, seconds: float) -> None:
        """`advance` for code that is not async. Not for an event loop's own thread, whose tasks it would hold up."""
        target = self._elapsed + seconds
        while self._move_to_next(target):
            time.sleep(self._settle_s)
        self._finish(target)
        time.sleep(self._settle_s)

    @contextmanager
    def auto(self, *, quiet_s: float = 0.01) -> Iterator[ManualClock]:
        """While the block runs, jump to the next wake-up whenever all seem to wait.

        All seem to wait when somebody sleeps on this clock, nobody has begun or ended a sleep for `quiet_s` real
        seconds, and the event loops of those who sleep answer. Work that takes longer than `quiet_s` without
        touching the clock (a disk, a socket, a busy thread) does not hold the clock back: what such work waits for
        may then come late in simulated time. Real timers (`asyncio.timeout`) know nothing of this clock.
        """
        stop = threading.Event()
        thread = threading.Thread(target=self._jump_when_quiet, args=(stop, quiet_s), daemon=True, name="auto-clock")
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()

    def _jump_when_quiet(self, stop: threading.Event, quiet_s: float) -> None:
        while not stop.is_set():
            before = self._changes
            if stop.wait(quiet_s):
                return
            with self._moved:
                loops = {sleeper.loop for sleeper in self._sleepers if not sleeper.gone and sleeper.loop}
            if not all(_answers(loop, stop) for loop in loops):
                continue
            with self._moved:
                if self._changes == before and self._next() is not None:
                    self._pop_next()

    def _add(self, seconds: float, wake: Callable[[], None], loop: asyncio.AbstractEventLoop | None) -> _Sleeper:
        with self._moved:
            sleeper = _Sleeper(self._elapsed + seconds, next(self._numbers), wake, loop)
            heapq.heappush(self._sleepers, sleeper)
            self._changes += 1
            return sleeper

    def _drop(self, sleeper: _Sleeper) -> None:
        with self._moved:
            sleeper.gone = True
            self._changes += 1

    def _next(self) -> _Sleeper | None:
        while self._sleepers and self._sleepers[0].gone:
            heapq.heappop(self._sleepers)
        return self._sleepers[0] if self._sleepers else None

    def _pop_next(self) -> None:
        sleeper = heapq.heappop(self._sleepers)
        self._elapsed = max(self._elapsed, sleeper.due)
        self._changes += 1
        sleeper.wake()

    def _move_to_next(self, target: float) -> bool:
        """Move to the first wake-up until `target` and wake all that are due then; False when there is none."""
        with self._moved:
            first = self._next()
            if first is None or first.due > target:
                return False
            due = first.due
            while (sleeper := self._next()) is not None and sleeper.due <= due:
                self._pop_next()
            return True

    def _finish(self, target: float) -> None:
        with self._moved:
            self._elapsed = max(self._elapsed, target)
            self._changes += 1

    async def _settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        await asyncio.sleep(self._settle_s)


def wait(clock: TimeSource, seconds: float, real_deadline: float) -> None:
    """Block a thread for `seconds` of `clock`, or until `time.monotonic()` reaches `real_deadline`, if that is earlier."""
    if isinstance(clock, ManualClock):
        clock.sleep_blocking(seconds, real_timeout_s=max(0.0, real_deadline - time.monotonic()))
        return
    until = clock.monotonic() + seconds
    while (left := min(until - clock.monotonic(), real_deadline - time.monotonic())) > 0:
        time.sleep(min(left, 0.05))


def _soon(loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(wake)
    except RuntimeError:
        return  # the loop was closed with the sleeper in it: nobody is left to wake


def _answers(loop: asyncio.AbstractEventLoop, stop: threading.Event) -> bool:
    """Whether the loop gets round to a callback that queues behind what is ready there."""
    answered = threading.Event()
    _soon(loop, lambda: _soon(loop, answered.set))
    while not answered.wait(0.05):
        if stop.is_set() or loop.is_closed() or not loop.is_running():
            return False
    return True
