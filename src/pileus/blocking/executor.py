"""The event loop's own helper threads (name look-ups, `asyncio.to_thread`), so that none of them delays the program's end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class DaemonExecutor(ThreadPoolExecutor):
    """A daemon thread for each call.

    The interpreter joins the threads of a usual executor at exit, and so a program would hang on a name server that does not
    answer. An event loop accepts subclasses of `ThreadPoolExecutor` only; of that one nothing but the type is used.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call `fn` in a thread of its own."""
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001  (belongs to whoever awaits it)
                future.set_exception(error)

        threading.Thread(target=work, name="pileus-loop-helper", daemon=True).start()
        return future
