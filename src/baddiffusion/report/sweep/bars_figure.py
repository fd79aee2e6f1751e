"""Quality as bars and the squared error as curves, on two axes as the paper draws them; and success as bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from baddiffusion.metrics import FIRES, Estimate
from baddiffusion.report.kit.figures import NAMED, SERIES, STYLE, canvas, plain_log, svg
from baddiffusion.report.kit.sheets import png_of
from baddiffusion.report.kit.wording import percent
from baddiffusion.report.sweep.panels import Panel, Spot

__all__ = ["Bars", "bars_png", "bars_svg"]

MARKERS = ("o", "s", "D", "^", "v", "P")
PRINTED = {
    "ink": "#1d1f23",
    "muted": "#6a6e76",
    "rule": "#dfdcd4",
    "series-1": "#1f57b8",
    "series-2": "#c2341d",
    "series-3": "#0f766e",
    "series-4": "#8a5a00",
    "series-5": "#7b3fa0",
    "series-6": "#5a606a",
}
"""Colors of the PNG, which stands on white: those of the light page."""
HEIGHT_IN, LEGEND_IN, WIDTH_OF_TICK = 3.2, 0.22, 0.78


@dataclass(frozen=True)
class Bars:
    """One figure.

    Args:
        panel: ticks, series and rows.
        bars: the column whose numbers stand as bars on the left axis; empty for none.
        bar_words: what that axis is called.
        curves: the column whose numbers stand as curves on the right axis, logarithmic; empty for none.
        curve_words: what that axis is called.
        is_rate: whether the bars are shares.
    """

    panel: Panel
    bars: str
    bar_words: str
    curves: str = ""
    curve_words: str = ""
    is_rate: bool = False


def bars_svg(figure: Bars, name: str) -> str:
    """Draw it for the page, which has the legend beside it.

    Args:
        figure: what to draw.
        name: unique in the page.
    """
    with rc_context(STYLE):
        return svg(_drawn(figure, NAMED, legend=False), name)


def bars_png(figure: Bars) -> bytes:
    """Draw it for a paper or a talk, on white, with its legend."""
    with rc_context({key: value for key, value in STYLE.items() if not key.startswith("svg")}):
        drawn = _drawn(figure, PRINTED, legend=True)
        drawn.patch.set_alpha(1)
        drawn.patch.set_facecolor("white")
        return png_of(drawn)


def _drawn(figure: Bars, colors: Mapping[str, str], legend: bool) -> Figure:
    panel = figure.panel
    drawn, axes = canvas(HEIGHT_IN + (LEGEND_IN * len(panel.series) if legend else 0), colors)
    slanted: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if _is_crowded(panel) else {}
    axes.set_xticks(range(len(panel.ticks)), panel.ticks, **slanted)
    axes.set_xlim(-0.55, len(panel.ticks) - 0.45)
    axes.grid(False, axis="x")
    axes.set_xlabel(panel.axis)
    axes.yaxis.label.set_color(colors["ink"])
    if figure.bars:
        _draw_bars(axes, figure, colors)
    if figure.curves:
        right = axes.twinx() if figure.bars else axes
        _draw_curves(right, figure, colors, bool(figure.bars))
    if legend and panel.series != ("",):
        handles = [_handle(figure, index, colors) for index in range(len(panel.series))]
        drawn.legend(handles, panel.series, loc="outside lower center", frameon=False, labelcolor=colors["ink"])
    if legend and panel.title:
        axes.set_title(panel.title, color=colors["ink"], loc="left", fontsize=9.5)
    return drawn


def _draw_bars(axes: Axes, figure: Bars, colors: Mapping[str, str]) -> None:
    panel = figure.panel
    width = WIDTH_OF_TICK / len(panel.series)
    for (series, tick), estimate in panel.numbers(figure.bars).items():
        x, color = _place(panel, (series, tick)), colors[_key(series)]
        is_failed = figure.is_rate and (series, tick) in panel.failed
        axes.bar(x, estimate.value, 0.9 * width, facecolor=color, alpha=0.12 if is_failed else 0.4, linewidth=0)
        axes.bar(
            x, estimate.value, 0.9 * width, fill=False, edgecolor=color, linewidth=1, hatch="///" if is_failed else ""
        )
        _interval(axes, x, estimate, colors["ink"])
    axes.set_ylabel(figure.bar_words)
    if figure.is_rate:
        axes.set_ylim(0, 1.02)
        axes.axhline(FIRES, color=colors["muted"], linewidth=1, linestyle=(0, (4, 3)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: percent(v)))
    else:
        axes.set_ylim(bottom=min(0.0, *(e.interval[0] for e in panel.numbers(figure.bars).values()), 0.0))


def _draw_curves(axes: Axes, figure: Bars, colors: Mapping[str, str], is_right: bool) -> None:
    panel = figure.panel
    numbers = panel.numbers(figure.curves)
    values = [end for e in numbers.values() for end in (*e.interval, e.value) if end > 0]
    floor = min(values, default=1e-6) / 1.6
    for series in range(len(panel.series)):
        found = (
            sorted((tick, estimate) for (own, tick), estimate in numbers.items() if own == series) if numbers else []
        )
        if not found:
            continue
        color, marker = colors[_key(series)], MARKERS[series % len(MARKERS)]
        x = [_place(panel, (series, tick)) for tick, _ in found]
        axes.plot(x, [max(e.value, floor) for _, e in found], color=color, linewidth=1.8)
        for at, (tick, estimate) in zip(x, found, strict=True):
            face = "none" if (series, tick) in panel.failed else color
            axes.plot([at], [max(estimate.value, floor)], marker, color=color, markerfacecolor=face, markersize=6)
            if estimate.low is not None and estimate.high is not None:
                axes.plot([at, at], [max(estimate.low, floor), max(estimate.high, floor)], color=color, linewidth=1)
    axes.set_yscale("log")
    axes.set_ylim(floor, max(values, default=1.0) * 1.6)
    axes.set_ylabel(figure.curve_words, color=colors["ink"])
    axes.tick_params(which="both", color=colors["muted"], labelcolor=colors["ink"])
    plain_log(axes.yaxis)
    if is_right:
        axes.patch.set_alpha(0)
        axes.spines[["top", "left", "bottom"]].set_visible(False)
        axes.spines["right"].set_color(colors["muted"])


def _place(panel: Panel, spot: Spot) -> float:
    """Where a bar stands; a curve's point stands over its bar."""
    series, tick = spot
    return tick + (series - (len(panel.series) - 1) / 2) * WIDTH_OF_TICK / len(panel.series)


def _interval(axes: Axes, x: float, estimate: Estimate, color: str) -> None:
    if estimate.low is not None and estimate.high is not None:
        axes.plot([x, x], [estimate.low, estimate.high], color=color, linewidth=1.2, solid_capstyle="butt")


def _handle(figure: Bars, series: int, colors: Mapping[str, str]) -> Line2D | Patch:
    color = colors[_key(series)]
    if not figure.curves:
        return Patch(facecolor=color, alpha=0.5)
    return Line2D([], [], color=color, marker=MARKERS[series % len(MARKERS)])


def _key(series: int) -> str:
    return list(SERIES)[series % len(SERIES)]


def _is_crowded(panel: Panel) -> bool:
    return sum(map(len, panel.ticks)) > 44
