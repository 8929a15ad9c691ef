"""`AsyncStore`: a Store off the event loop, on one thread, where writes that wait together share one commit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from pileus.errors import UsageError
from pileus.state.locks import POLL_S
from pileus.state.store import Store

T = TypeVar("T")

logger = logging.getLogger("pileus.state")


@dataclass(eq=False, slots=True)
class _Job:
    """One function to run, and where to tell how it ended. A job without a function ends the thread."""

    function: Callable[[Store], Any] | None
    write: bool
    tell: Callable[[Any, BaseException | None], None]
    result: Any = None
    error: BaseException | None = None


class AsyncStore:
    """Runs functions that take the Store on a thread of its own, in the order in which they come.

    May be used from several event loops and threads. The thread is a daemon: leaving the program never waits for it. Do not use
    the Store from elsewhere while a function may be running; close both with `aclose` (or `close`).
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._mutex = threading.Lock()
        self._closing = False
        self._pid = os.getpid()

    # --- from an event loop ---

    async def write(self, function: Callable[[Store], T]) -> T:
        """Run a function in a transaction; returns, or raises what it raised, once the commit is on disk.

        Functions that wait while a commit is being made share the next one. Each is undone by itself when it raises, and the
        others are not touched; only when the commit itself fails do all of them fail. Cancelling the caller does not take
        the write back: it is made or undone as a whole all the same.

        The function runs once, must not await anything, and should not do more than use the Store.
        """
        return await self._from_loop(function, write=True)

    async def read(self, function: Callable[[Store], T]) -> T:
        """Run a function outside of a transaction; writes that were asked for earlier are seen."""
        return await self._from_loop(function, write=False)

    @contextlib.asynccontextmanager
    async def operation_lock(self, name: str, timeout_s: float) -> AsyncIterator[None]:
        """The same as `Store.operation_lock`, without blocking the loop or the thread.

        Raises:
            StateLockedError: another still holds it after `timeout_s` seconds; the message names the process.
        """
        lock = self.store.operation(name)
        deadline = time.monotonic() + timeout_s
        while not lock.try_acquire():
            if time.monotonic() >= deadline:
                raise lock.refusal(timeout_s)
            await asyncio.sleep(POLL_S)
        try:
            yield
        finally:
            lock.release()

    async def forget_secrets(self) -> None:
        """The same as `Store.forget_secrets`, which must not run within a transaction."""
        await self.read(Store.forget_secrets)

    async def aclose(self) -> None:
        """Finish what was asked for, close the Store, end the thread. Safe to repeat; later calls raise `UsageError`."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        if self._stop(_teller(loop, done)):
            # The thread must be awaited to its end even when we are cancelled meanwhile: it holds the file.
            await asyncio.shield(done)
        self._join()

    async def _from_loop(self, function: Callable[[Store], T], *, write: bool) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._submit(_Job(function, write, _teller(loop, done)))
        return await done

    # --- without one ---

    def run_sync(self, function: Callable[[Store], T]) -> T:
        """Run a function on the thread and block until it is done; for use where there is no event loop (yet).

        It runs outside of a transaction; the Store's methods are one each.
        """
        if threading.current_thread() is self._thread:
            return function(self.store)
        done: Future[T] = Future()
        self._submit(_Job(function, False, lambda result, error: _finish(done, result, error)))
        return done.result()

    def close(self) -> None:
        """The same as `aclose`, blocking."""
        done: Future[None] = Future()
        if self._stop(lambda result, error: _finish(done, result, error)):
            done.result()
        self._join()

    # --- the thread ---

    def _submit(self, job: _Job) -> None:
        with self._mutex:
            if self._pid != os.getpid():
                raise UsageError(
                    f"{self.store.path}: the state was opened before a fork, and cannot be used in the child",
                    hint="make a new Provider in the child process",
                )
            if self._closing:
                raise UsageError(f"{self.store.path}: the state is closed", hint="make a new Provider")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="pileus-state", daemon=True)
                self._thread.start()
            self._jobs.put(job)

    def _stop(self, tell: Callable[[Any, BaseException | None], None]) -> bool:
        """Ask the thread to end; False when there is nothing to wait for."""
        with self._mutex:
            if self._closing or self._pid != os.getpid():
                return False
            self._closing = True
            if self._thread is None:
                self.store.close()
                return False
            self._jobs.put(_Job(None, False, tell))
            return True

    def _join(self) -> None:
        # It has told us that it is done, or another close is waiting for it: either way this takes no time worth awaiting.
        if self._thread is not None and self._pid == os.getpid() and self._thread is not threading.current_thread():
            self._thread.join()

    def _work(self) -> None:
        while True:
            jobs = [self._jobs.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    jobs.append(self._jobs.get_nowait())
            self._write([job for job in jobs if job.write])
            for job in jobs:
                if job.function is None:
                    _run(job, Store.close, self.store)
                    job.tell(None, job.error)
                    return
                if not job.write:
                    _run(job, job.function, self.store)
                    job.tell(job.result, job.error)

    def _write(self, jobs: list[_Job]) -> None:
        """Run several functions in one transaction, each in a part of its own, and tell all of them after the commit."""
        if not jobs:
            return
        try:
            with self.store.transaction():
                for job in jobs:
                    self._write_one(job)
        except BaseException as problem:  # noqa: BLE001 (whatever it is, those who wait must hear of it)
            for job in jobs:
                job.error = problem
        for job in jobs:
            job.tell(job.result, job.error)

    def _write_one(self, job: _Job) -> None:
        def within(store: Store) -> Any:
            with store.transaction():
                assert job.function is not None
                return job.function(store)

        _run(job, within, self.store)
        if job.error is not None and not self.store.in_transaction:
            raise job.error  # SQLite itself ended the whole transaction, the others' parts included


def _run(job: _Job, function: Callable[[Store], Any], store: Store) -> None:
    try:
        job.result = function(store)
    except BaseException as problem:  # noqa: BLE001 (it is raised where the job came from)
        job.error = problem


def _finish(done: Future[Any], result: Any, error: BaseException | None) -> None:
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)


def _teller(loop: asyncio.AbstractEventLoop, done: asyncio.Future[Any]) -> Callable[[Any, BaseException | None], None]:
    def deliver(result: Any, error: BaseException | None) -> None:
        if done.done():  # the caller was cancelled
            if error is not None:
                logger.warning("a change of the state whose caller was cancelled failed: %s", error)
        elif error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def tell(result: Any, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(deliver, result, error)

    return tell
