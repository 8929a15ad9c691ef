"""Runs the library's coroutines for a verb: signals cancel the work, and its clean-up is waited for."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pileus.cli.outcome import Interrupted
from pileus.cli.progress import Progress

T = TypeVar("T")

TOGETHER_S = 0.5
"""Signals that come within so many seconds are one."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def drive(work: Callable[[], Awaitable[T]], progress: Progress) -> T:
    """Run `work` on an event loop of its own and give its result.

    The first signal that asks us to end cancels the work; what it does in its `finally` still runs. A second one leaves
    at once.

    Raises:
        Interrupted: a signal came, and the work has ended.
    """
    received: list[int] = []
    with asyncio.Runner() as runner:
        try:
            result = runner.run(_watched(work, received, progress))
        except BaseException as problem:
            if received:
                if isinstance(problem, Exception):  # not the cancelling itself: something went wrong after it
                    progress.warn(f"while cleaning up: {problem}")
                raise Interrupted(received[0]) from None
            raise
    if received:
        raise Interrupted(received[0])
    return result


async def _watched(work: Callable[[], Awaitable[T]], received: list[int], progress: Progress) -> T:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()

    first = 0.0

    def stop(number: int) -> None:
        nonlocal first
        if received:
            if loop.time() - first < TOGETHER_S:
                return  # `timeout` and terminals signal a process and its group: that is one wish, not two
            progress.stop()
            progress.say("pileus: leaving at once; `pileus list` shows what is still there")
            os._exit(128 + received[0])
        received.append(number)
        first = loop.time()
        progress.note("interrupted: cleaning up (once more to leave at once)")
        if task is not None:
            task.cancel()

    watched = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in watched:
        loop.add_signal_handler(number, stop, number)
    try:
        return await work()
    finally:
        for number in watched:
            loop.remove_signal_handler(number)
