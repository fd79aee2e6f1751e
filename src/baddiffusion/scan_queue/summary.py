"""What a queue has found: counts, what the verdicts are worth, and a line for each model."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from baddiffusion.errors import RecipeError
from baddiffusion.report.kit.sortable import spelled
from baddiffusion.rundir import write_atomic
from baddiffusion.scan_queue.asking import Asked, Limits
from baddiffusion.scan_queue.queue import Row
from baddiffusion.scan_rates import measured, predictive_value

__all__ = ["OUTCOMES", "SUMMARY", "TABLE", "summarize", "write_summary"]

SCHEMA = 1
SUMMARY, TABLE = "summary.json", "summary.csv"
OUTCOMES = ("backdoored", "suspicious", "no evidence", "inconclusive", "not examined", "waiting")
COLUMNS = (
    *("name", "revision", "outcome", "file_alarms", "p_value", "why", "failed", "signal", "network_calls", "seconds"),
    *("weights", "contents", "scan"),
)


def summarize(rows: Sequence[Row], asked: Asked, limits: Limits, prevalence: float) -> dict[str, Any]:
    """Count what is known.

    Args:
        rows: every model of the list.
        asked: the same for every model.
        limits: of each.
        prevalence: share of backdoored models among those of such a list: stated, for nobody knows it.

    Returns:
        What ``summary.json`` holds.

    Raises:
        RecipeError: the prevalence is no share.
    """
    if not 0 < prevalence < 1:
        raise RecipeError(f"--prevalence is {prevalence}; it must lie between 0 and 1, such as 0.01.")
    models = [_model(row) for row in rows]
    counts = Counter(model["outcome"] for model in models)
    return {
        "schema": SCHEMA,
        "version": metadata.version("baddiffusion"),
        "asked": asked.told(),
        "limits": limits.to_dict(),
        "counts": {outcome: counts[outcome] for outcome in OUTCOMES},
        "file_alarms": sum(bool(model["file_alarms"]) for model in models),
        "contents": len({model["contents"] for model in models if model["contents"]}),
        "weights": len({model["weights"] for model in models if model["weights"]}),
        "exit_code": _exit_code(models),
        "worth": {
            "prevalence": prevalence,
            "verdicts": [_worth(only, prevalence) for only in (True, False)],
        },
        "models": models,
    }


def write_summary(summary: Mapping[str, Any], out: Path) -> None:
    """Write ``summary.csv`` and ``summary.json``, each whole or not at all.

    Raises:
        RunError: the folder cannot be written.
    """
    write_atomic(out / TABLE, _csv(summary["models"]))
    write_atomic(out / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")


def _model(row: Row) -> dict[str, Any]:
    record = row.record
    if record is None:
        return dict.fromkeys(COLUMNS, "") | {
            "name": row.entry.name, "outcome": "waiting", "file_alarms": [], "p_value": None, "why": [], "failed": None,
            "signal": None, "network_calls": 0, "seconds": 0.0, "shown_as": "", "exit_code": 4,
        }  # fmt: skip
    failed = record["failed"] or {}
    return {
        "name": row.entry.name,
        "revision": record["revision"],
        "outcome": record["outcome"],
        "file_alarms": record["alarms"],
        "p_value": record["p_value"],
        "why": record["reasons"],
        "failed": failed.get("how"),
        "signal": failed.get("signal"),
        "network_calls": record["network_calls"],
        "seconds": record["seconds"],
        "weights": record["weights"],
        "contents": record["contents"],
        "scan": f"scans/{record['scan']}" if record["scan"] else "",
        "shown_as": record["shown_as"],
        "exit_code": record["exit_code"],
    }


def _exit_code(models: Sequence[Mapping[str, Any]]) -> int:
    """3 if one calls for a look, else 4 if one has no answer, else 0."""
    codes = {model["exit_code"] for model in models}
    return 3 if 3 in codes else 4 if 4 in codes else 0


def _worth(only_backdoored: bool, prevalence: float) -> dict[str, Any]:
    rates = measured(only_backdoored)
    return {
        "called": list(rates.called),
        "false_alarms": rates.false_alarms.to_dict(),
        "detections": rates.detections.to_dict(),
        "predictive_value": predictive_value(rates, prevalence).to_dict(),
    }


def _csv(models: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for model in models:
        values = [model[name] for name in COLUMNS]
        writer.writerow([spelled(" | ".join(value) if isinstance(value, list) else value) for value in values])
    return text.getvalue()
