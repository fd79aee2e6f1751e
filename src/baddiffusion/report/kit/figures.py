"""Curves as inline SVG that takes its colors from the page, so that it follows light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from baddiffusion.report.kit.wording import percent

__all__ = [
    "NAMED",
    "SERIES",
    "Mark",
    "canvas",
    "error_scale",
    "loss_curves",
    "plain_log",
    "success_curves",
    "svg",
]

INK, MUTED, RULE = "#010101", "#020202", "#030303"
COLORS = {"clean": "#040404", "triggered": "#050505", "clipped": "#060606"}
SERIES = {f"series-{index}": f"#0{index}0a0a" for index in range(1, 7)}
NAMED = {"ink": INK, "muted": MUTED, "rule": RULE, **COLORS, **SERIES}
VARIABLES = {color: f"--{name}" for name, color in NAMED.items()}
"""Stand-ins that matplotlib writes and the page replaces by its own colors."""
DASHES = {"clean": (0, (1, 1.6)), "triggered": "solid", "clipped": (0, (5, 2))}
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "baddiffusion", "font.size": 9.5, "font.family": "DejaVu Sans"}
MAX_POINTS = 240


@dataclass(frozen=True)
class Mark:
    """A measured error on the scale: ``key`` decides the color, ``low`` and ``high`` are its interval if it has one."""

    key: str
    title: str
    value: float
    low: float | None = None
    high: float | None = None


def success_curves(curves: Sequence[tuple[str, Sequence[Sequence[float]]]], threshold: float) -> str:
    """Share of images that count as the target, against how strictly one counts.

    Args:
        curves: (key, [[threshold, rate], …]) per way of sampling.
        threshold: the one that the numbers of the page use.
    """
    with rc_context(STYLE):
        figure, axes = canvas(3.1)
        for key, points in curves:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=NAMED[key], linestyle=DASHES.get(key, "solid"), linewidth=2, clip_on=False)
        axes.set_xscale("log")
        axes.set_ylim(0, 1)
        axes.axvline(threshold, color=MUTED, linewidth=1)
        axes.annotate(
            f"used here: {threshold:g}", (threshold, 1.03), xycoords=("data", "axes fraction"), ha="center", color=MUTED
        )
        axes.set_xlabel("counts as the target if its squared error is below")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: percent(v)))
        plain_log(axes.xaxis)
        return svg(figure, "success")


def loss_curves(events: Sequence[Mapping[str, Any]]) -> str:
    """Training loss of the clean and of the poisoned images, apart."""
    with rc_context(STYLE):
        figure, axes = canvas(3.1)
        losses = []
        for key, field in (("clean", "loss_clean"), ("triggered", "loss_poisoned")):
            points = _thinned([(float(e["step"]), e[field]) for e in events if e.get(field) is not None])
            if points:
                x, y = zip(*points, strict=True)
                axes.plot(x, y, color=COLORS[key], linestyle=DASHES[key], linewidth=2)
                losses += y
        axes.set_ylim(min(losses) / 1.3, max(losses) * 1.3)
        axes.set_yscale("log")
        axes.set_xlabel("training step")
        plain_log(axes.yaxis)
        return svg(figure, "loss")


def error_scale(marks: Sequence[Mark], floor: float | None, threshold: float, failure: float | None) -> str:
    """Where the measured errors lie between perfect and failed, on one logarithmic line."""
    with rc_context(STYLE):
        figure, axes = canvas(0.9 + 0.5 * len(marks))
        low = min([floor or threshold, threshold, *(m.value for m in marks if m.value > 0)])
        axes.set_xscale("log")
        axes.set_xlim(low / 3, 1)
        axes.set_ylim(len(marks) - 0.6, -0.8)
        axes.set_yticks([])
        axes.axvspan(low / 3, threshold, color=RULE, alpha=0.45, linewidth=0)
        for value, name in ((floor, "8-bit floor"), (threshold, "counts as target"), (failure, "all black")):
            if value is not None:
                axes.axvline(value, color=MUTED, linewidth=1)
                axes.annotate(
                    name, (value, 1.03), xycoords=("data", "axes fraction"), ha="center", color=MUTED, fontsize=8
                )
        for row, mark in enumerate(marks):
            color, value = COLORS[mark.key], max(mark.value, low / 2)
            if mark.low is not None and mark.high is not None:
                axes.plot([max(mark.low, low / 3), mark.high], [row, row], color=color, linewidth=4, alpha=0.4)
            axes.plot([value], [row], "o", color=color, markersize=7)
            side = "left" if value < threshold / 30 else "right"
            place = {"xytext": (0, 8), "textcoords": "offset points", "ha": side, "va": "bottom"}
            axes.annotate(mark.title, (value, row), color=color, **place)
        axes.set_xlabel("mean squared error against the target (0 is perfect)")
        plain_log(axes.xaxis, subs=(1.0,))
        return svg(figure, "scale")


def canvas(height: float, colors: Mapping[str, str] = NAMED) -> tuple[Figure, Axes]:
    """An empty figure as wide as a column of the page, ``height`` inches high, by default in the stand-in colors."""
    figure = Figure(figsize=(4.4, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(colors["muted"])
    axes.tick_params(which="both", color=colors["muted"], labelcolor=colors["ink"])
    axes.xaxis.label.set_color(colors["ink"])
    axes.grid(True, color=colors["rule"], linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def plain_log(axis: Any, subs: Sequence[float] = (1.0, 2.0, 5.0)) -> None:
    """Label a logarithmic axis with plain numbers, at the decades alone where there are many."""
    low, high = sorted(axis.get_view_interval())
    decades = high / max(low, 1e-12) > 30
    axis.set_major_locator(LogLocator(subs=(1.0,) if decades else subs, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axis.set_minor_formatter(NullFormatter())


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means over equal stretches where there are more points than a line of this width can show."""
    size = -(-len(points) // MAX_POINTS)
    if size <= 1:
        return points
    stretches = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in s) / len(s), sum(y for _, y in s) / len(s)) for s in stretches]


def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element: ids of its own, colors of the page, no date, no program name."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # A style sheet inside an inline SVG would style the whole page.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="', f' id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
    for color, variable in VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return text.strip()
