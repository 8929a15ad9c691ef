from __future__ import annotations

import pytest
from state_helpers import Child, Children, make_store

from pileus.state import Store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lab.db"


@pytest.fixture
def store(path):
    """A deployed deployment's store."""
    with make_store(path) as store:
        yield store


@pytest.fixture
def spawn_child():
    """Start Python processes that are gone when the test ends."""
    children = Children()
    yield children
    children.end()


__all__ = ["Child", "Store"]
