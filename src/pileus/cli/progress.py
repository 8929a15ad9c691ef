"""What goes to standard error while long work runs: one live line where a person looks, plain lines where not."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pileus.cli.quantities import show_bytes
from pileus.cli.render import printable

if TYPE_CHECKING:
    from rich.status import Status

_BAR_PAUSE_S = 0.1


class Progress:
    """Tells a person what is going on. May be used from any thread.

    Args:
        quiet: say only what is wrong.
        live: draw one line that changes; None to find out whether standard error is a terminal.
    """

    def __init__(self, *, quiet: bool = False, live: bool | None = None) -> None:
        self.quiet = quiet
        self._live = _is_terminal() if live is None else live
        self._status: Status | None = None
        self._lock = threading.RLock()

    def doing(self, text: str) -> None:
        """Say what is being done now: on the live line, or as a line of its own."""
        text = printable(text)
        with self._lock:
            if self.quiet:
                return
            if not self._live:
                self._line(f"pileus: {text}")
            elif self._status is None:
                self._begin(text)
            else:
                self._status.update(_escaped(text))

    def note(self, text: str) -> None:
        """Say something that stays."""
        if not self.quiet:
            self.say(f"pileus: {printable(text)}")

    def warn(self, text: str) -> None:
        """Say something that is wrong; also when quiet."""
        self.say(f"pileus: warning: {text}")

    def say(self, text: str) -> None:
        """Write a line (or several) to standard error, the live line staying below."""
        with self._lock:
            status = self._status
            if status is not None:
                status.stop()
            self._line(text)
            if status is not None:
                status.start()

    def transfer(self, text: str) -> Callable[[int, int], None]:
        """Say that something is being copied; the result takes the bytes done and their total, and shows them live."""
        self.doing(text)
        shown = 0.0

        def update(done: int, total: int) -> None:
            nonlocal shown
            now = time.monotonic()
            if self._live and not self.quiet and (now - shown >= _BAR_PAUSE_S or done >= total):
                shown = now
                share = f"{100 * done // total:3d}% of " if total else ""
                self.doing(f"{text}  {share}{show_bytes(total or done)}")

        return update

    def stop(self) -> None:
        """Take the live line away; the next `doing` brings it back."""
        with self._lock:
            if self._status is not None:
                self._status.stop()
                self._status = None

    def plain(self) -> None:
        """Write lines from now on: something else is about to write to the terminal."""
        self.stop()
        self._live = False

    def _begin(self, text: str) -> None:
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        spinner = "dots" if console.encoding.lower().startswith("utf") else "line"
        self._status = console.status(_escaped(text), spinner=spinner)
        self._status.start()

    @staticmethod
    def _line(text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
