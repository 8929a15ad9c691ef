"""What to make of a server that is waited for, and how long to wait."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Protocol

FIRST_S = 20 * 60.0
"""How long the first server may take, of which nothing is known yet (an image's first boot on a cloud copies it around)."""
FLOOR_S = 180.0
"""No experience makes the limit shorter."""
PATIENCE = 4.0
"""How many times the average a server may take."""
_MEMORY = 10
"""About how many servers the average remembers."""


class Status(Protocol):
    """A member of the drivers' `ServerStatus`."""

    @property
    def value(self) -> str: ...  # noqa: D102


class Listed(Protocol):
    """What is read of a server's record in a listing."""

    @property
    def status(self) -> Status: ...  # noqa: D102
    @property
    def address(self) -> str: ...  # noqa: D102
    @property
    def fault(self) -> str: ...  # noqa: D102


class Ending(enum.Enum):
    """The four endings of waiting, and none yet."""

    DONE = "done"
    FAILED = "failed"
    VANISHED = "vanished"
    TIMEOUT = "timeout"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How it stands, and why, in words for an error (or for a line of progress while waiting)."""

    ending: Ending
    reason: str


def judge(record: Listed | None, seen_before: bool, age_s: float, lag_s: float, timeout_s: float) -> Verdict:
    """Judge one server by the newest listing.

    The cases, in this order: it runs and has an address: done. It is in error, or powered itself off: failed. It is being
    deleted, or is missing from the listing though the listing cannot lag so long: vanished. The time is up: timeout. Else
    wait. A server that is ready in the very last moment is done, not late.

    Args:
        record: as listed, None when it is not.
        seen_before: whether an earlier listing had it.
        age_s: seconds between the acceptance of the request and the moment the listing was *asked for*.
        lag_s: how long a thing may be missing from a listing at worst; also one that was seen (another replica answered).
        timeout_s: how long to wait altogether.
    """
    verdict = _missing(seen_before, age_s, lag_s) if record is None else _listed(record)
    if verdict.ending is Ending.WAIT and age_s >= timeout_s:
        return Verdict(Ending.TIMEOUT, f"it was not ready within {timeout_s:.0f} s; at the end {verdict.reason}")
    return verdict


def _missing(seen_before: bool, age_s: float, lag_s: float) -> Verdict:
    if age_s <= lag_s:
        return Verdict(Ending.WAIT, "the cloud did not list it yet")
    if seen_before:
        return Verdict(Ending.VANISHED, "it is gone: something else deleted it, or it ended itself")
    return Verdict(Ending.VANISHED, f"the cloud accepted it, but did not list it within {lag_s:.0f} s")


def _listed(record: Listed) -> Verdict:
    match record.status.value:
        case "active" if record.address:
            return Verdict(Ending.DONE, "it runs")
        case "active":
            return Verdict(Ending.WAIT, "it ran but had no address yet")
        case "error":
            return Verdict(Ending.FAILED, record.fault or "the cloud put it in error and does not say why")
        case "stopped":
            return Verdict(Ending.FAILED, record.fault or "it was powered off before it was ready")
        case "deleting":
            return Verdict(Ending.VANISHED, "something else is deleting it")
        case "building":
            return Verdict(Ending.WAIT, "it was being built")
        case other:
            return Verdict(Ending.WAIT, f"its status was {other!r}")


@dataclass(frozen=True, slots=True)
class Experience:
    """How long servers took: a moving average in seconds over `count` of them."""

    average_s: float = 0.0
    count: int = 0

    @property
    def timeout_s(self) -> float:
        """How long the next one may take: four times the average but not below `FLOOR_S`; `FIRST_S` before the first."""
        return max(FLOOR_S, PATIENCE * self.average_s) if self.count else FIRST_S

    def after(self, took_s: float) -> Experience:
        """What is known once another one took `took_s`."""
        weight = 1 / min(self.count + 1, _MEMORY)
        return Experience(self.average_s + weight * (took_s - self.average_s), self.count + 1)


@dataclass(frozen=True, slots=True)
class SpawnTimeout:
    """Limits that are learnt, apart for servers that boot from a volume, since these take far longer.

    One that ran into the limit is to be told too, with the time that was waited: the average grows by it, and a cloud that
    became slow is not met with one spawn-and-delete after the other.
    """

    disk: Experience = Experience()
    volume: Experience = Experience()

    def timeout_s(self, *, from_volume: bool) -> float:
        """Seconds that the next server may take from acceptance to running."""
        return (self.volume if from_volume else self.disk).timeout_s

    def after(self, took_s: float, *, from_volume: bool) -> SpawnTimeout:
        """What is known once another server took `took_s`, or was given up after it."""
        if from_volume:
            return replace(self, volume=self.volume.after(took_s))
        return replace(self, disk=self.disk.after(took_s))
