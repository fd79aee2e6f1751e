"""The matrix as pictures: the heat maps as a PNG for the docs, and success against bias for the page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from baddiffusion.report.kit.figures import COLORS, MUTED, STYLE, canvas, svg
from baddiffusion.report.kit.wording import percent
from baddiffusion.report.matrix.heat import Grid, Square, measured

__all__ = ["heat_map", "success_against_bias"]

PAPER, EMPTY, RULE, DARK, GREY = "#ffffff", "#f4f2ec", "#dfdcd4", "#1d1f23", "#6a6e76"
STRONG = (0.761, 0.204, 0.114)
SQUARE_IN, HEIGHT_IN, LABEL_IN, HEADER_IN, BAND_IN, GAP_IN = 0.5, 0.34, 1.45, 0.78, 0.44, 0.25


def heat_map(grids: Sequence[Grid]) -> bytes:
    """Draw grids that share rows and columns side by side.

    Args:
        grids: at least one.

    Returns:
        A PNG, on white.
    """
    rows = sum(len(band.rows) for band in grids[0].bands)
    panel = max(sum(_width(group) for group in grids[0].columns), *(0.078 * len(grid.title) for grid in grids))
    words = max(0.062 * len(band.words) for band in grids[0].bands)
    width = max(LABEL_IN + len(grids) * (panel + GAP_IN), words + 0.2)
    height = HEADER_IN + rows * HEIGHT_IN + len(grids[0].bands) * BAND_IN + 0.15
    with rc_context({"font.family": "DejaVu Sans", "font.size": 8.5}):
        figure = Figure(figsize=(width, height), dpi=150, facecolor=PAPER)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.axis("off")
        for index, grid in enumerate(grids):
            _draw(axes, grid, LABEL_IN + index * (panel + GAP_IN), index == 0)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


def success_against_bias(cells: Sequence[Mapping[str, Any]], cut: float) -> str:
    """Measured success rate over predicted bias: theory and measurement in one look.

    Args:
        cells: measured and predicted ones.
        cut: the bias above which a backdoor is predicted to break.
    """
    with rc_context(STYLE):
        figure, axes = canvas(3.1)
        for cell in cells:
            rate = measured(cell, "asr")
            color = COLORS["triggered" if cell["clip"] == "off" else "clipped"]
            x = abs(cell["prediction"]["bias"])
            axes.plot([x, x], [rate["low"], rate["high"]], color=color, linewidth=1.5, alpha=0.5)
            axes.plot([x], [rate["value"]], "o" if cell["clip"] == "off" else "s", color=color, markersize=5)
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(-0.05, 1.15 * max(3.0, *(abs(cell["prediction"]["bias"]) for cell in cells)))
        axes.xaxis.set_major_locator(FixedLocator([0, 1, 3, 10, 30, 100]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(-0.03, 1.03)
        axes.axvline(cut, color=MUTED, linewidth=1)
        axes.annotate(f"cut: {cut:g}", (cut, 1.03), xycoords=("data", "axes fraction"), ha="center", color=MUTED)
        axes.set_xlabel("predicted bias, standard deviations of the noise")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: percent(v)))
        return svg(figure, "bias")


def _width(group: tuple[str, tuple[str, ...]]) -> float:
    """A sampler's columns, at least as wide as the longest line of its name."""
    return max(len(group[1]) * SQUARE_IN, 0.075 * max(map(len, _lines(group))) + 0.12)


def _lines(group: tuple[str, tuple[str, ...]]) -> list[str]:
    """The sampler's name, broken at its last hyphen where its columns are narrower than it."""
    sampler, steps = group
    if "-" not in sampler or 0.075 * len(sampler) + 0.12 <= len(steps) * SQUARE_IN:
        return [sampler]
    first, last = sampler.rsplit("-", 1)
    return [f"{first}-", last]


def _draw(axes: Axes, grid: Grid, left: float, is_first: bool) -> None:
    axes.text(left, 0.14, grid.title, weight="bold", va="center", color=DARK)
    places: list[tuple[float, float]] = []
    x = left
    for group in grid.columns:
        steps, width = group[1], _width(group)
        for above, line in enumerate(reversed(_lines(group))):
            axes.text(x + 0.04, 0.53 - 0.14 * above, line, va="baseline", color=DARK)
        axes.plot([x + 0.03, x + width - 0.05], [0.58, 0.58], color=GREY, linewidth=0.6)
        for index, step in enumerate(steps):
            places.append((x + index * width / len(steps), width / len(steps)))
            axes.text(
                x + (index + 0.5) * width / len(steps), 0.68, step, ha="center", va="center", color=GREY, size=7.5
            )
        x += width
    y = HEADER_IN
    for band in grid.bands:
        if is_first:
            axes.text(0.08, y + 0.15, band.title, va="center", weight="bold", color=DARK)
            axes.text(0.08, y + 0.33, band.words, va="center", color=GREY, size=7)
        y += BAND_IN
        for name, squares in band.rows:
            if is_first:
                axes.text(LABEL_IN - 0.08, y + HEIGHT_IN / 2, name, ha="right", va="center", color=DARK, size=8)
            for square, (at, width) in zip(squares, places, strict=True):
                _square(axes, square, at, y, width)
            y += HEIGHT_IN


def _square(axes: Axes, square: Square, x: float, y: float, width: float) -> None:
    share = square.share or 0.0
    color = EMPTY if square.share is None else tuple(1 - share * (1 - channel) for channel in STRONG)
    frame = {"facecolor": color, "edgecolor": RULE, "linewidth": 0.6}
    axes.add_patch(Rectangle((x + 0.015, y + 0.015), width - 0.03, HEIGHT_IN - 0.03, **frame))
    ink = PAPER if square.is_dark else GREY if square.share is None else DARK
    axes.text(x + width / 2, y + HEIGHT_IN / 2, square.text, ha="center", va="center", color=ink)
