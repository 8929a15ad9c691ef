"""Fixtures of the local provider's tests."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_place import LEVELS, Place, call, eventually

from pileus.drivers.local import calling


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "local")
    yield made
    made.clean_up()


@pytest.fixture(params=LEVELS)
def each_place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """The same at each level of isolation."""
    made = Place(tmp_path / "local", isolation=request.param)
    yield made
    made.clean_up()


@pytest.fixture
def own_helper(monkeypatch: pytest.MonkeyPatch, place: Place) -> Iterator[None]:
    """A helper that this test shares with nobody: one that it may kill, stop, or let go."""
    # The address is made of what this Python is, among others.
    monkeypatch.setattr(sys, "version", f"{sys.version} {secrets.token_hex(4)}")
    yield
    place.driver(helper_idle="0.01").check(call())
    eventually(lambda: f"{calling.address()[1:-1]}" not in Path("/proc/net/unix").read_text())
