from __future__ import annotations

import pytest
from state_helpers import add_server, open_store, server

from pileus.errors import StateError, UsageError
from pileus.state import ServerRow, Settled, boot_id, nano_cores, servers


def test_every_column_of_a_server_comes_back(store):
    row = ServerRow(
        id="s",
        intent_id="i",
        name="lab-1",
        os="Debian é",
        image_id="im",
        user_name="me",
        flavor={"id": "f", "cores": 0.5, "ram": 10, "disk": 0},
        disk_gb=7,
        ttd_s=1.5,
        external=True,
        is_head_node=True,
        ip="10.0.0.1",
        ssh_port=2222,
        admin_pass="pw",
        host_keys=("ssh-ed25519 AAA", "ssh-rsa BBB"),
        boot_key=True,
        script=b"\x00\xff#!",
        config_files="~/a:b",
        created=12.25,
        status="ready",
        bad=True,
        permanent_problem="broken",
        idle_since=3.5,
        boot_id="other boot",
        shared_disk=True,
        max_lifetime_s=99.0,
    )
    store.settle([Settled("i", "done", server=row)])
    assert store.server("s") == row
    assert store.servers() == [row]
    assert store.server("t") is None


def test_servers_come_in_the_order_in_which_they_were_recorded(store):
    for key in ("z", "a", "m"):
        add_server(store, key)
    store.mark_destroyed("a")
    assert [row.id for row in store.servers()] == ["z", "m"]
    assert [row.id for row in store.servers(include_destroyed=True)] == ["z", "a", "m"]


def test_the_first_external_server_is_the_head_node_and_is_succeeded(store):
    add_server(store, "inner")
    for key in ("one", "two"):
        add_server(store, key, external=True)
    assert [row.id for row in store.servers() if row.is_head_node] == ["one"]
    store.mark_destroyed("one")
    add_server(store, "three", external=True)
    assert [row.id for row in store.servers() if row.is_head_node] == ["three"]


def test_columns_are_changed_by_name_and_type(store):
    add_server(store, "s")
    assert store.update_server("s", ip="::1", host_keys=("a", "b"), bad=True, flavor={"cores": 1}, idle_since=5.0)
    row = store.server("s")
    assert (row.ip, row.host_keys, row.bad, row.flavor) == ("::1", ("a", "b"), True, {"cores": 1})
    assert (row.idle_since, row.boot_id) == (5.0, boot_id())
    assert store.update_server("s")


@pytest.mark.parametrize(
    "columns",
    [
        {"mood": 1},
        {"id": "x"},
        {"intent_id": "x"},
        {"ip = '1', name": "x"},
        {"status": "destroyed"},
        {"claimed_by": "x"},
    ],
)
def test_columns_that_do_not_exist_or_are_not_to_be_changed_are_refused(store, columns):
    before = add_server(store, "s")
    with pytest.raises(UsageError):
        store.update_server("s", **columns)
    assert store.server("s") == before


def test_a_server_that_is_not_on_record_cannot_be_changed(store):
    with pytest.raises(StateError, match="not on record"):
        store.update_server("s", ip="1")


def test_a_server_that_is_being_destroyed_does_not_become_ready(store):
    add_server(store, "s", status="spawned")
    store.claim_destroy("s")
    assert not store.update_server("s", status="ready", ip="1")
    assert (store.server("s").status, store.server("s").ip) == ("destroying", "")
    assert store.update_server("s", ip="1")


def test_one_caller_only_is_told_to_destroy(store, path):
    add_server(store, "s")
    with open_store(path) as other:
        assert [other.claim_destroy("s"), store.claim_destroy("s"), other.claim_destroy("s")] == [True, False, False]
    assert store.mark_destroyed("s")
    assert not store.mark_destroyed("s")
    assert not store.claim_destroy("s")
    assert not store.claim_destroy("unknown")
    assert not store.mark_destroyed("unknown")


@pytest.mark.parametrize(
    ("columns", "now", "expected"),
    [
        ({"ttd_s": 10.0, "idle_since": 5.0}, 15.0, True),
        ({"ttd_s": 10.0, "idle_since": 5.0}, 14.9, False),
        ({"ttd_s": 10.0}, 1000.0, False),
        ({"ttd_s": 0.0, "idle_since": 5.0}, 1000.0, False),
        ({"ttd_s": 10.0, "idle_since": 5.0, "boot_id": "another boot"}, 1000.0, False),
    ],
)
def test_an_idle_server_is_claimed_from_its_time_to_destruction_on(store, columns, now, expected):
    add_server(store, "s", **columns)
    assert store.claim_destroy("s", if_idle=True, now=now) is expected
    assert store.server("s").status == ("destroying" if expected else "ready")


def test_a_server_in_use_is_never_claimed_as_idle(store):
    session = store.begin_session()
    add_server(store, "s", ttd_s=1.0)
    # As if the clock ran although something holds the server: what holds it counts.
    assert store.allocate("s", session, 0, 0, 0)
    store.update_server("s", idle_since=0.0)
    assert not store.claim_destroy("s", if_idle=True, now=100.0)
    assert store.release("s", session, 0, 0, 0, now=0.0)
    assert store.begin_use("s", session)
    store.update_server("s", idle_since=0.0)
    assert not store.claim_destroy("s", if_idle=True, now=100.0)
    assert store.end_use("s", session, 50.0)
    assert not store.claim_destroy("s", if_idle=True, now=50.5)
    assert store.claim_destroy("s", if_idle=True, now=51.0)


def test_destroyed_servers_are_remembered_up_to_a_bound(store, monkeypatch):
    monkeypatch.setattr(servers, "KEPT_DESTROYED", 2)
    for number in range(5):
        add_server(store, f"s{number}")
    for number in (3, 0, 1, 2):
        store.mark_destroyed(f"s{number}")
    assert [row.id for row in store.servers(include_destroyed=True)] == ["s2", "s3", "s4"]


def test_a_claim_whose_claimer_died_is_granted_anew(store, path):
    add_server(store, "s", ttd_s=1.0)
    with open_store(path) as other:
        assert other.claim_destroy("s", session=other.begin_session())
        mine = store.begin_session()
        assert not store.claim_destroy("s", session=mine)
    assert not store.claim_destroy("s")
    assert store.claim_destroy("s", session=mine, if_idle=True)
    assert not store.claim_destroy("s", session=mine)


def test_mixed_amounts_are_bounded_by_flavor_and_disk(store):
    session = store.begin_session()
    store.settle([Settled("i", "done", server=server("s", flavor={"cores": 2, "ram": 100, "disk": 1}, disk_gb=50))])
    assert not store.allocate("s", session, nano_cores(2) + 1, 0, 0)
    assert not store.allocate("s", session, 0, 101, 0)
    assert not store.allocate("s", session, 0, 0, 51)
    assert store.allocate("s", session, nano_cores(2), 100, 50)
    assert store.usage("s").allocations == 1
