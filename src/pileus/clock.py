"""The clock that the core waits by: the system's, unless a test brings its own."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the core asks of a clock. `pileus.testing.ManualClock` is one that tests can drive."""

    def monotonic(self) -> float:
        """Seconds that only grow; comparable between processes of one boot of this machine."""
        ...

    def now(self) -> datetime:
        """The moment, aware and in UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds of this clock."""
        ...


class SystemClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment of this boot."""
        return time.monotonic()

    def now(self) -> datetime:
        """The wall clock's moment."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Sleep without blocking the event loop."""
        await asyncio.sleep(seconds)
