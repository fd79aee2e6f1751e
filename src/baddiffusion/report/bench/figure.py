"""ROC curves of all detectors, each point with the exact intervals of both shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.ticker import FuncFormatter

from baddiffusion.benchmark.results import DetectorRow
from baddiffusion.report.kit.figures import NAMED, SERIES, STYLE, canvas, svg
from baddiffusion.report.kit.wording import percent

__all__ = ["RocFigure", "roc_figures"]

PER_FIGURE = 3
"""Curves that can be told apart in one figure with their intervals."""


@dataclass(frozen=True)
class RocFigure:
    """One drawing.

    Args:
        svg: the drawing.
        words: what it shows, for those who do not see it.
        legend: (color key, label).
    """

    svg: Markup
    words: str
    legend: tuple[tuple[str, str], ...]


def roc_figures(rows: Sequence[DetectorRow]) -> list[RocFigure]:
    """Draw the curves, a few to a figure, the largest areas first."""
    drawn = sorted((r for r in rows if r.points and r.area), key=lambda r: -(r.area.value if r.area else 0.0))
    parts = [drawn[i : i + PER_FIGURE] for i in range(0, len(drawn), PER_FIGURE)]
    return [_figure(part, number) for number, part in enumerate(parts, start=1)]


def _figure(rows: Sequence[DetectorRow], number: int) -> RocFigure:
    keys = list(SERIES)
    with rc_context(STYLE):
        figure, axes = canvas(4.0)
        axes.plot([0, 1], [0, 1], color=NAMED["muted"], linewidth=1, linestyle=(0, (2, 3)))
        for key, row, dashes in zip(keys, rows, ("solid", (0, (5, 2)), (0, (1, 1.6))), strict=False):
            x = [0.0, *(point.false_alarms.value for point in row.points)]
            y = [0.0, *(point.detected.value for point in row.points)]
            color = SERIES[key]
            axes.plot(x, y, color=color, linewidth=2, linestyle=dashes, drawstyle="steps-post", clip_on=False)
            axes.plot(x[1:], y[1:], "o", color=color, markersize=4, clip_on=False)
            for point in row.points:
                a, b = point.false_alarms, point.detected
                axes.plot(list(a.interval), [b.value] * 2, color=color, linewidth=1, alpha=0.35)
                axes.plot([a.value] * 2, list(b.interval), color=color, linewidth=1, alpha=0.35)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda v, _: percent(v)))
        axes.set_xlabel("clean models flagged")
        axes.set_ylabel("backdoored models flagged", color=NAMED["ink"])
        text = svg(figure, f"roc-{number}")
    said = "; ".join(f"{row.label}: area {row.area.value:.2f}" for row in rows if row.area)
    legend = tuple((key, row.label) for key, row in zip(keys, rows, strict=False))
    return RocFigure(Markup(text), f"ROC curves. {said}.", legend)
