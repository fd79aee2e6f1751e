"""The leaderboard as Markdown, for the docs."""

from __future__ import annotations

from baddiffusion.benchmark.claims import packaged_claims, with_measured
from baddiffusion.benchmark.folder import BenchDir
from baddiffusion.benchmark.repair_results import attacker_rows, repair_rows
from baddiffusion.benchmark.results import GROUPS, detector_rows
from baddiffusion.report.bench import tables
from baddiffusion.report.kit.markdown import markdown_table
from baddiffusion.report.sweep.sortable import Table

__all__ = ["bench_section"]


def bench_section(folder: BenchDir) -> str:
    """All tables but that of the cells, with what limits them.

    Args:
        folder: of a benchmark.

    Returns:
        Markdown; "Not run yet." where no cell is finished.
    """
    if not folder.results:
        return "Not run yet."
    detectors, models = detector_rows(folder), folder.record["models"]
    parts = [f"{len(folder.results)} of {len(folder.record['cells'])} cells are finished."]
    parts += [f"{row.label}: {row.trouble.rstrip('.')}." for row in detectors if row.trouble]
    limits = dict.fromkeys(rate.trouble for row in detectors for rate in row.rates if rate.trouble)
    parts += [f"{trouble}." for trouble in limits]
    parts += ["### Detectors", _markdown(tables.detectors_table(detectors))] if detectors else []
    for key, words in GROUPS.items():
        table = tables.groups_table(detectors, models, key, words)
        parts += [f"### Detected, by {words}", _markdown(table)] if table.lines else []
    repairs = repair_rows(folder)
    parts += ["### Repairs", _markdown(tables.repairs_table(repairs))] if repairs else []
    attackers = tables.attackers_table(attacker_rows(folder), detectors, models)
    parts += ["### Attackers", _markdown(attackers)] if attackers.lines else []
    parts += ["### Claims", _markdown(tables.claims_table(with_measured(packaged_claims(), folder)))]
    return "\n\n".join(parts)


def _markdown(table: Table) -> str:
    head = [column.title for column in table.columns]
    rows = [[_cell(entry.text, entry.interval) for entry in line.entries] for line in table.lines]
    return markdown_table([head, *rows])


def _cell(text: str, interval: str) -> str:
    said = f"{text} ({interval})" if interval else text
    return said.replace("|", "\\|") or "–"
