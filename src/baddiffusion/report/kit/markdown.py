"""Numbers and tables as Markdown, for pages that are generated from results files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from baddiffusion.report.kit.wording import number

__all__ = ["interval", "markdown_table"]


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows of equal length, the first one as the head.

    Example:
        >>> print(markdown_table([["t", "bias"], ["900", "+.53"]]))
        | t | bias |
        | --- | --- |
        | 900 | +.53 |
    """
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def interval(estimate: Mapping[str, Any] | None) -> str:
    """Write a number with its interval behind it, where it has one; a dash for none.

    Example:
        >>> interval({"value": 0.5, "low": 0.25, "high": 0.75}), interval(None)
        ('0.500 [0.250, 0.750]', '–')
    """
    if estimate is None:
        return "–"
    if estimate["low"] is None:
        return number(estimate["value"])
    return f"{number(estimate['value'])} [{number(estimate['low'])}, {number(estimate['high'])}]"
