"""Results go to stdout, everything else to stderr; tables are plain text that can be copied."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["count", "duration", "note", "say", "say_json", "table"]


def say(text: str = "") -> None:
    """Write a line of results."""
    sys.stdout.write(text + "\n")


def say_json(value: Any) -> None:
    """Write results for machines."""
    say(json.dumps(value, indent=2, ensure_ascii=False))


def note(text: str) -> None:
    """Write a line about the work, not of its results."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def table(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Align the columns of some rows, two spaces apart; nothing is cut.

    Example:
        >>> print(table([("a", "1"), ("bb", "22")]))
        a   1
        bb  22
    """
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows), default=0))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows]
    return "\n".join((indent + line).rstrip() for line in lines)


def count(number: int) -> str:
    """Group digits by threes.

    Example:
        >>> count(25600)
        '25 600'
    """
    return f"{number:,}".replace(",", " ")


def duration(seconds: int | float) -> str:
    """Say a time as people do.

    Example:
        >>> duration(9), duration(200), duration(7300)
        ('9 s', '3 min', '2.0 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
