"""One event loop in one daemon thread, on which all blocking code of the process runs its asynchronous work.

What it promises to the thread that waits:

- Callbacks run in that thread, in the order in which they were made, and before the call returns.
- An interrupt (Ctrl-C), or an error in a callback, cancels the work, waits for its clean-up and is then raised. A second interrupt
  ends the waiting.
- An error of the work is raised as it is; its traceback shows both the caller's frames and the loop's.
- A call from a thread that runs an event loop, or in a forked child, is refused before anything is done.
- The end of the program waits `EXIT_LIMIT_S` at most, whatever hangs.

It knows nothing of clouds.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar

from pileus.blocking.executor import DaemonExecutor
from pileus.errors import UsageError

T = TypeVar("T")
P = ParamSpec("P")
log = logging.getLogger("pileus.blocking")

CLEAN_UP_LIMIT_S = 60.0
"""How long an interrupted call waits for its work to clean up."""

EXIT_LIMIT_S = 2.0
"""How long the end of the program waits for connections to close."""


class Inbox:
    """What a waiting thread is asked to do: call back, or look at a call that ended. Outlives one call where work does."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()

    def relay(self, callback: Callable[P, object] | None) -> Callable[P, None] | None:
        """Give a function for the loop's side that has `callback` called in the waiting thread; None stays None."""
        if callback is None:
            return None

        def call_later(*arguments: P.args, **keywords: P.kwargs) -> None:
            self._items.put(lambda: callback(*arguments, **keywords))

        return call_later

    def wake(self) -> None:
        """Have the waiting thread look again whether its call ended."""
        self._items.put(_nothing)

    def take(self, timeout: float | None = None) -> Callable[[], object] | None:
        """Wait for the next thing to do; None when there is none after `timeout` seconds. Signals interrupt the wait."""
        try:
            return self._items.get(timeout=timeout)
        except queue.Empty:
            return None


def _nothing() -> None:
    pass


