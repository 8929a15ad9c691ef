"""The near end of a simulated cloud that runs as a process of its own."""

from __future__ import annotations

from pileus.testing.cloud import SimulatedCloud


class RemoteCloud(SimulatedCloud):
    """Not yet."""

    def __init__(self, url: str) -> None:
        raise NotImplementedError(f"{url}: clouds in other processes come next")
