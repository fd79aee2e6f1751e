"""What is claimed of a method, one file each: what its paper reports, beside what was measured here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from baddiffusion.benchmark.folder import BenchDir
from baddiffusion.benchmark.repair_results import RepairRow, repair_rows
from baddiffusion.benchmark.results import DetectorRow, detector_rows
from baddiffusion.errors import EvaluationError
from baddiffusion.metrics import Estimate
from baddiffusion.rundir import write_atomic
from baddiffusion.settings import Settings

__all__ = ["SCHEMA", "Claim", "Measured", "Reported", "packaged_claims", "read_claims", "with_measured", "write_claims"]

SCHEMA = 1

Metric = Literal[
    "detected", "false_alarms", "auc", "mask_iou", "shift_l2", "target_mse", "asr_after", "asr_change",
    "quality_change",
]  # fmt: skip
"""``_after`` and ``_change`` are of repairs; quality is the paper's own distance there and ``kd_efflite0`` here."""


class Reported(Settings):
    """The paper's own number.

    Args:
        value: in [0, 1] for shares; None where the paper says it in words alone.
        words: what it says, short.
        citation: authors, title, venue, arXiv number.
        where: in that paper, or in the code that was read.
        read_in: how sure: ``paper`` and ``public code`` were read, ``abstract`` only that, ``third party`` is somebody
            else's report of it or re-evaluation.
    """

    value: float | None
    words: Annotated[str, Field(min_length=1)]
    citation: Annotated[str, Field(min_length=10)]
    where: Annotated[str, Field(min_length=3)]
    read_in: Literal["paper", "abstract", "public code", "third party"]


class Measured(Settings):
    """A number of ours, with all that is needed to read and to doubt it.

    Args:
        value, low, high, level, n, unit, protocol: as `Estimate` has them.
        label: of the method, ``-short`` below the published budget.
        seeds: of the method.
        hardware: what it ran on.
        cells: digests of the models, of the method's settings and of the seed, by file name.
        command: what runs these cells again.
    """

    value: float
    low: float | None
    high: float | None
    level: Annotated[float, Field(gt=0, lt=1)]
    n: Annotated[int, Field(ge=1)]
    unit: str
    protocol: dict[str, str | int | float | bool | None]
    label: str
    seeds: tuple[int, ...]
    hardware: tuple[str, ...]
    cells: Annotated[tuple[str, ...], Field(min_length=1)]
    command: str


class Claim(Settings):
    """One claim.

    Args:
        schema_version: 1.
        id: of the file, too: lower-case words with dashes.
        method: the registered name.
        metric: what is compared.
        setting: of the paper: data set, attack, budget, whatever decides the number.
        reported: None for methods of this package, of which no paper tells.
        measured: one for each budget that was run; null where none was.
        differs: how the two settings differ; no reader must guess.
    """

    schema_version: Literal[1] = 1
    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    method: Annotated[str, Field(min_length=2)]
    metric: Metric
    setting: dict[str, str]
    reported: Reported | None
    measured: tuple[Measured, ...] | None = None
    differs: Annotated[str, Field(min_length=10)]

    def to_json(self) -> str:
        """The text of its file."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def packaged_claims() -> list[Claim]:
    """Those that the package ships, by id."""
    return read_claims(Path(str(resources.files("baddiffusion") / "assets" / "claims")))


def read_claims(folder: Path) -> list[Claim]:
    """Read a folder of records.

    Raises:
        EvaluationError: a file is no record, or is named otherwise than its id.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith(".schema.json"):
            continue
        try:
            claim = Claim(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise EvaluationError(f"{path} is no record of a claim ({error}); see docs/benchmark.md.") from None
        if claim.id != path.stem:
            raise EvaluationError(f"{path} has id {claim.id!r}; name the file {claim.id}.json.")
        found.append(claim)
    return found


def with_measured(claims: Iterable[Claim], folder: BenchDir) -> list[Claim]:
    """Fill in what a benchmark has measured; a claim that it has no number for keeps what it has.

    Raises:
        RunError: a file of the benchmark is damaged.
    """
    rows: dict[str, DetectorRow | RepairRow] = {row.label: row for row in detector_rows(folder)}
    rows |= {row.label: row for row in repair_rows(folder)}
    made = []
    for claim in claims:
        labels = [label for label in (claim.method, f"{claim.method}-short") if label in rows]
        found = [m for label in labels if (m := _measured(claim.metric, rows[label], folder)) is not None]
        made.append(claim.model_copy(update={"measured": tuple(found)}) if found else claim)
    return made


def write_claims(claims: Iterable[Claim], folder: Path) -> None:
    """Write records, a file each.

    Raises:
        RunError: the folder cannot be written.
    """
    for claim in claims:
        write_atomic(folder / f"{claim.id}.json", claim.to_json())


def _measured(metric: Metric, row: DetectorRow | RepairRow, folder: BenchDir) -> Measured | None:
    estimate = _detector_number(metric, row) if isinstance(row, DetectorRow) else _repair_number(metric, row)
    if estimate is None:
        return None
    cells = [cell for cell in folder.results if cell["label"] == row.label]
    told = estimate.to_dict()
    seeds = sorted({cell["seed"] for cell in cells})
    return Measured(
        **{key: told[key] for key in ("value", "low", "high", "level", "n", "unit", "protocol")},
        label=row.label,
        seeds=tuple(seeds),
        hardware=tuple(sorted({cell["made_with"]["device"] for cell in cells})),
        cells=tuple(cell["name"] for cell in cells),
        command=f"baddiffusion bench --zoo zoo -o again --only {row.label} --seed {' '.join(map(str, seeds))}",
    )


def _detector_number(metric: Metric, row: DetectorRow) -> Estimate | None:
    at = row.headline
    if metric in ("detected", "false_alarms"):
        return None if at is None else at.detected if metric == "detected" else at.false_alarms
    return row.area if metric == "auc" else row.recovered.get(metric)


def _repair_number(metric: Metric, row: RepairRow) -> Estimate | None:
    if metric == "asr_after":
        return row.after.get("asr")
    name = {"asr_change": "asr", "quality_change": "kd_efflite0"}.get(metric)
    return row.changes.get(name) if name else None