class _Call(Generic[T]):
    """One piece of work on the loop, and how it ended."""

    def __init__(self, function: Callable[[], Awaitable[T]], inbox: Inbox) -> None:
        self.inbox = inbox
        self.ended = False
        self.error: BaseException | None = None
        self.results: list[T] = []  # none or one: a result may be None
        self._function = function
        self._task: asyncio.Task[T] | None = None
        self._cancelled = False

    def start(self) -> None:
        """Begin (on the loop)."""
        self._task = asyncio.get_running_loop().create_task(self._work())
        self._task.add_done_callback(self._note)
        if self._cancelled:
            self._task.cancel()

    def cancel(self) -> None:
        """Stop the work (on the loop); it may take its time to clean up."""
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    def wait(self) -> T:
        """Do what the work asks for until it ends; give its result or raise its error."""
        while (errand := self.inbox.take(timeout=0 if self.ended else None)) is not None:
            errand()
        if self.error is not None:
            raise self.error
        return self.results[0]

    def wait_for_end(self, limit_s: float) -> bool:
        """Wait without calling back; whether it ended in time."""
        end = time.monotonic() + limit_s
        while not self.ended and (left := end - time.monotonic()) > 0:
            self.inbox.take(timeout=left)
        return self.ended

    async def _work(self) -> T:
        return await self._function()

    def _note(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.error = asyncio.CancelledError()
        elif (error := task.exception()) is not None:
            self.error = error
        else:
            self.results.append(task.result())
        self._task = None  # it refers to its error, which refers to the frame that waits, which refers to us
        self.ended = True
        self.inbox.wake()


class Portal:
    """The loop's thread, for one process. Made by `portal()`, not directly."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._ending = False
        self._closers: dict[int, Callable[[], Awaitable[object]]] = {}
        self._posted: set[_Call[None]] = set()  # a loop holds its tasks weakly
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(DaemonExecutor())
        self._thread = threading.Thread(target=self._serve, name="pileus-loop", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it belongs to this process and still runs."""
        return self._process == os.getpid() and not self._loop.is_closed()

    def run(
        self,
        function: Callable[[], Awaitable[T]],
        operation: str,
        *,
        inbox: Inbox | None = None,
        discard: Callable[[T], Awaitable[object]] | None = None,
    ) -> T:
        """Await `function()` on the loop while this thread waits.

        Args:
            function: makes what is awaited; called on the loop.
            operation: the public name, such as `Provider.spawn`, for errors.
            inbox: where callbacks come in, when there are any.
            discard: undoes a result that came, but could not be handed over since an interrupt came, too.

        Raises:
            UsageError: this thread runs an event loop; the process is a forked child; or the program is at its end.
        """
        self.check(operation)
        call = _Call(function, inbox or Inbox())
        try:
            self._post(call.start, operation)
            return call.wait()
        except BaseException as reason:
            if reason is not call.error:
                self._give_up(call, reason, discard)
                raise
            if isinstance(reason, asyncio.CancelledError):
                if self._ending:
                    # Only a daemon thread can still wait here: an error now would be its last words, on standard error.
                    threading.Event().wait()
                raise _ended_early(operation) from None
            raise
        finally:
            call.error = None  # it refers to this frame, which refers to the call

    def check(self, operation: str) -> None:
        """Refuse a call that cannot work.

        Raises:
            UsageError: as for `run`.
        """
        if self._process != os.getpid():
            raise UsageError(
                f"{operation}: this process was forked after the Provider was made, and has no part of its connections",
                hint="make a new Provider in the child, with the same arguments",
                operation=operation,
            )
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise UsageError(
            f"{operation} blocks, and was called in a thread that runs an event loop",
            hint=f"await Async{operation} instead",
            operation=operation,
        )

    def run_or_post(self, function: Callable[[], Coroutine[Any, Any, object]], operation: str) -> None:
        """Clean up: wait for it where waiting is allowed, else only set it going (a generator may be collected anywhere)."""
        try:
            self.check(operation)
        except UsageError:
            self.post(function)
        else:
            self.run(function, operation)

    def post(self, function: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Set work going and do not wait; nothing happens in a forked child or at the program's end."""
        if not self.alive:
            return

        async def work() -> None:
            try:
                await function()
            except Exception as error:  # noqa: BLE001  (nobody waits who could be told)
                log.warning("clean-up in the background failed: %s", error)
            finally:
                self._posted.discard(call)

        call = _Call(work, Inbox())
        self._posted.add(call)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(call.start)

    def at_exit(self, key: int, close: Callable[[], Awaitable[object]] | None) -> None:
        """Have `close` awaited at the program's end; None takes it back."""
        if close is None:
            self._closers.pop(key, None)
        else:
            self._closers[key] = close

    def shut_down(self) -> None:
        """End the loop: close what is open, cancel what runs. Waits `EXIT_LIMIT_S` at most, and raises nothing."""
        if not self.alive:
            return
        self._ending = True
        call = _Call(self._wind_up, Inbox())
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call.start)
            if call.wait_for_end(EXIT_LIMIT_S):
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join(EXIT_LIMIT_S)
                if not self._thread.is_alive():
                    self._loop.close()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _post(self, function: Callable[[], None], operation: str) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            raise _ended_early(operation) from None

    def _give_up(self, call: _Call[T], reason: BaseException, discard: Callable[[T], Awaitable[object]] | None) -> None:
        """Cancel a call that nobody waits for any more, and see its clean-up through; notes on `reason` tell what is not clean."""
        try:
            self._loop.call_soon_threadsafe(call.cancel)
            if not call.wait_for_end(CLEAN_UP_LIMIT_S):
                reason.add_note(f"its clean-up did not end within {CLEAN_UP_LIMIT_S:g} s and goes on in the background")
            elif call.results and discard is not None:
                result = call.results[0]
                undo = _Call(lambda: discard(result), Inbox())
                self._loop.call_soon_threadsafe(undo.start)
                undo.wait_for_end(CLEAN_UP_LIMIT_S)
                _note_failure(reason, undo.error)
            else:
                _note_failure(reason, call.error)
        except KeyboardInterrupt:
            reason.add_note("its clean-up was interrupted, too, and goes on in the background while the program lives")
        except RuntimeError:  # the loop is closed: nothing runs there any more
            pass

    async def _wind_up(self) -> None:
        closing = [asyncio.ensure_future(_quietly(close)) for close in list(self._closers.values())]
        if closing:
            await asyncio.wait(closing, timeout=EXIT_LIMIT_S / 2)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=EXIT_LIMIT_S / 4)
        self._loop.set_exception_handler(lambda _loop, _context: None)  # what still hangs is nobody's concern any more


async def _quietly(close: Callable[[], Awaitable[object]]) -> None:
    with contextlib.suppress(Exception):
        await close()


def _note_failure(reason: BaseException, error: BaseException | None) -> None:
    if error is not None and not isinstance(error, asyncio.CancelledError):
        reason.add_note(f"its clean-up failed: {type(error).__name__}: {error}")


def _ended_early(operation: str) -> UsageError:
    return UsageError(
        f"{operation}: the Provider was closed, or the program is ending, while it ran",
        hint="let calls in other threads end before closing",
        operation=operation,
    )


_lock = threading.Lock()
_portals: list[Portal] = []
"""The current one is the last. Those before it belong to the process that we were forked from; they are kept, since collecting
their loops would touch what we share with it."""


def portal() -> Portal:
    """The process's portal; started when first asked for."""
    with _lock:
        if not _portals or not _portals[-1].alive:
            if not _portals:
                atexit.register(_end)
            _portals.append(Portal())
        return _portals[-1]


def _end() -> None:
    if _portals:
        _portals[-1].shut_down()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork)
