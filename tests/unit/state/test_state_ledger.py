from __future__ import annotations

import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest
from state_helpers import add_server, deployment, intent, make_store, open_store, server

from pileus.errors import QuotaError, StateError, StateLockedError, UsageError
from pileus.state import Event, Intent, ResourceRow, Settled, key_path, ledger, servers, write_private_key


def test_an_intent_comes_back_as_it_was_recorded(store):
    wish = Intent("i", "server", "n", "req", "s", 1.5, 2.5, {"cores": 0.5, "name": "ü\n'\""})
    store.record_intents([wish])
    assert store.intent("i") == wish
    assert store.open_intents() == store.open_intents("server") == [wish]
    assert store.open_intents("network") == []
    assert store.intent("other") is None


def test_a_thousand_intents_are_one_commit(store):
    before = store.commits
    store.record_intents([intent(f"i{number}") for number in range(1000)])
    assert store.commits == before + 1
    assert len(store.open_intents()) == 1000


@pytest.mark.parametrize(
    ("status", "kind", "allowed"),
    [
        (None, "network", False),
        ("deploying", "network", True),
        ("deploying", "server", False),
        ("deployed", "server", True),
        ("deployed", "volume", True),
        ("tearing-down", "network", False),
        ("tearing-down", "server", False),
        ("gone", "server", False),
        ("gone", "network", False),
    ],
)
def test_the_status_says_what_may_be_wished_for(path, status, kind, allowed):
    with open_store(path) as store:
        if status:
            store.save_deployment(deployment(status=status))
        if allowed:
            store.record_intents([intent("i", kind)])
        else:
            with pytest.raises(StateError, match="takes no new things"):
                store.record_intents([intent("j", "network"), intent("i", kind)])
        assert bool(store.open_intents()) == allowed


def test_a_check_that_objects_has_nothing_recorded(store):
    add_server(store, "standing")
    add_server(store, "gone")
    store.mark_destroyed("gone")
    store.record_intents([intent("open")])
    seen = []

    def check(intents, rows):
        seen.append(([each.id for each in intents], [each.id for each in rows]))
        raise QuotaError("too many")

    with pytest.raises(QuotaError):
        store.record_intents([intent("new")], check)
    assert seen == [(["open"], ["standing"])]
    assert store.intent("new") is None


def test_an_intent_is_recorded_once(store):
    store.record_intents([intent("i")])
    with pytest.raises(StateError, match="not again"):
        store.record_intents([intent("j"), intent("i")])
    assert store.intent("j") is None


def test_settling_records_the_outcome_and_the_thing_together(store):
    store.record_intents([intent("i"), intent("n", "network"), intent("f")])
    row, network = server("s", intent_id="i"), ResourceRow("network", "net-1", "lab", "n", {"cidr": "10.0.0.0/8"})
    before = store.commits
    store.settle(
        [
            Settled("i", "done", server=row),
            Settled("n", "done", resource=network),
            Settled("f", "failed", detail="no hardware"),
        ]
    )
    assert store.commits == before + 1
    assert store.open_intents() == []
    assert store.servers() == [row]
    assert store.resources() == [network]
    assert (store.intent("i").status, store.intent("i").resource_id) == ("done", "s")
    assert (store.intent("f").status, store.intent("f").detail) == ("failed", "no hardware")


def test_settling_again_changes_nothing(store):
    store.record_intents([intent("i")])
    outcome = Settled("i", "done", server=server("s", intent_id="i", status="spawned"))
    store.settle([outcome])
    store.update_server("s", status="ready", ip="10.0.0.1")
    store.settle([outcome, Settled("i", "failed")])
    assert (store.server("s").status, store.server("s").ip) == ("ready", "10.0.0.1")
    assert store.intent("i").status == "done"


def test_a_server_that_was_destroyed_does_not_come_back_by_a_late_settling(store, monkeypatch):
    monkeypatch.setattr(servers, "KEPT_DESTROYED", 0)
    outcome = Settled("i", "done", server=server("s", intent_id="i"))
    store.record_intents([intent("i")])
    store.settle([outcome])
    store.mark_destroyed("s")
    assert store.server("s") is None
    store.settle([outcome])
    assert store.servers(include_destroyed=True) == []


