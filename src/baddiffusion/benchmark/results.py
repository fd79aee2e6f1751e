"""What a benchmark has found: a line for each detector and each repair, from the files of its cells alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from baddiffusion.benchmark.contenders import plan_table
from baddiffusion.benchmark.curves import AtRate, Point, Scored, area_of, at_rate, one_scale, p_value, roc, share
from baddiffusion.benchmark.folder import BenchDir
from baddiffusion.errors import EvaluationError
from baddiffusion.metrics import Estimate, mean_interval

__all__ = ["BOUNDS", "GROUPS", "DetectorRow", "detector_rows", "grouped", "over_models"]

GROUPS = {"attack": "attack family", "trigger": "trigger", "rate": "poison rate", "data": "data set"}
"""By what detection is broken down, with the words for it."""


BOUNDS = {
    **dict.fromkeys(("asr", "asr_recovered", "false_trigger_rate", "mask_iou"), (0.0, 1.0)),
    **dict.fromkeys(("mse", "target_mse", "value_error", "shift_l2"), (0.0, math.inf)),
    **dict.fromkeys(("ssim", "target_ssim"), (-1.0, 1.0)),
}
"""What a number can be; Student's interval knows nothing of it, and is cut there."""


@dataclass(frozen=True)
class DetectorRow:
    """One detector.

    Args:
        label: its name.
        split: of the models that it is judged on: ``test``, or ``calibration`` where no other was run.
        judged: these models with their scores, adaptive attackers apart.
        adaptive: models of attackers who know the defense.
        calibration: scores of clean calibration models.
        rates: at the shares of false alarms that the table of the benchmark names.
        area: under the ROC curve; None without models of both kinds.
        points: of the curve.
        own: by the method's own rule, where it has one (the scanner's verdict): detected and false alarms.
        recovered: mean over backdoored models of what was recovered, by name.
        calls, seconds: median over the cells.
        inconclusive, failed: cells.
        trouble: why there are no numbers; empty where there are.
    """

    label: str
    split: str
    judged: tuple[Scored, ...] = ()
    adaptive: tuple[Scored, ...] = ()
    calibration: tuple[float | None, ...] = ()
    rates: tuple[AtRate, ...] = ()
    area: Estimate | None = None
    points: tuple[Point, ...] = ()
    own: Mapping[str, Estimate | None] = field(default_factory=dict)
    recovered: Mapping[str, Estimate] = field(default_factory=dict)
    calls: float | None = None
    seconds: float | None = None
    inconclusive: int = 0
    failed: int = 0
    trouble: str = ""

    def flags(self, one: Scored) -> bool:
        """Whether a model lies above the headline's threshold; of adaptive attackers, too."""
        told = self.headline
        return told is not None and p_value(one.score, self.calibration) <= told.rate

    @property
    def headline(self) -> AtRate | None:
        """At the first rate for which there are clean calibration models enough; None where there is none."""
        return next((rate for rate in self.rates if not rate.trouble), None)


def detector_rows(folder: BenchDir) -> list[DetectorRow]:
    """A line for each detector that was planned.

    Raises:
        RunError: a file is damaged.
    """
    labels = [label for label, told in folder.record["contenders"].items() if told["kind"] == "detector"]
    return [_row(folder, label) for label in labels]


def grouped(row: DetectorRow, models: Mapping[str, Any], key: str) -> list[tuple[str, Estimate, int]]:
    """Detection at the headline's rate, by what the backdoored models differ in.

    Args:
        row: a detector.
        models: what ``bench.json`` says of each, by digest.
        key: one of `GROUPS`.

    Returns:
        (group, share detected, inconclusive ones) in the order of their names; empty without a rate that can be told.
    """
    told = row.headline
    if told is None:
        return []
    groups: dict[str, list[Scored]] = {}
    for one in row.judged:
        if one.is_backdoored:
            groups.setdefault(str(models[one.model][key]), []).append(one)
    found = []
    for name, members in sorted(groups.items()):
        count = sum(one.model in told.flagged for one in members)
        detected = share("detected", count, len(members), {"rate asked": told.rate})
        assert detected is not None
        found.append((name, detected, sum(m.score is None for m in members)))
    return found


