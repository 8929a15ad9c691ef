from __future__ import annotations

import os
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from state_helpers import FLAVOR, add_server, make_store, open_store

from pileus.errors import ConfigError, StateError, UsageError
from pileus.state import NANO, Usage, boot_id, nano_cores


@pytest.mark.parametrize(
    ("cores", "parts"),
    [
        (0, 0),
        (1, NANO),
        (0.1, NANO // 10),
        (1 / 3, 333_333_333),
        (2 / 3, 666_666_666),
        (Fraction(1, 3), 333_333_333),
        (Decimal("0.30"), 300_000_000),
        (Decimal("0.9999999999999999999999999999999999999"), 999_999_999),
        (Decimal("4." + "9" * 40), 4_999_999_999),
        (1e-12, 0),
        (1e9, NANO * 10**9),
        (-0.0, 0),
    ],
)
def test_cores_are_cut_into_whole_parts(cores, parts):
    assert nano_cores(cores) == parts


@pytest.mark.parametrize(
    "cores", [-1, -0.1, -1e-12, float("nan"), float("inf"), "1", None, True, 1e300, Decimal("NaN"), Decimal("Infinity")]
)
def test_what_is_no_number_of_cores_is_refused(cores):
    with pytest.raises(ConfigError) as caught:
        nano_cores(cores)
    assert caught.value.setting == "cores"


@given(st.integers(1, 1000))
def test_as_many_equal_shares_as_a_core_has_fit_one_core(number):
    assert number * nano_cores(1 / number) <= NANO
    assert number * nano_cores(Fraction(1, number)) <= NANO


def test_ten_tenths_of_a_core_fill_one_core_exactly(store):
    session = store.begin_session()
    add_server(store, "s", flavor={**FLAVOR, "cores": 1})
    assert [store.allocate("s", session, nano_cores(0.1), 0, 0) for _ in range(11)] == [True] * 10 + [False]
    assert store.usage("s") == Usage("s", NANO, 0, 0, 10, 0)
    assert store.release("s", session, nano_cores(1), 0, 0)
    assert store.usage("s") == Usage("s")


def test_work_without_cores_keeps_a_full_server_in_use(store):
    session = store.begin_session()
    add_server(store, "s")
    assert store.allocate("s", session, nano_cores(4), 0, 0)
    assert store.allocate("s", session, 0, 0, 0)
    assert store.release("s", session, nano_cores(4), 0, 0, now=1.0)
    assert store.server("s").idle_since is None
    assert store.usage("s") == Usage("s", allocations=1)
    assert store.release("s", session, 0, 0, 0, now=2.0)
    assert (store.server("s").idle_since, store.server("s").boot_id) == (2.0, boot_id())
    assert not store.release("s", session, 0, 0, 0)


@pytest.mark.parametrize("amounts", [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (0.5, 0, 0), (0, True, 0), (2**63, 0, 0)])
def test_absurd_amounts_are_refused(store, amounts):
    session = store.begin_session()
    add_server(store, "s")
    with pytest.raises(ConfigError):
        store.allocate("s", session, *amounts)
    with pytest.raises(ConfigError):
        store.release("s", session, *amounts)


def test_a_server_that_is_bad_or_going_takes_no_work(store):
    session = store.begin_session()
    add_server(store, "bad", bad=True)
    add_server(store, "going")
    add_server(store, "gone")
    store.claim_destroy("going")
    store.mark_destroyed("gone")
    assert [store.allocate(key, session, 0, 0, 0) for key in ("bad", "going", "gone")] == [False] * 3
    assert [store.begin_use(key, session) for key in ("bad", "going", "gone")] == [True, False, False]
    with pytest.raises(StateError, match="not on record"):
        store.allocate("unknown", session, 0, 0, 0)
    with pytest.raises(StateError, match="not on record"):
        store.begin_use("unknown", session)


def test_nothing_is_held_of_a_destroyed_server(store):
    session = store.begin_session()
    add_server(store, "s")
    assert store.allocate("s", session, 1, 1, 1)
    assert store.begin_use("s", session)
    store.mark_destroyed("s")
    assert store.usages() == {}
    assert not store.release("s", session, 1, 1, 1)
    assert not store.end_use("s", session, 1.0)
    assert store.server("s").idle_since is None


def test_more_than_was_allocated_is_not_released(store, path):
    session = store.begin_session()
    add_server(store, "s")
    with open_store(path) as other:
        theirs = other.begin_session()
        assert other.allocate("s", theirs, nano_cores(2), 0, 0)
        assert store.allocate("s", session, nano_cores(1), 10, 0)
        assert not store.release("s", session, nano_cores(2), 0, 0)
        assert not store.release("s", session, nano_cores(1), 11, 0)
        assert not store.release("s", "0" * 12, nano_cores(1), 0, 0)
        assert store.usage("s") == Usage("s", nano_cores(3), 10, 0, 2, 0)
        assert store.release("s", session, nano_cores(1), 10, 0)
        assert not store.release("s", session, nano_cores(1), 10, 0)
        assert store.usage("s").nano_cores == nano_cores(2)


def test_the_idle_clock_stops_with_an_allocation_and_starts_with_the_last_end_of_anything(store):
    session = store.begin_session()
    add_server(store, "s", idle_since=1.0)

    def idle():
        return store.server("s").idle_since

    assert store.allocate("s", session, 1, 1, 1)
    assert idle() is None
    assert store.begin_use("s", session, 2)
    assert store.release("s", session, 1, 1, 1, now=10.0)
    assert idle() is None
    assert store.end_use("s", session, 11.0)
    assert idle() is None
    assert store.end_use("s", session, 12.0)
    assert idle() == 12.0
    assert not store.end_use("s", session, 13.0)
    assert idle() == 12.0
    assert store.begin_use("s", session)
    assert idle() is None
    assert store.end_use("s", session, 14.0, count=5)
    assert (idle(), store.usage("s").uses) == (14.0, 0)


def test_the_sessions_of_one_process_are_known_apart(path):
    with make_store(path) as one, open_store(path) as two:
        first, second = one.begin_session(), two.begin_session()
        assert one.live_sessions() == two.live_sessions() == {first, second}
        with pytest.raises(UsageError):
            one.begin_use("s", second)
        two.close()
        assert one.live_sessions() == {first}
        assert one.drop_dead_sessions() == {second}
        assert one.drop_dead_sessions() == frozenset()


def test_closing_one_store_leaves_the_sessions_of_others_alive(path, spawn_child):
    with make_store(path) as one:
        first = one.begin_session()
        for _ in range(3):
            open_store(path).close()
        child = spawn_child(path, "with open_store(path) as store: say(*store.live_sessions())")
        assert child.rest().split() == [first]


def test_ending_a_session_frees_what_it_held_at_once(store):
    add_server(store, "s")
    session = store.begin_session()
    store.allocate("s", session, 1, 1, 1)
    store.begin_use("s", session)
    store.end_session(session, now=7.0)
    store.end_session(session, now=8.0)
    assert store.usage("s") == Usage("s")
    assert store.usages() == {}
    assert store.server("s").idle_since == 7.0
    with pytest.raises(UsageError, match="has ended"):
        store.allocate("s", session, 1, 1, 1)


def test_a_session_lives_exactly_as_long_as_its_process(store, spawn_child):
    add_server(store, "s")
    child = spawn_child(
        store.path,
        """
        store = open_store(path)
        session = store.begin_session()
        assert store.allocate("s", session, nano_cores(4), 1, 1) and store.begin_use("s", session, 3)
        say(session)
        sys.stdin.readline()
        """,
    )
    session = child.hear()
    mine = store.begin_session()
    assert store.live_sessions() == {session, mine}
    assert store.usage("s") == store.usages()["s"] == Usage("s", nano_cores(4), 1, 1, 1, 3)
    assert not store.allocate("s", mine, 1, 0, 0)
    child.kill()
    assert store.live_sessions() == {mine}
    assert store.usage("s") == Usage("s")
    assert store.usages() == {}
    assert store.allocate("s", mine, nano_cores(4), 0, 0)
    assert store.drop_dead_sessions(now=9.0) == {session}
    assert store.server("s").idle_since is None
    assert store.usage("s").nano_cores == nano_cores(4)


def test_a_server_that_only_the_dead_held_is_idle_from_their_discovery_on(store, spawn_child):
    add_server(store, "s", ttd_s=1.0)
    child = spawn_child(
        store.path,
        """
        store = open_store(path)
        assert store.begin_use("s", store.begin_session())
        say("ok")
        sys.stdin.readline()
        """,
    )
    assert child.hear() == "ok"
    store.drop_dead_sessions(now=1.0)
    assert store.server("s").idle_since is None
    child.kill()
    store.drop_dead_sessions(now=5.0)
    assert store.server("s").idle_since == 5.0
    assert not store.claim_destroy("s", if_idle=True, now=5.5)
    assert store.claim_destroy("s", if_idle=True, now=6.0)


def test_idle_moments_of_an_earlier_boot_begin_anew(store):
    add_server(store, "s", idle_since=1e9, boot_id="an earlier boot", ttd_s=1.0)
    store.drop_dead_sessions(now=5.0)
    assert (store.server("s").idle_since, store.server("s").boot_id) == (5.0, boot_id())


def test_a_forked_child_owns_nothing_of_its_parent(store, path):
    add_server(store, "s")
    session = store.begin_session()
    store.allocate("s", session, nano_cores(4), 0, 0)
    with store.operation_lock("deploy", 1.0):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            verdict = b"failed"
            try:
                for attempt in (store.servers, store.begin_session, lambda: store.allocate("s", session, 0, 0, 0)):
                    with pytest.raises(UsageError, match="fork"):
                        attempt()
                store.close()
                with open_store(path) as fresh:
                    own = fresh.begin_session()
                    assert fresh.live_sessions() == {session, own}
                    assert not fresh.allocate("s", own, 1, 0, 0)
                    with pytest.raises(UsageError):
                        fresh.allocate("s", session, 0, 0, 0)
                    assert not fresh.operation("deploy").try_acquire()
                verdict = b"fine"
            finally:
                os.write(write, verdict)
                os._exit(0)
        os.waitpid(pid, 0)
        os.close(write)
        assert os.read(read, 100) == b"fine"
        os.close(read)
    assert store.live_sessions() == {session}
    assert store.usage("s").nano_cores == nano_cores(4)
    store.set_status("deployed")


amounts = st.tuples(
    st.sampled_from([0, 0.1, 0.25, 1 / 3, 1, 2.5]), st.sampled_from([0, 1, 700]), st.sampled_from([0, 1, 3])
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1), amounts), max_size=25))
def test_allocations_always_add_up_and_never_exceed_the_server(tmp_path_factory, steps):
    """Against a model that keeps each session's sums and never lets any of them leave its bounds."""
    path = tmp_path_factory.mktemp("room") / "lab.db"
    capacity = (2 * NANO, 1500, 4)
    with make_store(path) as store:
        add_server(store, "s", flavor={"cores": 2, "ram": 1500}, disk_gb=4)
        sessions = [store.begin_session(), store.begin_session()]
        held = {session: ([0, 0, 0], 0) for session in sessions}
        for take, who, (cores, ram, disk) in steps:
            session, amount = sessions[who], (nano_cores(cores), ram, disk)
            sums, empty = held[session]
            if take:
                total = [sum(column) for column in zip(*(sums for sums, _ in held.values()), strict=True)]
                fits = all(have + want <= most for have, want, most in zip(total, amount, capacity, strict=True))
                assert store.allocate("s", session, *amount) == fits
                sign = 1 if fits else 0
            else:
                enough = all(have >= want for have, want in zip(sums, amount, strict=True))
                if not any(amount):
                    enough = empty > 0
                assert store.release("s", session, *amount, now=5.0) == enough
                sign = -1 if enough else 0
            held[session] = (
                [have + sign * change for have, change in zip(sums, amount, strict=True)],
                empty + (0 if any(amount) else sign),
            )
            usage = store.usage("s")
            expected = [sum(column) for column in zip(*(sums for sums, _ in held.values()), strict=True)]
            assert [usage.nano_cores, usage.ram_mb, usage.disk_gb] == expected
            anything = any(expected) or any(empty for _, empty in held.values())
            assert usage.in_use == anything
            assert store.usages().get("s", Usage("s")) == usage
            if sign:
                assert store.server("s").idle_since == (None if anything else 5.0)