def test_a_thing_that_turns_up_after_all_settles_a_failed_intent(store):
    store.record_intents([intent("i")])
    store.settle([Settled("i", "failed")])
    store.settle([Settled("i", "done", server=server("s", intent_id="i"))])
    assert store.intent("i").status == "done"
    assert [row.id for row in store.servers()] == ["s"]


def test_things_without_an_intent_on_record_can_be_adopted(store):
    store.settle([Settled("lost", "done", resource=ResourceRow("network", "n-1", "lab", "lost"))])
    assert (store.intent("lost").kind, store.intent("lost").status) == ("network", "done")
    with pytest.raises(StateError, match="not on record"):
        store.settle([Settled("lost2", "done", server=server("s")), Settled("unknown", "failed")])
    assert store.servers() == []


def test_settling_is_possible_while_tearing_down(store):
    store.record_intents([intent("i")])
    store.set_status("tearing-down")
    store.settle([Settled("i", "done", server=server("s", intent_id="i"))])
    assert len(store.servers()) == 1


def test_a_deployment_is_not_replaced_unless_it_is_gone(store):
    with pytest.raises(StateError, match="d-1 is recorded here and is not gone"):
        store.save_deployment(deployment(id="d-2"))
    store.record_intents([intent("i")])
    store.settle([Settled("i", "done", server=server("s", intent_id="i"))])
    store.mark_destroyed("s")
    store.set_status("gone")
    store.save_deployment(deployment(id="d-2"))
    assert store.deployment().id == "d-2"
    assert store.servers(include_destroyed=True) == []
    assert store.intent("i") is None


def test_a_deployment_is_not_gone_while_anything_is_on_record(store):
    store.record_intents([intent("i"), intent("n", "network")])
    for step in (
        lambda: store.settle([Settled("i", "done", server=server("s", intent_id="i"))]),
        lambda: store.settle([Settled("n", "done", resource=ResourceRow("network", "n-1"))]),
        lambda: store.mark_destroyed("s"),
        lambda: store.forget_resource("network", "n-1"),
    ):
        with pytest.raises(StateError, match="still on record"):
            store.set_status("gone")
        step()
    store.set_status("gone")
    assert store.deployment().status == "gone"
    assert not store.forget_resource("network", "n-1")


def test_unknown_statuses_and_names_are_refused(store, path):
    with pytest.raises(UsageError):
        store.set_status("done")
    with pytest.raises(UsageError):
        store.record_intents([replace(intent("i"), status="done")])
    with pytest.raises(StateError, match="not of"):
        store.save_deployment(deployment(provider="aws"))
    with open_store(path.with_name("empty.db")) as other, pytest.raises(StateError, match="no deployment"):
        other.set_status("deployed")


def test_a_transaction_that_fails_is_undone_and_its_parts_by_themselves(store):
    with pytest.raises(KeyError):  # noqa: PT012, SIM117
        with store.transaction():
            store.record_intents([intent("i")])
            raise KeyError
    assert store.open_intents() == []
    with store.transaction():
        store.record_intents([intent("kept")])
        with pytest.raises(KeyError):  # noqa: PT012, SIM117
            with store.transaction():
                store.record_intents([intent("undone")])
                raise KeyError
        store.record_intents([intent("kept too")])
    assert [each.id for each in store.open_intents()] == ["kept", "kept too"]


def test_old_settled_intents_are_forgotten_and_those_that_still_mean_something_kept(store):
    ids = ["open", "failed", "standing"]
    store.record_intents([intent(key) for key in ids])
    store.settle([Settled("failed", "failed"), Settled("standing", "done", server=server("s", intent_id="standing"))])
    store.begin_session()
    assert [key for key in ids if store.intent(key)] == ["open", "standing"]


def test_events_are_kept_in_order_and_bounded(store, monkeypatch):
    monkeypatch.setattr(ledger, "MAX_EVENTS", 5)
    for number in range(8):
        store.add_events([Event(float(number), "spawned", f"s{number}", {"n": number})])
    assert [event.subject for event in store.events()] == ["s3", "s4", "s5", "s6", "s7"]
    assert store.events(since=7.0) == [Event(7.0, "spawned", "s7", {"n": 7})]


