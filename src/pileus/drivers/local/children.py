"""Starts and reaps processes in a server, from one thread and without a thread for any of them.

The server's first process adopts every orphan of its process tree, so there are children that nobody here has started.
This is the only place that waits for children (no `asyncio` subprocess is used beside it), and an exit is looked up in
the table of those that were started; what is not in it was adopted and is only reaped.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

Exited = Callable[[int], None]
"""Takes the wait status of a child that ended."""

_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Children:
    """The processes that were started here and have not ended yet."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._waiting: dict[int, Exited] = {}
        loop.add_signal_handler(signal.SIGCHLD, self._reap)

    def start(
        self,
        argv: list[str],
        environment: dict[bytes, bytes],
        file_actions: Sequence[tuple[Any, ...]],
        on_exit: Exited,
    ) -> int:
        """Start `argv[0]`, an absolute path, in a session of its own and give its pid; `on_exit` is called from the loop, once.

        Every descriptor of ours is close-on-exec, so nothing but what `file_actions` makes is inherited. `posix_spawn` costs
        the same however large this process is, and runs none of our code in the child.

        Raises:
            OSError: it cannot be started.
        """
        pid = os.posix_spawn(
            argv[0],
            argv,
            environment,
            file_actions=file_actions,
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULT_SIGNALS,
        )
        # The handler runs from the loop, never in between, so the pid is in the table before its end can be seen.
        self._waiting[pid] = on_exit
        return pid

    def runs(self, pid: int) -> bool:
        """Whether it was started here and has not been reaped: only then is its number sure to be still its own."""
        return pid in self._waiting

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            on_exit = self._waiting.pop(pid, None)
            if on_exit is not None:
                on_exit(status)
