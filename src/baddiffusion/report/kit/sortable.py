"""A table that sorts: columns, and rows of entries that carry their interval and protocol with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Column", "Entry", "Line", "Table", "spelled"]


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        title: what stands above.
        under: the same for those who know the field; empty for nothing.
        is_number: whether its values stand right of each other.
        source: ``paper`` for numbers that were not measured here.
    """

    title: str
    under: str = ""
    is_number: bool = False
    source: str = ""


@dataclass(frozen=True)
class Entry:
    """One value.

    Args:
        text: as it is shown.
        order: what the column is sorted by; None goes last, whichever way.
        interval: as it is shown beneath.
        spread: standard deviation over seeds, beneath that.
        details: protocol, as (name, value); an entry that has any can be opened.
        caveats: what weakens it.
    """

    text: str
    order: float | str | None = None
    interval: str = ""
    details: tuple[tuple[str, str], ...] = ()
    caveats: tuple[str, ...] = ()
    spread: str = ""


@dataclass(frozen=True)
class Line:
    """One row: its state, which decides how it looks, and an entry per column."""

    state: str
    entries: tuple[Entry, ...]
    link: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its rows."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...] = field(default=())


def spelled(value: Any) -> Any:
    """A value for a spreadsheet: a text that it would take for a formula is made a text again."""
    text = value if isinstance(value, int | float | str) or value is None else str(value)
    return f"'{text}" if isinstance(text, str) and text[:1] in ("=", "+", "-", "@") else text
