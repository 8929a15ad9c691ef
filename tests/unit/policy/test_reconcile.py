"""What to make of the difference between what was wanted and what is listed."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from pileus.policy import reconcile


@dataclass(frozen=True)
class Intent:
    id: str = "i-1"
    kind: str = "server"
    session: str = "mine"
    deadline: float = 100.0
    status: str = "open"
    resource_id: str = ""


@dataclass(frozen=True)
class Server:
    id: str = "s-1"
    intent_id: str = "i-1"
    kind: str = "server"


@dataclass(frozen=True)
class Resource:
    id: str = "r-1"
    intent_id: str = "i-1"
    kind: str = "network"


def settle(
    intents: list[Intent],
    servers: list[Server],
    resources: list[Resource] | None = None,
    *,
    live: tuple[str, ...] = ("mine", "theirs"),
    now: float = 50.0,
    adopt_kinds: tuple[str, ...] = (),
    own_session: str = "",
) -> reconcile.Settlement[Intent, Server, Resource]:
    return reconcile.settle(
        intents, servers, resources or [], live, now, 30.0, adopt_kinds=adopt_kinds, own_session=own_session
    )


def test_nothing_wanted_and_nothing_there_is_nothing_to_do() -> None:
    assert settle([], []) == reconcile.Settlement((), (), (), (), None)


def test_a_thing_whose_reply_was_lost_is_adopted() -> None:
    assert settle([Intent()], [Server()]) == reconcile.Settlement(((Intent(), Server()),), (), (), (), None)


def test_a_thing_of_a_dead_session_is_an_orphan() -> None:
    assert settle([Intent()], [Server()], live=()).orphans == (Server(),)


def test_a_deployments_own_things_are_taken_over_from_a_dead_session() -> None:
    intent = Intent(kind="network")
    assert settle([intent], [], [Resource()], live=(), adopt_kinds=("network",)).adopt == ((intent, Resource()),)
    assert settle([intent], [], [Resource()], live=()).orphans == (Resource(),)


def test_a_thing_that_the_state_knows_nothing_of_is_an_orphan() -> None:
    assert settle([], [Server()], [Resource()]).orphans == (Server(), Resource())
    assert settle([], [Server(intent_id="")]).orphans == (Server(intent_id=""),)


def test_a_thing_that_appears_after_its_intent_was_given_up_is_an_orphan() -> None:
    assert settle([Intent(status="failed")], [Server()]).orphans == (Server(),)


def test_a_thing_on_record_is_left_alone() -> None:
    for recorded in ("s-1", ""):
        assert settle([Intent(status="done", resource_id=recorded)], [Server()], live=()) == settle([], [])


def test_a_second_thing_for_one_intent_is_an_orphan() -> None:
    done = Intent(status="done", resource_id="s-1")
    assert settle([done], [Server("s-2"), Server("s-1")]).orphans == (Server("s-2"),)
    both = settle([Intent()], [Server("s-2"), Server("s-1")])
    assert both.adopt == ((Intent(), Server("s-1")),)
    assert both.orphans == (Server("s-2"),)


def test_what_another_live_session_asked_for_is_left_to_it() -> None:
    theirs = Intent(session="theirs")
    assert settle([theirs], [Server()], own_session="mine", now=999) == settle([], [])
    assert settle([theirs], [Server()], own_session="mine", live=("mine",)).orphans == (Server(),)
    assert settle([theirs], [], own_session="mine").wait == (theirs,)


def test_a_part_that_came_along_with_a_server_shares_its_fate() -> None:
    disk = Resource(kind="volume")
    assert settle([Intent()], [], [disk]).orphans == ()
    assert settle([Intent(status="done", resource_id="s-1")], [Server()], [disk]).orphans == ()
    assert settle([Intent(status="failed")], [], [disk]).orphans == (disk,)


def test_an_unlisted_intent_is_waited_for_until_its_deadline_and_the_lag_went_by() -> None:
    early = settle([Intent()], [], now=129.9)
    assert (early.wait, early.forget, early.until) == ((Intent(),), (), 130.0)
    late = settle([Intent()], [], now=130.0)
    assert (late.wait, late.forget, late.until) == ((), (Intent(),), None)


def test_a_dead_sessions_intent_is_not_forgotten_before_its_time() -> None:
    assert settle([Intent()], [], live=(), now=129.9).wait == (Intent(),)


def test_until_is_when_the_first_of_several_can_be_decided() -> None:
    assert settle([Intent("i-1", deadline=200), Intent("i-2", deadline=90)], []).until == 120.0


IDS = st.sampled_from(["i-1", "i-2", "i-3", ""])
INTENTS = st.lists(
    st.builds(
        Intent,
        id=st.sampled_from(["i-1", "i-2", "i-3"]),
        kind=st.sampled_from(["server", "network"]),
        session=st.sampled_from(["mine", "theirs", "dead"]),
        deadline=st.floats(0, 100),
        status=st.sampled_from(["open", "done", "failed"]),
        resource_id=st.sampled_from(["", "s-1", "r-1"]),
    ),
    unique_by=lambda intent: intent.id,
)
SERVERS = st.lists(st.builds(Server, st.sampled_from(["s-1", "s-2", "s-3"]), IDS), unique_by=lambda thing: thing.id)
RESOURCES = st.lists(
    st.builds(Resource, st.sampled_from(["r-1", "r-2"]), IDS, st.sampled_from(["network", "volume"])),
    unique_by=lambda thing: thing.id,
)
OWN = st.sampled_from(["", "mine"])
KINDS = st.sampled_from([(), ("network",)])


@given(INTENTS, SERVERS, RESOURCES, st.floats(0, 200), KINDS, OWN)
def test_every_intent_and_thing_is_settled_at_most_once_and_none_is_lost(
    intents: list[Intent],
    servers: list[Server],
    resources: list[Resource],
    now: float,
    kinds: tuple[str, ...],
    own: str,
) -> None:
    made = settle(intents, servers, resources, now=now, adopt_kinds=kinds, own_session=own)
    known = {intent.id: intent for intent in intents}
    things = [*servers, *resources]

    handled = [thing for _, thing in made.adopt] + list(made.orphans)
    assert len(handled) == len(set(handled))
    decided = [intent for intent, _ in made.adopt] + list(made.forget) + list(made.wait)
    assert len(decided) == len(set(decided))
    assert all(intent.status == "open" for intent in decided)
    for intent, thing in made.adopt:
        assert (thing.intent_id, thing.kind) == (intent.id, intent.kind)

    for thing in things:  # nothing that nobody knows, or that was given up, is left over
        if thing.intent_id not in known or known[thing.intent_id].status == "failed":
            assert thing in made.orphans
    for thing in made.orphans:  # and nothing is destroyed that is on record or that somebody alive waits for
        intent = known.get(thing.intent_id)
        if intent is not None and intent.status == "done":
            assert intent.resource_id not in ("", thing.id)
        elif intent is not None and intent.status == "open" and intent.session != "dead":
            assert intent in [adopted for adopted, _ in made.adopt]
            assert own in ("", intent.session)

    listed = {(thing.intent_id, thing.kind) for thing in things}
    for intent in intents:  # an open intent is given up only when it is time, and is otherwise in some hand
        if intent.status == "open" and (intent.id, intent.kind) not in listed:
            assert (intent in made.forget) == (now >= intent.deadline + 30.0) == (intent not in made.wait)
        else:
            assert intent not in made.forget
            assert intent not in made.wait
    assert (made.until is None) == (not made.wait)
    assert made.until is None or made.until > now


@given(INTENTS, SERVERS, RESOURCES, st.randoms(use_true_random=False))
def test_the_order_of_the_listings_changes_nothing(
    intents: list[Intent], servers: list[Server], resources: list[Resource], chance: object
) -> None:
    one = settle(intents, servers, resources)
    chance.shuffle(servers)  # type: ignore[attr-defined]
    chance.shuffle(resources)  # type: ignore[attr-defined]
    other = settle(intents, servers, resources)
    assert set(one.adopt) == set(other.adopt)
    assert set(one.orphans) == set(other.orphans)
    assert (one.forget, one.wait, one.until) == (other.forget, other.wait, other.until)


@given(INTENTS, SERVERS, RESOURCES)
def test_settling_again_after_doing_as_told_finds_nothing_but_what_is_waited_for(
    intents: list[Intent], servers: list[Server], resources: list[Resource]
) -> None:
    made = settle(intents, servers, resources)
    adopted = {intent.id: thing.id for intent, thing in made.adopt}
    gone = {thing.intent_id for thing in made.orphans} - set(adopted)

    def after(intent: Intent) -> Intent:
        if intent.id in adopted:
            return Intent(intent.id, intent.kind, intent.session, intent.deadline, "done", adopted[intent.id])
        failed = intent in made.forget or (intent.status == "open" and intent.id in gone)
        return Intent(
            intent.id,
            intent.kind,
            intent.session,
            intent.deadline,
            "failed" if failed else intent.status,
            intent.resource_id,
        )

    left_servers = [thing for thing in servers if thing not in made.orphans]
    left_resources = [thing for thing in resources if thing not in made.orphans]
    again = settle([after(intent) for intent in intents], left_servers, left_resources)
    assert again.adopt == ()
    assert again.forget == ()
    assert {intent.id for intent in again.wait} == {intent.id for intent in made.wait}
