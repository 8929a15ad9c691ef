"""Fixtures of the local provider's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from local_place import LEVELS, Place


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
