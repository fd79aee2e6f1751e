"""What the tests of start noise see and what not: power against the trigger's norm, false alarms and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from baddiffusion.errors import EvaluationError
from baddiffusion.report.kit.markdown import markdown_table
from baddiffusion.report.kit.sheets import STYLE, png_of
from baddiffusion.report.kit.wording import Count

__all__ = ["guard_figure", "guard_section", "norm_for_power"]

COLORS = ("#1f6fb2", "#c2410c", "#2e7d32", "#7b3fa0", "#b8860b", "#111111")
MUTED = "#777777"
LARGEST_NORM = 30


def guard_figure(results: Mapping[str, Any]) -> bytes:
    """Draw the share of flagged noises against the trigger's norm, a curve for each kind of trigger.

    Args:
        results: what ``benchmarks/guard.py`` wrote.

    Returns:
        A PNG.
    """
    power = results["power"]
    with rc_context(STYLE):
        figure = Figure(figsize=(6.6, 3.9), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        norms, shares = zip(*power["known"]["points"], strict=True)
        axes.plot(norms, shares, "--", color=MUTED, linewidth=1.6, label="any trigger, if it is known")
        for family, color in zip(power["families"], COLORS, strict=False):
            norms, shares = zip(*family["points"], strict=True)
            axes.plot(norms, shares, color=color, linewidth=1.8, label=family["name"])
        axes.axhline(results["level"], color=MUTED, linewidth=0.8)
        axes.set_xlim(0, LARGEST_NORM)
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("norm of what is added to the start noise")
        axes.set_ylabel("noises flagged")
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right upper", frameon=False)
        return png_of(figure)


def norm_for_power(points: Sequence[Sequence[float | int]], share: float) -> float:
    """At which norm a share of the noises is flagged, on the line through the measured points.

    Args:
        points: [[norm, share], …] by rising norm.
        share: in (0, 1].

    Raises:
        EvaluationError: the curve never gets there.

    Example:
        >>> norm_for_power([[0, 0.0], [4, 0.5], [6, 1.0]], 0.75)
        5.0
    """
    for (before, low), (after, high) in pairwise(points):
        if low < share <= high:
            return before + (after - before) * (share - low) / (high - low)
    raise EvaluationError(f"no measured norm has {share:.0%} of the noises flagged; measure larger ones.")


def guard_section(results: Mapping[str, Any]) -> str:
    """The numbers of a results file in words and tables, as Markdown.

    Args:
        results: what ``benchmarks/guard.py`` wrote.
    """
    power = results["power"]
    size = "×".join(map(str, power["shape"]))
    return "\n\n".join(
        (
            f"Measured by `python benchmarks/guard.py` on {results['device']}, {results['threads']} thread, torch "
            f"{results['torch']}, level {results['level']:g}.",
            f"**Power**, {size}, {power['n']} noises a point. The norm at which half and 95 % of the noises are "
            f"flagged, beside the norm that the pattern has at full strength:",
            _power_table(power),
            f"**Attacks at full strength**, {size}, nothing known of the trigger:",
            _attacks_table(results["attacks"]),
            "**False alarms** on pure noise. The interval is where the count of a test that keeps its level exactly "
            "lies 95 % of the time; fewer is what a conservative test gives:",
            _alarms_table(results["false_alarms"]),
            f"**Time** for one noise, {results['timing'][0]['calls']} calls, on a machine that other work shared: time "
            "on the clock, and processor time:",
            _timing_table(results["timing"]),
        )
    )


def _power_table(power: Mapping[str, Any]) -> str:
    rows = [["added to the noise", "full strength", "half flagged", "95 % flagged"]]
    known: dict[str, Any] = {"name": "any of them, known", "full_norm": None, **power["known"]}
    for family in (*power["families"], known):
        full = "–" if family["full_norm"] is None else f"{family['full_norm']:.1f}"
        rows.append(
            [family["name"], full, *(f"{norm_for_power(family['points'], share):.1f}" for share in (0.5, 0.95))]
        )
    return markdown_table(rows)


def _attacks_table(attacks: Sequence[Mapping[str, Any]]) -> str:
    rows = [["attack", "flagged", "largest combined p"]]
    rows += [[entry["name"], str(Count(entry["flagged"], entry["n"])), _small(entry["largest_p"])] for entry in attacks]
    return markdown_table(rows)


def _alarms_table(entries: Sequence[Mapping[str, Any]]) -> str:
    rows = [["noise", "against", "level", "flagged", "interval"]]
    for entry in entries:
        size, count = "×".join(map(str, entry["shape"])), f"{entry['flagged']} of {entry['n']}"
        low, high = entry["interval"]
        rows.append([size, entry["against"], f"{entry['level']:g}", count, f"{low} to {high}"])
    return markdown_table(rows)


def _timing_table(entries: Sequence[Mapping[str, Any]]) -> str:
    rows = [["noise", "against", "median", "95 % below", "processor, median", "95 % below"]]
    for entry in entries:
        times = (f"{entry[key]:.2f} ms" for key in ("median_ms", "p95_ms", "processor_ms", "processor_p95_ms"))
        rows.append(["×".join(map(str, entry["shape"])), entry["against"], *times])
    return markdown_table(rows)


def _small(p: float) -> str:
    return "below 1e-300" if p < 1e-300 else f"{p:.1g}"
