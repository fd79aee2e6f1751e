"""The paper's numbers beside ours: never in one column, and side by side only where the metric is the same."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from baddiffusion.report.kit.settings_words import key_words, sort_value, value_words
from baddiffusion.report.kit.wording import number
from baddiffusion.report.reproduction.reading import Experiment, Published
from baddiffusion.report.sweep.sortable import ORDER, Column, Entry, Line, Table, column_of, entry, spelled

__all__ = ["reproduction_csv", "reproduction_table"]


def reproduction_table(experiment: Experiment) -> Table:
    """Varied labels, the paper's numbers, ours, seeds and state of each row."""
    metrics, ours = _metrics(experiment), _ours(experiment)
    columns = [Column(key_words(key), "", _is_numeric(experiment, key)) for key in experiment.varied]
    for metric, own in _pairs(metrics, ours):
        if metric:
            columns.append(Column(f"{metric}, paper", "", True, "paper"))
        if own:
            known = column_of(own)
            columns.append(Column(known.title, f"ours: {own}", True))
    lines = []
    for row, published in zip(experiment.rows, experiment.published, strict=True):
        entries = [
            Entry(value_words(key, row.settings.get(key)), sort_value(key, row.settings.get(key)))
            for key in experiment.varied
        ]
        for metric, own in _pairs(metrics, ours):
            if metric:
                entries.append(_published([one for one in published if one.metric == metric]))
            if own:
                entries.append(entry(row.numbers.get(own)))
        seeds = Entry(str(len(row.seeds)), float(len(row.seeds))) if row.seeds and row.numbers else Entry("–")
        lines.append(Line(row.state, (*entries, seeds, Entry(row.state, row.state))))
    return Table((*columns, Column("Seeds", "", True), Column("Outcome")), tuple(lines))


def reproduction_csv(experiment: Experiment) -> str:
    """The same, unrounded."""
    metrics, ours = _metrics(experiment), _ours(experiment)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = [*experiment.labels, *(f"paper {metric}" for metric in metrics)]
    writer.writerow([*head, *(part for n in ours for part in (n, f"{n} low", f"{n} high", f"{n} n")), "seeds", "state"])
    for row, published in zip(experiment.rows, experiment.published, strict=True):
        values = {one.metric: one.value for one in reversed(published)}
        cells = [spelled(row.settings.get(key)) for key in experiment.labels] + [
            values.get(metric) for metric in metrics
        ]
        for name in ours:
            found = row.numbers.get(name)
            cells += [found.value, found.low, found.high, found.n] if found else [None] * 4
        writer.writerow([*cells, len(row.seeds), row.state])
    return text.getvalue()


def _metrics(experiment: Experiment) -> list[str]:
    return list(dict.fromkeys(one.metric for published in experiment.published for one in published))


def _ours(experiment: Experiment) -> list[str]:
    found = list(dict.fromkeys(column for row in experiment.rows for column in row.numbers))
    return sorted(found, key=lambda column: ORDER.index(column) if column in ORDER else len(ORDER))


def _pairs(metrics: Sequence[str], ours: Sequence[str]) -> list[tuple[str, str]]:
    """(the paper's metric, our column): success first, then each metric of the paper with the same one of ours."""
    left = list(ours)
    pairs = [("", left.pop(left.index("asr")))] if "asr" in left else []
    for metric in metrics:
        same = Published(metric, 0.0).column
        pairs.append((metric, left.pop(left.index(same)) if same in left else ""))
    return [*pairs, *(("", column) for column in left)]


def _published(found: Sequence[Published]) -> Entry:
    if not found:
        return Entry("–")
    notes = tuple(("in the paper", f"{_as_printed(one.value)}; {one.note}") for one in found if one.note)
    return Entry(_as_printed(found[0].value), found[0].value, "", notes)


def _as_printed(value: float) -> str:
    """Without digits that the paper does not give."""
    return number(value) if value and abs(value) < 1e-3 else f"{value:g}"


def _is_numeric(experiment: Experiment, key: str) -> bool:
    return all(isinstance(row.settings.get(key), int | float | None) for row in experiment.rows)
