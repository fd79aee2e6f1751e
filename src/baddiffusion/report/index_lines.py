"""What an index says of each folder: how far it is, and what came out, in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from baddiffusion.benchmark.folder import BenchDir
from baddiffusion.errors import RunError
from baddiffusion.report.folders import Kind
from baddiffusion.report.kit.settings_words import joined
from baddiffusion.report.kit.wording import target_words, trigger_words
from baddiffusion.report.purify.words import headline
from baddiffusion.report.reproduction.reading import experiment_files, read_experiment
from baddiffusion.report.run.reading import RunFiles
from baddiffusion.report.sweep.cells import main_numbers
from baddiffusion.report.sweep.comparison import read_sweep
from baddiffusion.report.sweep.findings import Findings, fired_in

__all__ = ["told"]

Told = tuple[str, str]
"""How far it is, in a word or in numbers; and what came out."""


def told(kind: Kind, folder: Path) -> Told:
    """How far a folder is, and what came out.

    Args:
        kind: what the folder is.
        folder: where.

    Raises:
        RunError: it is damaged, or of another version.
    """
    return TELLERS[kind.name](folder)


def _run(folder: Path) -> Told:
    files = RunFiles(folder)
    first, numbers = files.backdoors[0], main_numbers(files)
    words = f"{trigger_words(first['trigger'])} → {target_words(first['target'])}"
    said = f"{words}: fired in {fired_in(numbers['asr'])}" if "asr" in numbers else words
    return str(files.record.get("status", "unknown")), said


def _sweep(folder: Path) -> Told:
    comparison = read_sweep(folder)
    said = Findings(comparison.rows, comparison.varied).title
    return f"{len(comparison.done)} of {len(comparison.cells)} runs done", said


def _matrix(folder: Path) -> Told:
    record = _json(folder / "matrix.json")
    done = sum(cell["status"] == "done" for cell in record["cells"])
    said = f"{len(record['rows'])} backdoors under {len(record['columns'])} sampler settings"
    return f"{done} of {len(record['cells'])} cells done", said


def _benchmark(folder: Path) -> Told:
    bench = BenchDir.read(folder)
    cells, models = len(bench.record["cells"]), len(bench.record["models"])
    said = f"{len(bench.record['contenders'])} defenses on {models} models"
    return f"{cells - len(bench.missing)} of {cells} cells done", said


def _scan(folder: Path) -> Told:
    record = _json(folder / "scan.json")
    return str(record["verdict"]["outcome"]), f"{record['name']}: {' '.join(record['verdict']['reasons'])}"


def _queue(folder: Path) -> Told:
    counts = _json(folder / "summary.json")["counts"]
    return f"{sum(counts.values())} models", joined(
        [f"{count} {outcome}" for outcome, count in counts.items() if count]
    )


def _repair(folder: Path) -> Told:
    receipt = _json(folder / "receipt.json")
    return str(receipt["outcome"]), headline(receipt)


def _reproduction(folder: Path) -> Told:
    experiments = [read_experiment(path, folder.parent) for path in experiment_files(folder)]
    rows = [row for experiment in experiments for row in experiment.rows]
    said = joined([experiment.title for experiment in experiments])
    return f"{sum(bool(row.numbers) for row in rows)} of {len(rows)} rows measured", said


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}); give its command again.") from None


TELLERS: dict[str, Callable[[Path], Told]] = {
    "run": _run,
    "sweep": _sweep,
    "matrix": _matrix,
    "benchmark": _benchmark,
    "scan": _scan,
    "queue of scans": _queue,
    "repair": _repair,
    "reproduction": _reproduction,
}
