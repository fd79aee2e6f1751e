"""Every figure of a comparison, ready for the page: drawing, legend, the same in words, and its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from baddiffusion.report.kit.downloads import Download, png_download
from baddiffusion.report.sweep.bars_figure import Bars, bars_png, bars_svg
from baddiffusion.report.sweep.cells import QUALITY
from baddiffusion.report.sweep.comparison import Row
from baddiffusion.report.sweep.panels import Panel, panels
from baddiffusion.report.sweep.sortable import SHORT

__all__ = ["Drawing", "drawings"]

SUCCESS = (
    "Bars: share of noises with the trigger that became the target. Above the dashed line the backdoor counts as "
    "implanted."
)
QUALITY_ALONE = "Bars, left axis: distance of ordinary samples from real pictures; lower is better."
ERROR = "squared error of triggered samples to the target; lower is a stronger backdoor."
QUALITY_AND_ERROR = f"{QUALITY_ALONE} Curves, right axis, logarithmic: {ERROR}"


@dataclass(frozen=True)
class Drawing:
    """One figure with its legend, its words and its file."""

    title: str
    words: str
    svg: Markup
    legend: tuple[tuple[str, str], ...]
    caption: str
    download: Download


def drawings(rows: Sequence[Row], varied: Sequence[str], name: str) -> list[Drawing]:
    """Draw success, and quality with the squared error, panel by panel.

    Args:
        rows: of a comparison.
        varied: what tells them apart.
        name: what the files are called; unique in the page.
    """
    figures = [figure for panel in panels(rows, varied) for figure in _figures_of(panel)]
    return [_drawing(figure, f"{name}-{number}") for number, figure in enumerate(figures, start=1)]


def _figures_of(panel: Panel) -> list[Bars]:
    found = []
    if panel.numbers("asr"):
        found.append(Bars(panel, "asr", "noises that became the target", is_rate=True))
    quality = [column for column in QUALITY if panel.numbers(column)]
    words = "squared error to the target (MSE)"
    curves = "mse" if panel.numbers("mse") else ""
    found += [Bars(panel, column, _axis_words(column), curves, words) for column in quality]
    if not quality and curves:
        found.append(Bars(panel, "", "", curves, words))
    return found


def _axis_words(column: str) -> str:
    return column.upper() if column in ("fid", "kid") else f"{SHORT[column].lower()} ({column})"


def _drawing(figure: Bars, name: str) -> Drawing:
    panel = figure.panel
    title, caption = _told(figure)
    title = f"{title}: {panel.title}" if panel.title else title
    words = f"{title}, by {panel.axis.lower()}. {caption} The values stand in the table."
    legend = tuple((f"series-{i % 6 + 1}", series) for i, series in enumerate(panel.series) if series)
    download = png_download(name, f"{title} (PNG)", bars_png(figure))
    return Drawing(title, words, Markup(bars_svg(figure, name)), legend, caption, download)


def _told(figure: Bars) -> tuple[str, str]:
    """Title and caption."""
    title, caption = "Quality and squared error", QUALITY_AND_ERROR
    if figure.is_rate:
        title, caption = "How often the backdoor fired", SUCCESS
    elif not figure.bars:
        title, caption = "Squared error", f"No quality was measured. Curves, logarithmic: {ERROR}"
    elif not figure.curves:
        title, caption = "Quality", QUALITY_ALONE
    shown = [e for column in (figure.bars, figure.curves) if column for e in figure.panel.numbers(column).values()]
    if figure.panel.failed:
        caption += " Hatched bars are failed implants." if figure.is_rate else " Hollow points are failed implants."
    if any(estimate.low is not None for estimate in shown):
        caption += " Thin lines are the 95 % intervals."
    return title, caption
