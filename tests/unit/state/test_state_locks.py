from __future__ import annotations

import os
import threading

import pytest
from state_helpers import make_store, open_store

from pileus.errors import StateLockedError
from pileus.state import locks


def open_descriptors(path):
    found = 0
    for each in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{each}") == str(path)
        except OSError:
            continue
    return found


def test_an_operation_excludes_other_threads_and_other_stores(store, path):
    with open_store(path) as other, store.operation_lock("deploy", 1.0):
        refused = []

        def compete():
            try:
                with other.operation_lock("deploy", 0.1):
                    pass
            except StateLockedError as error:
                refused.append(str(error))

        thread = threading.Thread(target=compete)
        thread.start()
        thread.join()
        assert "this process itself" in refused[0]
        with other.operation_lock("tear-down", 0.1):
            pass
    with store.operation_lock("deploy", 0.1):
        pass


def test_an_operation_of_another_process_is_waited_for_and_its_holder_named(store, spawn_child):
    child = spawn_child(
        store.path,
        """
        with open_store(path) as store, store.operation_lock("deploy", 1.0):
            say("held")
            sys.stdin.readline()
        """,
    )
    assert child.hear() == "held"
    expected = f"deploy is going on already: process {child.pid} "
    with pytest.raises(StateLockedError, match=expected), store.operation_lock("deploy", 0.1):
        pass
    child.tell()
    with store.operation_lock("deploy", 30.0):
        pass


def test_an_operation_whose_process_was_killed_is_free(store, spawn_child):
    child = spawn_child(
        store.path,
        """
        store = open_store(path)
        lock = store.operation("deploy")
        say(lock.try_acquire())
        sys.stdin.readline()
        """,
    )
    assert child.hear() == "True"
    assert not store.operation("deploy").try_acquire()
    child.kill()
    with store.operation_lock("deploy", 5.0):
        pass


def test_an_operation_that_fails_gives_its_lock_back(store):
    with pytest.raises(KeyError), store.operation_lock("deploy", 1.0):
        raise KeyError
    with store.operation_lock("deploy", 0.0):
        pass


def test_a_process_opens_the_lock_file_once_and_lets_it_go(path):
    file = path.with_name("lab.db.sessions")
    with make_store(path) as one, open_store(path) as two:
        one.begin_session()
        two.begin_session()
        with one.operation_lock("deploy", 1.0):
            assert open_descriptors(file) == 1
    assert open_descriptors(file) == 0
    assert locks._open_files == {}


def test_asking_who_holds_a_byte_takes_nothing(tmp_path):
    file = locks.LockFile.acquire(tmp_path / "locks")
    try:
        assert file.holder(7) is None
        assert file.holder(7) is None
        assert file.try_lock(7)
        assert file.holder(7) == os.getpid()
        assert not file.try_lock(7)
        file.unlock(7)
        file.unlock(7)
        assert file.holder(7) is None
    finally:
        file.let_go()


def test_only_session_ids_have_a_byte_and_different_ones(tmp_path):
    ids = {locks.new_session_id() for _ in range(1000)}
    assert len({locks.session_byte(key) for key in ids}) == 1000
    assert min(locks.session_byte(key) for key in ids) > locks.operation_byte("deploy")
    assert locks.session_byte("") == locks.session_byte("not hex at!!") == locks.session_byte("12") == -1
