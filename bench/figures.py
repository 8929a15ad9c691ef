"""A measured figure beside the one to reach, and the table of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        what: what was measured.
        value: the ratio or number.
        limit: the most that it should be.
        unit: of both.
        detail: the numbers behind a ratio.
    """

    what: str
    value: float
    limit: float
    unit: str
    detail: str = ""

    @property
    def reached(self) -> bool:
        """Whether the figure is kept."""
        return self.value <= self.limit


def table(figures: list[Figure]) -> str:
    """A Markdown table."""
    lines = ["| what | measured | to reach | | |", "|---|---|---|---|---|"]
    for figure in figures:
        mark = "" if figure.value != figure.value else "reached" if figure.reached else "**missed**"
        lines.append(
            f"| {figure.what} | {figure.value:.2f} {figure.unit} | at most {figure.limit:g} {figure.unit} | {mark} |"
            f" {figure.detail} |"
        )
    return "\n".join(lines)
