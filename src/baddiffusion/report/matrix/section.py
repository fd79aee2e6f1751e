"""What a matrix came to, as a section of a page in Markdown: rates, predictions, quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from baddiffusion.report.kit.markdown import interval, markdown_table
from baddiffusion.report.kit.tables import find
from baddiffusion.report.matrix.heat import Grid, bias_grid, clip_words, measured, outcomes, success_grid

__all__ = ["matrix_section"]


def matrix_section(summary: Mapping[str, Any]) -> str:
    """The numbers of ``matrix.json`` in words and tables.

    Args:
        summary: what ``baddiffusion matrix`` wrote into ``matrix.json``.
    """
    parts = [
        _protocol(summary),
        "![Heat maps: measured success rates beside the predicted biases](matrix.png)",
        "Measured success rate in percent, in brackets the predicted bias in standard deviations of the noise:",
        _rates(success_grid(summary), bias_grid(summary)),
        _hits(summary),
    ]
    if summary["quality"]:
        parts += ["Quality of ordinary pictures from the same models:", _quality(summary)]
    return "\n\n".join(part for part in parts if part)


def _protocol(summary: Mapping[str, Any]) -> str:
    done = [cell for cell in summary["cells"] if cell["status"] == "done"]
    protocol = done[0]["estimates"][0]["protocol"] if done else {}
    versions, plan = summary["versions"], summary["plan"]
    return (
        f"{len(done)} of {len(summary['cells'])} cells measured, {plan['n']} triggered noises each (seeds "
        f"{protocol.get('seeds', '–')}), network in {protocol.get('precision', '–')} on {protocol.get('device', '–')}, "
        f"diffusers {versions['diffusers']}, torch {versions['torch']}. A picture counts as the target if its mean "
        f"squared error on [0, 1] is below {plan['threshold']:g}. With n = {plan['n']} a rate of 0 % has the 95 % "
        f"interval [{_bound(done, 0.0, 'low')} %, {_bound(done, 0.0, 'high')} %]."
    )


def _bound(cells: Sequence[Mapping[str, Any]], value: float, end: str) -> str:
    """An end of the interval of a rate, taken from a cell that has this rate."""
    rates = (measured(cell, "asr") for cell in cells)
    return next((f"{100 * rate[end]:.0f}" for rate in rates if rate["value"] == value), "–")


def _rates(rates: Grid, biases: Grid) -> str:
    columns = [f"{sampler} {steps}" for sampler, group in rates.columns for steps in group]
    rows = [["model, backdoor, clipping", *columns]]
    for band, expected in zip(rates.bands, biases.bands, strict=True):
        rows.append([f"**{band.title}**: {band.words}", *([""] * len(columns))])
        for (clip, squares), (_, predicted) in zip(band.rows, expected.rows, strict=True):
            cells = [s.mark or f"{s.text} ({p.text})" for s, p in zip(squares, predicted, strict=True)]
            rows.append([clip, *cells])
    return markdown_table(rows)


def _hits(summary: Mapping[str, Any]) -> str:
    found = outcomes(summary["cells"])
    if not found:
        return ""
    right = sum(predicted == fired for _, predicted, fired in found)
    missed = sum(fired and not predicted for _, predicted, fired in found)
    return (
        f"The prediction (fires where the bias stays below {summary['cut']:g}) was right in {right} of {len(found)} "
        f"cells, counting a backdoor as firing from 50 % on; {missed} fired although they should not, "
        f"{len(found) - right - missed} did not although they should."
    )


def _quality(summary: Mapping[str, Any]) -> str:
    names = ("kd_efflite0", "false_trigger_rate")
    rows = [["model", "sampler", "clipping", "kd_efflite0 [95 %]", "real against real", "target unasked", "n"]]
    for cell in summary["quality"]:
        if cell["status"] != "done":
            continue
        distance, unasked = (find(cell["estimates"], name) for name in names)
        baseline = find(cell["estimates"], "kd_efflite0_baseline")
        rows.append(
            [
                summary["rows"][cell["row"]]["model"],
                cell["column"],
                clip_words(cell["clip"]),
                interval(distance),
                interval(baseline),
                "–" if unasked is None else f"{100 * unasked['value']:.0f} %",
                "–" if distance is None else str(distance["n"]),
            ]
        )
    return markdown_table(rows)
