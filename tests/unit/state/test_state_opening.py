"""What may be opened, what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import textwrap

import pytest
from state_helpers import add_server, deployment, make_store, open_store

from pileus.errors import StateDamagedError, StateError, StateLockedError, StateVersionError, UsageError
from pileus.state import Store, opening, schema


def everything(directory):
    return {each.name: (each.read_bytes(), each.stat().st_mode) for each in directory.iterdir() if each.is_file()}


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_state_is_empty_and_reopens(path):
    with open_store(path) as store:
        assert (store.deployment(), store.servers(), store.open_intents(), store.resources()) == (None, [], [], [])
        store.save_deployment(deployment(config={"cidr": "10.0.0.0/8"}, private_key="pem"))
    with open_store(path, create=False) as store:
        assert store.deployment() == deployment(config={"cidr": "10.0.0.0/8"}, private_key="pem")


def test_names_with_spaces_quotes_and_other_scripts_make_usable_paths(tmp_path):
    path = tmp_path / "with space ?x=1#%41&'é\n" / "la b.db"
    with open_store(path):
        assert path.is_file()
    assert Store.exists(path)


def test_files_are_for_the_owner_only_whatever_the_umask(tmp_path):
    old = os.umask(0)
    try:
        store = make_store(tmp_path / "a" / "b" / "lab.db")
    finally:
        os.umask(old)
    with store:
        files = list((tmp_path / "a" / "b").iterdir())
        assert {each.name for each in files} == {"lab.db", "lab.db-wal", "lab.db-shm", "lab.db.sessions"}
        assert {mode(each) for each in files} == {0o600}
        assert {mode(tmp_path / "a"), mode(tmp_path / "a" / "b")} == {0o700}


def test_an_existing_file_that_others_can_read_is_narrowed(path):
    make_store(path).close()
    key = path.with_name("lab.db.key")
    key.write_text("secret")
    path.chmod(0o644)
    key.chmod(0o640)
    with open_store(path):
        assert mode(path) == mode(key) == 0o600


def test_without_create_a_missing_state_is_an_error_and_nothing_is_made(tmp_path):
    assert not Store.exists(tmp_path / "a" / "lab.db")
    with pytest.raises(StateError, match="no such deployment"):
        open_store(tmp_path / "a" / "lab.db", create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_newer_version_is_refused_and_left_alone(path, tmp_path):
    make_store(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
        db.execute("ALTER TABLE deployment ADD COLUMN mood TEXT")
    db.close()
    before = everything(tmp_path)
    with pytest.raises(StateVersionError, match="newer version") as caught:
        open_store(path)
    assert caught.value.path == str(path)
    assert "upgrade" in caught.value.hint
    assert everything(tmp_path)["lab.db"] == before["lab.db"]


@pytest.mark.parametrize("content", [b"", b"hello\n" * 500, b"SQLite format 3\0" + b"\0" * 4080, b"\0" * 8192])
def test_a_file_that_is_not_ours_is_refused_and_left_alone(path, content):
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StateDamagedError, match=r"lab\.db"):
        open_store(path)
    assert path.read_bytes() == content


def test_another_programs_database_is_refused_and_left_alone(path):
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE t (a)")
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(StateDamagedError, match="never was one of Pileus"):
        open_store(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("provider", "name"), [("aws", "lab"), ("simulator", "lab-1")])
def test_another_deployments_file_is_refused(path, provider, name):
    make_store(path).close()
    with pytest.raises(StateDamagedError, match="belongs to 'lab' on provider 'simulator'"):
        Store.open(path, provider=provider, resource_name=name)


def test_a_directory_in_its_place_is_refused(path):
    path.mkdir()
    with pytest.raises(StateDamagedError, match="not a regular file"):
        open_store(path)


def test_a_file_cut_at_any_length_is_refused_or_still_has_everything(path, tmp_path):
    with make_store(path) as store:
        for number in range(40):
            add_server(store, f"s{number}", script=b"x" * 3000)
    whole = path.read_bytes()
    assert len(whole) > 100_000
    copy = tmp_path / "cut" / "lab.db"
    copy.parent.mkdir()
    refused = 0
    for length in [*range(0, 1200, 60), *range(1200, len(whole), 3001), len(whole) - 1, len(whole)]:
        for each in copy.parent.iterdir():
            each.unlink()
        copy.write_bytes(whole[:length])
        copy.chmod(0o600)
        try:
            with open_store(copy) as store:
                assert store.deployment() == deployment()
                assert len(store.servers()) == 40
        except StateDamagedError:
            refused += 1
            assert copy.read_bytes() == whole[:length]
    assert refused > 40


def test_a_file_cut_while_its_log_has_later_changes_is_refused_or_usable(path, tmp_path):
    with make_store(path) as store:
        for number in range(10):
            add_server(store, f"s{number}", script=b"x" * 3000)
    store = make_store(path)
    store.update_server("s3", ip="10.0.0.3")
    # Copied by another process: to open and close the file here would drop the locks that the store has on it.
    subprocess.run(["cp", "-r", tmp_path, tmp_path.with_name("copied")], check=True)
    store.close()
    crashed = tmp_path.with_name("copied") / "lab.db"
    files = {each.name: each.read_bytes() for each in crashed.parent.iterdir()}
    assert files["lab.db-wal"]
    copy = tmp_path / "cut" / "lab.db"
    for length in range(0, len(files["lab.db"]), 1777):
        shutil.rmtree(copy.parent, ignore_errors=True)
        copy.parent.mkdir()
        for name, content in files.items():
            (copy.parent / name).write_bytes(content[:length] if name == "lab.db" else content)
            (copy.parent / name).chmod(0o600)
        try:
            with open_store(copy) as store:
                assert [row.ip for row in store.servers()] == ["10.0.0.3" if n == 3 else "" for n in range(10)]
        except StateDamagedError:
            assert copy.read_bytes() == files["lab.db"][:length]
            assert (copy.parent / "lab.db-wal").read_bytes() == files["lab.db-wal"]
    shutil.rmtree(crashed.parent)


def test_a_log_whose_file_is_gone_is_not_taken_for_a_new_deployment(path):
    path.with_name("lab.db-wal").write_bytes(b"x" * 5000)
    with pytest.raises(StateDamagedError, match="missing"):
        open_store(path)
    assert not path.exists()
    assert path.with_name("lab.db-wal").read_bytes() == b"x" * 5000


def test_a_page_overwritten_with_rubbish_is_refused(path):
    with make_store(path) as store:
        for number in range(20):
            add_server(store, f"s{number}", script=b"x" * 3000)
    content = bytearray(path.read_bytes())
    content[4096 * 8 : 4096 * 9] = b"\x99" * 4096
    path.write_bytes(content)
    with pytest.raises(StateDamagedError):
        open_store(path)
    assert path.read_bytes() == content


def test_a_column_that_is_no_json_is_called_damage(path):
    make_store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE deployment SET config = '{'")
    db.close()
    with open_store(path) as store, pytest.raises(StateDamagedError, match="JSON"):
        store.deployment()


def test_what_a_creator_who_was_killed_left_behind_does_no_harm(path):
    path.with_name("lab.db.new").write_bytes(b"half")
    with open_store(path) as store:
        assert store.deployment() is None
    assert not path.with_name("lab.db.new").exists()


def test_a_lock_held_past_the_busy_timeout_names_the_holder(path, spawn_child):
    make_store(path).close()
    child = spawn_child(
        path,
        """
        with open_store(path) as store, store.transaction():
            say("held")
            sys.stdin.readline()
        """,
    )
    assert child.hear() == "held"
    with open_store(path, busy_timeout_s=0.1) as store:
        assert store.deployment() == deployment()  # reading does not wait
        with pytest.raises(StateLockedError) as caught:
            store.set_status("tearing-down")
        assert f"process {child.pid} (" in str(caught.value)
        assert "python" in str(caught.value)
        child.tell()
        child.process.wait()
        store.set_status("tearing-down")


def test_a_lock_held_by_another_store_of_this_process_is_told_apart(path):
    with make_store(path) as store, open_store(path, busy_timeout_s=0.05) as other, store.transaction():  # noqa: SIM117
        with pytest.raises(StateLockedError, match="this process itself"):
            other.set_status("deployed")


def test_an_older_version_is_migrated_whole_or_not_at_all(path):
    make_store(path).close()
    step = "ALTER TABLE deployment ADD COLUMN mood TEXT NOT NULL DEFAULT 'fine';\nCREATE TABLE extra (a);\n"
    db = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError):
        schema.migrate(db, (step + "CREATE TABLE extra (a);\n",))
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    schema.migrate(db, (step,))
    schema.migrate(db, (step,))
    assert db.execute("PRAGMA user_version").fetchone() == (2,)
    assert db.execute("SELECT mood FROM deployment").fetchone() == ("fine",)
    db.close()


def test_the_version_counts_the_migrations():
    assert len(schema.MIGRATIONS) + 1 == schema.VERSION


def test_commits_wait_for_the_disk(store):
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA secure_delete").fetchone() == (1,)


def test_a_closed_store_says_so(store):
    store.close()
    store.close()
    with pytest.raises(UsageError, match="closed"):
        store.servers()


def test_who_comes_second_in_creating_replaces_nothing(path):
    make_store(path).close()
    opening.create(path, "simulator", "lab", 1.0)  # as if it had not been there a moment ago
    with open_store(path) as store:
        assert store.deployment() == deployment()


def test_two_processes_that_create_at_once_get_one_state(path, spawn_child):
    code = """
        sys.stdin.readline()
        with open_store(path) as store:
            store.begin_session()
            say("ok")
            sys.stdin.readline()
        """
    children = [spawn_child(path, code) for _ in range(3)]
    for child in children:
        child.tell()
    assert [child.hear() for child in children] == ["ok"] * 3
    with open_store(path) as store:
        assert len(store.live_sessions()) == 3


MOUNTED = """
    import os, subprocess, sys
    from pathlib import Path
    from state_helpers import *
    from pileus.errors import PileusError
    root = Path(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", root], check=True)
    path = root / "lab.db"
"""


def in_mount_namespace(tmp_path, code):
    """Run code with a tiny file system of its own, as a user who may mount only there."""
    command = ["unshare", "-Urm"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system lets its users make no namespaces")
    program = textwrap.dedent(MOUNTED) + textwrap.dedent(code)
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [*command, sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk_is_an_error_that_keeps_what_was_there(tmp_path):
    out = in_mount_namespace(
        tmp_path,
        """
        store = make_store(path)
        count = 0
        try:
            while True:
                add_server(store, f"s{count}", script=b"x" * 20000)
                count += 1
        except PileusError as error:
            print(type(error).__name__, error)
        assert len(store.servers()) == count > 2
        store.close()
        with open_store(path) as store:
            assert len(store.servers()) == count
        """,
    )
    assert out.startswith("StateError")
    assert "disk is full" in out
    assert "lab.db" in out
    assert "PILEUS_STATE_DIR" in out


def test_a_full_disk_fails_the_whole_transaction_even_when_a_part_was_forgiven(tmp_path):
    out = in_mount_namespace(
        tmp_path,
        """
        store = make_store(path)
        try:
            with store.transaction():
                add_server(store, "first")
                try:
                    with store.transaction():
                        add_server(store, "big", script=b"x" * 6_000_000)
                except PileusError as error:
                    print(type(error).__name__)
                add_server(store, "last")
        except PileusError as error:
            print(type(error).__name__)
        print([row.id for row in store.servers()])
        store.close()
        """,
    )
    assert out.split() == ["StateError", "StateError", "[]"]


def test_a_read_only_file_system_is_an_error_that_says_so(tmp_path):
    out = in_mount_namespace(
        tmp_path,
        """
        make_store(path).close()
        (root / "lab.db.sessions").unlink()
        subprocess.run(["mount", "-o", "remount,bind,ro", root], check=True)
        for name in ("lab.db", "new.db"):
            try:
                open_store(root / name)
            except PileusError as error:
                print(type(error).__name__, error)
        print(sorted(os.listdir(root)))
        """,
    )
    assert out.count("StateError") == 2
    assert out.count("cannot be written") == 2
    assert "['lab.db']" in out
