"""The table of a sweep's numbers, and the same as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from baddiffusion.metrics import Estimate
from baddiffusion.report.kit.settings_words import key_words, sort_value, value_words
from baddiffusion.report.kit.sortable import Column, Entry, Line, Table, spelled
from baddiffusion.report.kit.tables import line, measure
from baddiffusion.report.kit.wording import number, percent
from baddiffusion.report.sweep.cells import CLIPPED, QUALITY
from baddiffusion.report.sweep.comparison import Row, is_bounded

__all__ = [
    "ORDER",
    "SHORT",
    "Column",
    "Entry",
    "Line",
    "Table",
    "column_of",
    "csv_text",
    "entry",
    "results_table",
    "spelled",
]

SHORT = {
    "asr": "Attack success",
    CLIPPED: "Success, clipped",
    "mse": "Squared error",
    "ssim": "Similarity",
    "false_trigger_rate": "False triggers",
    "fid": "FID",
    "kid": "KID",
    "kd_efflite0": "Distance from real pictures",
    "fd_efflite0": "Fréchet distance from real pictures",
}
UNDER = {
    "asr": "ASR",
    CLIPPED: "ASR under x₀-clipping",
    "mse": "MSE to the target",
    "ssim": "SSIM to the target",
    "kd_efflite0": "kd_efflite0",
    "fd_efflite0": "fd_efflite0",
}
ORDER = ("asr", CLIPPED, "mse", "ssim", "false_trigger_rate", *QUALITY)


def results_table(rows: Sequence[Row], varied: Sequence[str], links: Mapping[str, str] | None = None) -> Table:
    """Settings, numbers, n, seeds and state of each row.

    Args:
        rows: of a comparison.
        varied: the settings to show.
        links: the page of a run by its key.
    """
    found = {column for row in rows for column in row.numbers}
    shown = [column for column in ORDER if column in found]
    columns = (
        *(Column(key_words(key), key if "." in key else "", _is_numeric(rows, key)) for key in varied),
        *(column_of(name) for name in shown),
        Column("Noises", "n", True),
        Column("Seeds", "", True),
        Column("Outcome"),
    )
    lines = []
    for row in rows:
        settings = [Entry(value_words(k, row.settings.get(k)), sort_value(k, row.settings.get(k))) for k in varied]
        numbers = [entry(row.numbers.get(name)) for name in shown]
        page = next((links[cell.key] for cell in row.cells if links and cell.key in links), "")
        lines.append(
            Line(row.state, (*settings, *numbers, _noises(row), _seeds(row), Entry(row.state, row.state)), page)
        )
    return Table(columns, tuple(lines))


def column_of(name: str) -> Column:
    """The column of a measured number; of one that has no short name its full one."""
    stem, comma, words = name.partition(", ")
    title = SHORT.get(name) or SHORT.get(stem) or measure({"name": stem}).title
    return Column(f"{title}, {words}" if comma and name not in SHORT else title, UNDER.get(name, ""), True)


def entry(estimate: Estimate | None) -> Entry:
    """A measured number; a dash where there is none."""
    if estimate is None:
        return Entry("–")
    shown, spread = line(estimate.to_dict()), estimate.protocol.get("sd")
    counted = (("n", shown.n),) if shown.n else ()
    interval = shown.interval.replace("\N{NO-BREAK SPACE}% to", " to") if is_bounded(estimate) else ""
    said = percent if measure({"name": estimate.name}).is_rate else number
    sd = f"sd {said(spread)}" if isinstance(spread, float) else ""
    return Entry(shown.value, estimate.value, interval, (*counted, *shown.protocol), shown.caveats, sd)


def csv_text(rows: Sequence[Row], varied: Sequence[str]) -> str:
    """The rows as CSV, unrounded: every number with both ends of its interval and its n."""
    shown = [name for name in ORDER if any(name in row.numbers for row in rows)]
    head = [*varied, *(part for name in shown for part in (name, f"{name} low", f"{name} high", f"{name} n"))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*head, "seeds", "state", "runs"])
    for row in rows:
        cells: list[Any] = [spelled(row.settings.get(key)) for key in varied]
        for name in shown:
            found = row.numbers.get(name)
            cells += [found.value, found.low, found.high, found.n] if found else [None] * 4
        runs = " ".join(cell.key for cell in row.cells)
        writer.writerow([*cells, " ".join(map(str, row.seeds)), row.state, runs])
    return text.getvalue()


def _is_numeric(rows: Sequence[Row], key: str) -> bool:
    return all(isinstance(row.settings.get(key), int | float | None) for row in rows)


def _noises(row: Row) -> Entry:
    """How many triggered noises each run stands on."""
    counts = sorted({cell.numbers["asr"].n for cell in row.cells if "asr" in cell.numbers})
    if not counts and row.success is not None:
        counts = [row.success.n]
    return Entry(" or ".join(map(number, counts)) or "–", float(counts[0]) if counts else None)


def _seeds(row: Row) -> Entry:
    if not row.seeds:
        return Entry("–")
    listed = ", ".join(map(str, row.seeds))
    return Entry(str(len(row.seeds)), float(len(row.seeds)), f"{'seeds' if len(row.seeds) > 1 else 'seed'} {listed}")
