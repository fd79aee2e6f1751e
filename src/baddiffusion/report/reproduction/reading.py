"""What a reproduction wrote down: one file per experiment, the paper's numbers and ours row by row."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baddiffusion.errors import EvaluationError, RunError
from baddiffusion.metrics import Estimate
from baddiffusion.report.sweep.cells import CLIPPED, CellRun, Numbers
from baddiffusion.report.sweep.comparison import Row

__all__ = ["Experiment", "Published", "experiment_files", "read_experiment"]

SCHEMA = 1
SAME = {"FID": "fid", "MSE": "mse", "SSIM": "ssim", "LPIPS": "lpips", "IS": "inception_score", "KID": "kid"}
"""The paper's name of a metric, and ours of the same one."""


@dataclass(frozen=True)
class Published:
    """A number of the paper: ``metric`` in its words, ``note`` says what it depends on."""

    metric: str
    value: float
    note: str = ""

    @property
    def column(self) -> str:
        """What the same metric is called here."""
        return SAME.get(self.metric, self.metric.lower())


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Args:
        name: of its file.
        title: in words.
        paper: the tables and figures that it stands for.
        preset: ``mini`` or ``paper``.
        command: what makes it.
        rows: ours; their settings are the labels.
        published: the paper's numbers of each row.
        not_run: what was left out, in sentences.
        differs: in which respects it differs from the paper, in sentences.
        commands: by what runs them (or says why nothing does), the rows without numbers.
    """

    name: str
    title: str
    paper: tuple[str, ...]
    preset: str
    command: str
    rows: tuple[Row, ...]
    published: tuple[tuple[Published, ...], ...]
    not_run: tuple[str, ...]
    differs: tuple[str, ...] = ()
    commands: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that some row has."""
        return tuple(dict.fromkeys(key for row in self.rows for key in row.settings))

    @property
    def varied(self) -> tuple[str, ...]:
        """Labels that tell rows apart."""
        return tuple(key for key in self.labels if len({str(row.settings.get(key)) for row in self.rows}) > 1)

    @property
    def shared(self) -> dict[str, Any]:
        """Labels that are the same in every row."""
        return {key: self.rows[0].settings[key] for key in self.labels if key not in self.varied}

    def counted(self, state: str) -> int:
        """How many rows are in that state."""
        return sum(row.state == state for row in self.rows)

    @property
    def paper_rows(self) -> tuple[Row, ...]:
        """The paper's numbers as rows, for drawing: it gives no interval."""
        return tuple(
            Row(row.settings, {one.column: _drawable(one) for one in published}, "published", ())
            for row, published in zip(self.rows, self.published, strict=True)
        )


def experiment_files(folder: Path) -> list[Path]:
    """The files of a reproduction's folder that describe an experiment, or are damaged.

    A file that is no JSON counts where others are experiments: better one name too many than a result that vanished.
    """
    readable, torn = [], []
    for path in folder.glob("*.json"):
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError):
            torn.append(path)
            continue
        if isinstance(content, Mapping) and "experiment" in content:
            readable.append(path)
    return sorted(readable + torn) if readable or folder.name.startswith("reproduce-") else []


def read_experiment(path: Path, runs: Path) -> Experiment:
    """Read one file.

    Args:
        path: ``<experiment>.json``.
        runs: the folder with the run directories that the rows name.

    Raises:
        RunError: it is damaged, or was written by another schema.
    """
    try:
        stored = json.loads(path.read_text())
        if stored["schema"] != SCHEMA:
            raise RunError(
                f"{path.name} has schema {stored['schema']}; this version reads {SCHEMA}. Give its command again."
            )
        published = tuple(
            tuple(Published(str(p["metric"]), float(p["value"]), str(p.get("note") or "")) for p in row["paper"])
            for row in stored["rows"]
        )
        rows = tuple(_row(row, runs) for row in stored["rows"])
        commands: dict[str, tuple[Row, ...]] = {}
        for told, row in zip(stored["rows"], rows, strict=True):
            if told.get("command"):
                commands[str(told["command"])] = (*commands.get(str(told["command"]), ()), row)
        return Experiment(
            name=str(stored["experiment"]),
            title=str(stored["title"]),
            paper=tuple(map(str, stored["paper"])),
            preset=str(stored["preset"]),
            command=str(stored["command"]),
            rows=rows,
            published=published,
            not_run=tuple(map(str, stored["not_run"])),
            differs=tuple(map(str, stored.get("differs", ()))),
            commands=commands,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EvaluationError) as error:
        raise RunError(f"{path.name} is damaged ({error}); give the command again.") from None


def _row(row: Mapping[str, Any], runs: Path) -> Row:
    labels, state = dict(row["labels"]), str(row["state"])
    numbers: Numbers = {}
    for values in row["ours"]:
        estimate = Estimate.from_dict(values)
        numbers.setdefault(_column(estimate, numbers), estimate)
    if state == "measured" and labels.get("rate") == 0:
        state = "control"
    keys = () if row.get("snapshot") is not None else row.get("runs") or [row["run"]]
    cells = tuple(CellRun(str(key), labels, seed, runs / str(key)) for seed, key in enumerate(keys) if key)
    seeds = tuple(range(int(row["seeds"])))
    return Row(labels, numbers, state, seeds, cells if _is_theirs(numbers.get("asr"), cells) else ())


def _column(estimate: Estimate, taken: Numbers) -> str:
    """Its name; where a row has two of one name, what tells this one from the first; the epoch of a perturbation."""
    if "epoch" in estimate.protocol:
        return f"{estimate.name}, {estimate.protocol['epoch']}"
    first = taken.get(estimate.name)
    if first is None:
        return estimate.name
    if estimate.name == "asr" and estimate.protocol.get("clip") not in (None, "off"):
        return CLIPPED
    differing = [k for k, v in estimate.protocol.items() if first.protocol.get(k) != v and not isinstance(v, float)]
    said = [str(estimate.protocol[key]) for key in differing if key not in ("seeds", "device")]
    return f"{estimate.name}, {said[0] if said else len(taken)}"


def _is_theirs(success: Estimate | None, cells: Sequence[CellRun]) -> bool:
    """Whether a number was measured on the runs' own samples, and not under another sampler or clipping."""
    own = [cell.numbers["asr"] for cell in cells if "asr" in cell.numbers]
    if success is None or not own:
        return False
    return success in own or (len(own) > 1 and math.isclose(success.value, sum(one.value for one in own) / len(own)))


def _drawable(published: Published) -> Estimate:
    return Estimate(
        name=published.column, value=published.value, low=None, high=None, n=1, better="neither", unit=published.metric
    )