SECRETS = ("PRIVATE-pem-", "PASSWORD-", "HOSTKEY-", "SCRIPT-", "PAYLOAD-", "PUBLIC-")


def fill_with_secrets(store):
    long = "0123456789" * 700  # over several pages
    store.save_deployment(deployment(private_key=f"PRIVATE-pem-{long}", public_key=f"PUBLIC-{long}"))
    for number in range(30):
        wish = intent(f"i{number}", payload={"user_data": f"PAYLOAD-{long}"})
        store.record_intents([wish])
        row = server(
            f"s{number}",
            intent_id=wish.id,
            admin_pass=f"PASSWORD-{number}",
            host_keys=(f"HOSTKEY-{number}",),
            script=f"SCRIPT-{long}".encode(),
        )
        store.settle([Settled(wish.id, "done", server=row)])
        store.update_server(row.id, host_keys=(f"HOSTKEY-new-{number}",))
    write_private_key(key_path(store.path), f"PRIVATE-pem-{long}")


def raw_traces(directory):
    """Which secrets are in any file; read by another process, as reading here would drop the store's locks."""
    code = (
        "import sys, pathlib\n"
        "raw = b''.join(each.read_bytes() for each in pathlib.Path(sys.argv[1]).iterdir())\n"
        "print(*[word for word in sys.argv[2:] if word.encode() in raw])"
    )
    done = subprocess.run([sys.executable, "-c", code, directory, *SECRETS], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_forgotten_secrets_are_in_no_file_any_more(store, path):
    fill_with_secrets(store)
    assert raw_traces(path.parent) == list(SECRETS)
    store.forget_secrets()
    assert raw_traces(path.parent) == []
    assert not key_path(path).exists()
    store.forget_secrets()
    assert len(store.servers()) == 30
    assert store.deployment() == deployment()


def test_secrets_are_forgotten_while_another_store_is_open(store, path):
    fill_with_secrets(store)
    with open_store(path) as other:
        assert len(other.servers()) == 30
        store.forget_secrets()
        assert raw_traces(path.parent) == []


def test_what_another_tool_deleted_carelessly_is_wiped_too(store, path):
    fill_with_secrets(store)
    careless = sqlite3.connect(path, isolation_level=None)
    careless.execute("PRAGMA secure_delete = OFF")
    careless.execute("DELETE FROM servers")
    careless.execute("DELETE FROM intents")
    careless.close()
    store.forget_secrets()
    assert raw_traces(path.parent) == []


def test_secrets_that_a_reader_keeps_from_being_wiped_are_an_error(store, path):
    fill_with_secrets(store)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM servers").fetchone()
    with open_store(path, busy_timeout_s=0.05) as hasty:
        with pytest.raises(StateLockedError):
            hasty.forget_secrets()
        reader.execute("COMMIT")
        hasty.forget_secrets()
    reader.close()
    assert raw_traces(path.parent) == []


def test_secrets_cannot_be_wiped_within_a_transaction(store):
    with store.transaction(), pytest.raises(UsageError):
        store.forget_secrets()


def test_a_destroyed_server_takes_its_secrets_with_it(store):
    fill_with_secrets(store)
    store.mark_destroyed("s3")
    row = store.server("s3")
    assert (row.admin_pass, row.host_keys, row.script, row.status) == ("", (), b"", "destroyed")
    assert store.intent("i3").payload == {}
    assert store.intent("i4").payload


def test_secrets_are_not_shown(store):
    fill_with_secrets(store)
    shown = repr([store.deployment(), store.servers(), [store.intent(f"i{number}") for number in range(30)]])
    assert not [word for word in ("PRIVATE", "PASSWORD", "SCRIPT", "PAYLOAD") if word in shown]


def test_the_state_is_whole_after_many_kinds_of_change(path):
    with make_store(path) as store:
        fill_with_secrets(store)
        store.forget_secrets()
        assert store._all("PRAGMA integrity_check") == [("ok",)]
        assert store._all("PRAGMA foreign_key_check") == []
