"""Pools of daemon threads for calls that block.

`concurrent.futures.ThreadPoolExecutor` is not used because the interpreter joins its threads at exit: a program would hang on
a cloud that does not answer. These threads are daemons, and one that hangs past its call's deadline is given up and replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple[Callable[[], Any], asyncio.Future[Any], asyncio.AbstractEventLoop]


class DaemonPool:
    """At most `size` threads, started when there is work, that await blocking functions.

    Args:
        name: the threads' name, for those who debug.
        size: how many calls run at once; a call that was given up does not count.
    """

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._given_up: set[threading.Thread] = set()
        self._running: dict[asyncio.Future[Any], threading.Thread] = {}
        self._closed = False

    async def run(self, function: Callable[[], T], timeout: float) -> T:
        """Call `function` in one of the threads.

        Raises:
            TimeoutError: it did not return within `timeout` seconds. It goes on in its thread, and what it returns is dropped.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._jobs.put((function, future, loop))
            if self._idle < self._jobs.qsize() and len(self._threads) - len(self._given_up) < self._size:
                self._start()
        try:
            async with asyncio.timeout(timeout):
                return await future
        except (TimeoutError, asyncio.CancelledError):
            self._give_up(future)
            raise

    def close(self) -> None:
        """Let the threads end; does not wait for those that are in a call."""
        with self._lock:
            self._closed = True
            threads = self._threads - self._given_up
            for _ in threads:
                self._jobs.put(None)
        end = time.monotonic() + 0.2
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        self._threads.add(thread)
        thread.start()

    def _give_up(self, future: asyncio.Future[Any]) -> None:
        with self._lock:
            thread = self._running.get(future)
            if thread is not None:
                self._given_up.add(thread)
                if self._jobs.qsize() and len(self._threads) - len(self._given_up) < self._size:
                    self._start()

    def _work(self) -> None:
        this = threading.current_thread()
        while True:
            with self._lock:
                if this in self._given_up:
                    break
                self._idle += 1
            try:
                job = self._jobs.get(timeout=30.0)
            except queue.Empty:
                job = None
            with self._lock:
                self._idle -= 1
                if job is None:
                    break
                self._running[job[1]] = this
            self._do(*job)
            with self._lock:
                self._running.pop(job[1], None)
        with self._lock:
            self._threads.discard(this)
            self._given_up.discard(this)

    @staticmethod
    def _do(function: Callable[[], Any], future: asyncio.Future[Any], loop: asyncio.AbstractEventLoop) -> None:
        if future.cancelled():
            return
        result: Any = None
        error: BaseException | None = None
        try:
            result = function()
        except BaseException as problem:  # noqa: BLE001  (handed over to whoever awaits)
            error = problem

        def finish() -> None:
            if not future.done():
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(finish)
