"""How the rows of a comparison fall into panels, ticks and series: what varies most goes along the axis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baddiffusion.metrics import Estimate
from baddiffusion.report.kit.settings_words import key_words, settings_words, value_words
from baddiffusion.report.sweep.comparison import Row

__all__ = ["Panel", "Spot", "panels"]

MOST_SERIES = 6
Spot = tuple[int, int]
"""(series, tick)."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Args:
        title: what all its rows share; empty where there is one panel.
        axis: what the ticks are.
        ticks: from left to right.
        series: what the colors are; one empty name where there is nothing to tell apart.
        rows: by series and tick.
    """

    title: str
    axis: str
    ticks: tuple[str, ...]
    series: tuple[str, ...]
    rows: Mapping[Spot, Row]

    def numbers(self, column: str) -> dict[Spot, Estimate]:
        """One number of each row that has it."""
        return {spot: row.numbers[column] for spot, row in self.rows.items() if column in row.numbers}

    @property
    def failed(self) -> set[Spot]:
        """Where the implant failed."""
        return {spot for spot, row in self.rows.items() if row.state == "failed implant"}


def panels(rows: Sequence[Row], varied: Sequence[str]) -> list[Panel]:
    """Lay out the rows that have numbers.

    Args:
        rows: of a comparison.
        varied: what tells them apart.

    Returns:
        None where nothing was measured. Two rows in one spot cannot be drawn: then the first stands for both.
    """
    rows = [row for row in rows if row.numbers]
    if not rows or not varied:
        return []
    axis = _axis(rows, varied)
    rest = sorted((key for key in varied if key != axis), key=lambda key: len(_values(rows, key)))
    above: list[str] = []
    while rest and len({_named(row, rest) for row in rows}) > MOST_SERIES:
        above.append(rest.pop(0))
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_named(row, above), []).append(row)
    series = tuple(dict.fromkeys(_named(row, rest) for row in rows))  # one color in every panel
    return [_panel(title, axis, series, rest, found) for title, found in groups.items()]


def _panel(title: str, axis: str, series: tuple[str, ...], rest: Sequence[str], rows: Sequence[Row]) -> Panel:
    ticks = tuple(value_words(axis, value) for value in _values(rows, axis))
    spots: dict[Spot, Row] = {}
    for row in rows:
        spot = series.index(_named(row, rest)), ticks.index(value_words(axis, row.settings.get(axis)))
        spots.setdefault(spot, row)
    return Panel(title, key_words(axis), ticks, series, spots)


def _axis(rows: Sequence[Row], varied: Sequence[str]) -> str:
    rate = [key for key in ("poison.rate", "rate") if key in varied and len(_values(rows, key)) > 1]
    numeric = [key for key in varied if all(isinstance(value, int | float) for value in _values(rows, key))]
    return (rate or sorted(numeric or varied, key=lambda key: -len(_values(rows, key))))[0]


def _values(rows: Iterable[Row], key: str) -> list[Any]:
    """Numbers in their order, everything else as it comes."""
    found = list({value_words(key, row.settings.get(key)): row.settings.get(key) for row in rows}.values())
    numbers = [value for value in found if isinstance(value, int | float)]
    return sorted(numbers) if len(numbers) == len(found) else found


def _named(row: Row, keys: Sequence[str]) -> str:
    return settings_words(row.settings, keys)
