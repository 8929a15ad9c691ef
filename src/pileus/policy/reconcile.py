"""What to make of the difference between what was wanted and what the cloud lists.

An intent is written before the request that it stands for, and its id is on the thing that comes of it. So after a crash or
a lost reply, intents and listings tell together what was made, what was not, and what cannot be known yet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

SERVER = "server"
"""The kind of an intent for a server."""


class Wanted(Protocol):
    """What is read of an intent; `status` is `open`, `done` or `failed`, `deadline` epoch seconds."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def session(self) -> str: ...  # noqa: D102
    @property
    def deadline(self) -> float: ...  # noqa: D102
    @property
    def status(self) -> str: ...  # noqa: D102
    @property
    def resource_id(self) -> str: ...  # noqa: D102


class ListedServer(Protocol):
    """What is read of a listed server."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def intent_id(self) -> str: ...  # noqa: D102


class ListedResource(ListedServer, Protocol):
    """What is read of anything else that is listed."""

    @property
    def kind(self) -> str: ...  # noqa: D102


Intent = TypeVar("Intent", bound=Wanted)
Server = TypeVar("Server", bound=ListedServer)
Resource = TypeVar("Resource", bound=ListedResource)


@dataclass(frozen=True, slots=True)
class Settlement(Generic[Intent, Server, Resource]):
    """What is to be done; nothing is in two of the lists.

    Attributes:
        adopt: open intents and what came of them: record the outcome.
        orphans: things that are to be destroyed, servers first, in the order of the listings.
        forget: open intents of which nothing came: record them as failed.
        wait: open intents that cannot be decided yet.
        until: epoch seconds; a listing that is asked for then decides at least one of `wait`. None without any.
    """

    adopt: tuple[tuple[Intent, Server | Resource], ...]
    orphans: tuple[Server | Resource, ...]
    forget: tuple[Intent, ...]
    wait: tuple[Intent, ...]
    until: float | None


def settle(
    intents: Iterable[Intent],
    listed_servers: Iterable[Server],
    listed_resources: Iterable[Resource],
    live_sessions: Collection[str],
    now: float,
    listing_lag_s: float,
    *,
    adopt_kinds: Collection[str] = (),
    own_session: str = "",
) -> Settlement[Intent, Server, Resource]:
    """Settle intents with listings.

    The cases of a listed thing, by its intent:

    - unknown to the state, or recorded as failed: an orphan.
    - done: as it should be, unless the recorded outcome is another thing of the same kind: a duplicate, an orphan.
    - open, and its session lives: adopted, or left to that session when it is not `own_session` (where that is given); it
      is then in none of the lists, nor is its intent.
    - open, and its session is dead: an orphan, as nobody waits for it any more; adopted if its kind is in `adopt_kinds`,
      the things of a whole deployment, which the next deploy goes on with.
    - open, and several of the same kind are listed: the one with the first id is adopted, so that all who settle at the
      same time choose the same, and the others are orphans.
    - of another kind than its intent (a disk that the cloud made along with a server): it shares the fate of an intent that
      failed or is unknown, and is left alone before that.

    An open intent of which nothing is listed is forgotten once `now` is its deadline plus the lag, or later, whoever's it is,
    and waited for before.

    Args:
        intents: all of the deployment, whatever their status, **read after the listings came**: one that was recorded
            between would look like none, and its thing like an orphan.
        listed_servers: all servers with the deployment's exact id.
        listed_resources: all other things with it.
        live_sessions: of the deployment, read after the listings too.
        now: epoch seconds at which the listings were **asked for**, not at which they came.
        listing_lag_s: how long a thing may be missing from a listing at worst.
        adopt_kinds: kinds of resources that are taken over from dead sessions.
        own_session: the session that asks; its own open intents are settled, those of others that live are theirs.
    """
    known = {intent.id: intent for intent in intents}
    things: list[tuple[str, Server | Resource]] = [(SERVER, server) for server in listed_servers]
    things += [(resource.kind, resource) for resource in listed_resources]
    firsts: dict[tuple[str, str], str] = {}
    for kind, thing in things:
        key = (thing.intent_id, kind)
        firsts[key] = min(firsts.get(key, thing.id), thing.id)

    adopt: list[tuple[Intent, Server | Resource]] = []
    orphans: list[Server | Resource] = []
    for kind, thing in things:
        intent = known.get(thing.intent_id)
        if intent is None or intent.status == "failed":
            orphans.append(thing)
            continue
        if kind != intent.kind:
            continue
        if intent.status == "done":
            if intent.resource_id not in ("", thing.id):
                orphans.append(thing)
            continue
        alive = intent.session in live_sessions
        if alive and own_session not in ("", intent.session):
            continue
        if (alive or kind in adopt_kinds) and thing.id == firsts[intent.id, kind]:
            adopt.append((intent, thing))
        else:
            orphans.append(thing)

    unlisted = [each for each in known.values() if each.status == "open" and (each.id, each.kind) not in firsts]
    decidable = [now >= each.deadline + listing_lag_s for each in unlisted]
    wait = tuple(each for each, decided in zip(unlisted, decidable, strict=True) if not decided)
    return Settlement(
        adopt=tuple(adopt),
        orphans=tuple(orphans),
        forget=tuple(each for each, decided in zip(unlisted, decidable, strict=True) if decided),
        wait=wait,
        until=min((each.deadline + listing_lag_s for each in wait), default=None),
    )
