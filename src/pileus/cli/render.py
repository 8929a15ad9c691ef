"""What goes to standard output: tables for people, JSON for scripts. Rows are made by pure functions elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

_GAP = "  "
_NARROWEST = 6
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        right: whether its cells stand at its right edge.
        shrink: where the table is too wide, columns are cut in the order of these numbers; 0 for never.
        drop: where the table is too wide, the column is left out before any is cut.
    """

    title: str
    right: bool = False
    shrink: int = 0
    drop: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Lay out a table as lines, the titles first.

    Args:
        columns: one for each cell of a row.
        rows: the cells; control characters in them, which a cloud may send, are shown as `?`.
        width: cut what may be cut so that no line is wider; None for no limit.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [
        max([cell_width(column.title), *(cell_width(row[i]) for row in cells)]) for i, column in enumerate(columns)
    ]
    if width is not None and sum(widths) + len(_GAP) * (len(columns) - 1) > width:
        kept = [i for i, column in enumerate(columns) if not column.drop]
        if len(kept) < len(columns):
            return table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows], width)
        widths = _squeezed(columns, widths, width - len(_GAP) * (len(columns) - 1))
    lines = [[column.title for column in columns], *cells]
    return [
        _GAP.join(_fitted(cell, widths[i], columns[i].right) for i, cell in enumerate(line)).rstrip() for line in lines
    ]


def printable(text: str) -> str:
    """Replace what could move the cursor, change colours or turn the line around."""
    return _CONTROL.sub("?", text)


def cell_width(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def terminal_width() -> int | None:
    """The width to lay tables out for: a terminal's, or None where standard output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def styled(text: str, code: str) -> str:
    """Give text a style (an SGR code) on a terminal that wants colours; a style never carries the meaning alone."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty()
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"


def show_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Write a table to standard output, fit for the terminal when it is one."""
    titles, *lines = table(columns, rows, terminal_width())
    show("\n".join([styled(titles, "1"), *lines]))


def show(text: str) -> None:
    """Write text and a line's end to standard output."""
    sys.stdout.write(text + "\n")


def show_json(value: Any) -> None:
    """Write a value as JSON to standard output; moments as ISO 8601, paths as text."""
    json.dump(value, sys.stdout, indent=2, default=_jsonable, ensure_ascii=False)
    sys.stdout.write("\n")


def _jsonable(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _squeezed(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    widths = list(widths)
    while sum(widths) > room:
        candidates = [i for i, column in enumerate(columns) if column.shrink and widths[i] > _NARROWEST]
        if not candidates:
            break
        widest = min(candidates, key=lambda i: (columns[i].shrink, -widths[i]))
        widths[widest] -= 1
    return widths


def _fitted(text: str, width: int, right: bool) -> str:
    if cell_width(text) > width:
        while cell_width(text) > width - 1:
            text = text[:-1]
        text += "…"
    padding = " " * (width - cell_width(text))
    return padding + text if right else text + padding
