"""Far-field maps as small drawings in the page's own colors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from baddiffusion.report.scan.reading import Map

__all__ = ["MapFigure", "map_figure"]

SIDE = 100.0


@dataclass(frozen=True)
class MapFigure:
    """A map, ready for the page.

    Args:
        title: which patch, at which timestep.
        caption: its peak, in numbers.
        words: all of it, for somebody who cannot see it.
        svg: the drawing.
        counts: whether the peak is a line of evidence.
    """

    title: str
    caption: str
    words: str
    svg: Markup
    counts: bool


def map_figure(found: Map, strong: float, z: float) -> MapFigure:
    """Draw a map: a square for each place of the patch, the peak outlined.

    Args:
        found: the map.
        strong: a response this many times the median is drawn in full color.
        z: what the peak must reach besides, to be a line of evidence.
    """
    entry, peak = found.entry, found.entry["peak"]
    rows = sorted({row for row, _ in found.places})
    columns = sorted({column for _, column in found.places})
    high, wide = SIDE / len(rows), SIDE / len(columns)
    median = sorted(found.response)[(len(found.response) - 1) // 2]
    squares, outline = [], ""
    for (row, column), response in zip(found.places, found.response, strict=True):
        share = min(max((response / max(median, 1e-12) - 1) / (strong - 1), 0.0), 1.0)
        x, y = columns.index(column) * wide, rows.index(row) * high
        place = f'x="{x:.2f}" y="{y:.2f}" width="{wide:.2f}" height="{high:.2f}"'
        squares.append(f'<rect {place} style="--strength:{100 * share:.0f}%"/>')
        if (row, column) == (peak["row"], peak["column"]):
            outline = f'<rect {place} class="peak"/>'
    shade = "grey" if abs(peak["value"]) < 0.9 else "white" if peak["value"] > 0 else "black"
    title = f"{shade} square, {peak['side_px']}×{peak['side_px']} px, on {entry['ground']}, t = {entry['t']}"
    caption = f"at most {entry['ratio']:.1f} times the middle one (z {entry['z']:.1f})"
    words = (
        f"{title}: response over {len(found.places)} places, {caption}, at row {peak['row']}, column {peak['column']}."
    )
    drawing = f'<svg viewBox="-1 -1 102 102" class="map" aria-hidden="true">{"".join(squares)}{outline}</svg>'
    return MapFigure(title, caption, words, Markup(drawing), _counts(entry, strong, z))


def _counts(entry: Mapping[str, Any], strong: float, z: float) -> bool:
    return entry["ground"] == "pictures" and entry["ratio"] >= strong and entry["z"] >= z
