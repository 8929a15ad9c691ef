from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pileus.cli import render
from pileus.cli.render import Column

COLUMNS = [Column("NAME", shrink=2), Column("ID", shrink=1), Column("N", right=True)]


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    lines = render.table(COLUMNS, [["a", "bbbb", "7"], ["aaa", "b", "10"]])
    assert lines == ["NAME  ID     N", "a     bbbb   7", "aaa   b     10"]


def test_a_table_that_is_too_wide_is_cut_where_it_may_be_and_the_cut_shows() -> None:
    lines = render.table(COLUMNS, [["a" * 50, "b" * 50, "7"]], width=40)
    assert max(map(len, lines)) <= 40
    assert lines[1].startswith("a" * 28 + "…")
    assert lines[1].count("…") == 2
    assert lines[1].endswith(" 7")


def test_a_column_that_may_be_dropped_is_there_only_where_all_fits() -> None:
    columns = [Column("NAME", shrink=1), Column("ID", drop=True)]
    assert render.table(columns, [["name", "id"]], width=8) == ["NAME  ID", "name  id"]
    assert render.table(columns, [["name", "id"]], width=7) == ["NAME", "name"]


def test_columns_that_carry_numbers_are_never_cut() -> None:
    lines = render.table(COLUMNS, [["a" * 50, "b" * 50, "1234567890"]], width=10)
    assert lines[1].endswith(" 1234567890")


def test_wide_and_combining_characters_keep_columns_straight() -> None:
    lines = render.table(COLUMNS, [["日本", "x", "1"], ["e\u0301", "x", "1"]])
    assert lines[1] == "日本  x   1"
    assert lines[2] == "e\u0301     x   1"


def test_control_characters_of_a_cloud_do_not_reach_the_terminal() -> None:
    line = render.table(COLUMNS, [["a\x1b[2Jb\r\n\u202e", "x", "1"]])[1]
    assert line.startswith("a?[2Jb???")


def test_json_has_moments_as_iso_8601(capsys: pytest.CaptureFixture[str]) -> None:
    render.show_json({"at": datetime(2026, 1, 2, tzinfo=UTC), "path": Path("/x"), "word": "ü"})
    assert json.loads(capsys.readouterr().out) == {"at": "2026-01-02T00:00:00+00:00", "path": "/x", "word": "ü"}