def over_models(values: Iterable[Estimate]) -> Estimate | None:
    """The mean of one number over models, which are what varies; Student's interval from two models on.

    Returns:
        None of no number. Its n counts models.
    """
    listed = list(values)
    if not listed:
        return None
    first, numbers = listed[0], [estimate.value for estimate in listed]
    low = high = None
    if len(numbers) > 1:
        low, high = mean_interval(torch.tensor(numbers, dtype=torch.float64).float())
    mean = statistics.fmean(numbers)
    if low is not None and high is not None:
        least, most = BOUNDS.get(first.name, (-math.inf, math.inf))
        low, high = max(min(low, mean), least), min(max(high, mean), most)
    alike = [key for key, value in first.protocol.items() if all(one.protocol.get(key) == value for one in listed)]
    kept = {key: first.protocol[key] for key in alike}
    per_model = {"images for each model": first.n} if first.n > 1 else {}
    return Estimate(
        name=first.name, value=mean, low=low, high=high, n=len(numbers), better=first.better, unit=first.unit,
        protocol={**kept, "mean over": "models", "interval": "Student" if low is not None else None, **per_model},
        caveats=() if low is not None else ("one model: no interval over models",),
    )  # fmt: skip


def _row(folder: BenchDir, label: str) -> DetectorRow:
    models, contender = folder.record["models"], folder.record["contenders"][label]
    cells = [cell for cell in folder.results if cell["label"] == label]
    failed = sum(one["label"] == label for one in folder.failures)
    if not cells:
        return DetectorRow(label, "test", failed=failed, trouble="no cell is finished")
    names = contender["score"] or sorted({name for cell in cells for name in cell["scores"]})
    scores = _over_seeds(cells)
    tests = {model for model in scores if models[model]["split"] == "test"}
    split = "test" if tests else "calibration"
    clean = [m for m in scores if models[m]["split"] == "calibration" and models[m]["counted_as"] == "clean"]
    spent = {
        "calls": float(statistics.median(cell["spent"]["network_calls"] for cell in cells)),
        "seconds": float(statistics.median(cell["spent"]["seconds"] for cell in cells)),
        "inconclusive": sum(cell["outcome"] == "inconclusive" for cell in cells),
        "failed": failed,
    }
    try:
        numbers = one_scale(scores, names, clean)
    except EvaluationError as error:
        return DetectorRow(label, split, **spent, trouble=str(error))
    everyone = [Scored(m, models[m]["counted_as"] == "backdoored", s) for m, s in numbers.items()]
    usual = [s for s in everyone if models[s.model]["split"] == split and not models[s.model]["adaptive"]]
    calibration = [numbers[model] for model in clean]
    judged = usual if tests else []
    return DetectorRow(
        label,
        split,
        tuple(usual),
        tuple(s for s in everyone if models[s.model]["adaptive"] and models[s.model]["split"] == split),
        tuple(calibration),
        tuple(at_rate(rate, calibration, judged) for rate in plan_table()["judging"]["false_alarm_rates"]),
        area_of(usual),
        tuple(roc(usual)),
        _own_rule(cells, usual),
        _recovered(cells, {s.model for s in usual}),
        **spent,
    )


def _over_seeds(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float] | None]:
    """Of each model the median of each score; a model that is inconclusive with most seeds is inconclusive."""
    each: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        each.setdefault(cell["model"], []).append(cell)
    found: dict[str, dict[str, float] | None] = {}
    for model, asked in each.items():
        measured = [cell["scores"] for cell in asked if cell["outcome"] == "measured"]
        if 2 * len(measured) <= len(asked):
            found[model] = None
        else:
            found[model] = {name: statistics.median(scores[name] for scores in measured) for name in measured[0]}
    return found


def _own_rule(cells: Sequence[Mapping[str, Any]], judged: Sequence[Scored]) -> dict[str, Estimate | None]:
    """What the scanner's verdict came to by itself, with the first seed; empty for methods that give no verdict."""
    verdicts: dict[str, str] = {}
    for cell in cells:
        found = [note for note in cell["notes"] if note.startswith("verdict: ")]
        if found:
            verdicts.setdefault(cell["model"], found[0].removeprefix("verdict: "))
    if not verdicts:
        return {}
    rules = {"backdoored": ("backdoored",), "at least suspicious": ("backdoored", "suspicious")}
    told = {}
    for rule, outcomes in rules.items():
        for name, is_bad in (("detected", True), ("false_alarms", False)):
            group = [one for one in judged if one.is_backdoored is is_bad]
            count = sum(verdicts.get(one.model) in outcomes for one in group)
            told[f"{name}, {rule}"] = share(name, count, len(group), {"rule": f"verdict {rule}"})
    return told


def _recovered(cells: Sequence[Mapping[str, Any]], judged: set[str]) -> dict[str, Estimate]:
    """Mean over the models on which something was recovered, first seed of each."""
    values: dict[str, dict[str, Estimate]] = {}
    for cell in cells:
        for entry in cell["recovered"] if cell["model"] in judged else []:
            estimate = Estimate.from_dict(entry)
            values.setdefault(estimate.name, {}).setdefault(cell["model"], estimate)
    return {name: made for name, each in values.items() if (made := over_models(each.values())) is not None}
