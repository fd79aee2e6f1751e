"""What a benchmark has found about repairs, and about what attackers pay for evading."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from baddiffusion.benchmark.folder import BenchDir
from baddiffusion.benchmark.results import over_models
from baddiffusion.metrics import Estimate

__all__ = ["AttackerRow", "RepairRow", "attacker_rows", "repair_rows"]

NUMBERS = (
    ("asr", "triggered"),
    ("mse", "triggered"),
    ("ssim", "triggered"),
    ("false_trigger_rate", "clean"),
    ("kd_efflite0", "clean"),
)


@dataclass(frozen=True)
class RepairRow:
    """One repair, over the backdoored models that it was tried on.

    Args:
        label: its name.
        models: how many.
        before, after: means over the models, by name.
        changes: means over the models of after − before, paired, by name.
        recovered: the success rate under the trigger that a scan recovered before, by ``before`` and ``after``.
        verdicts: of the fresh scans, with their counts.
        calls: of the repair alone, median.
        seconds: likewise.
        failed: cells.
        given: what else it was given.
    """

    label: str
    models: int
    before: Mapping[str, Estimate] = field(default_factory=dict)
    after: Mapping[str, Estimate] = field(default_factory=dict)
    changes: Mapping[str, Estimate] = field(default_factory=dict)
    recovered: Mapping[str, Estimate] = field(default_factory=dict)
    verdicts: Mapping[str, int] = field(default_factory=dict)
    calls: float | None = None
    seconds: float | None = None
    failed: int = 0
    given: str = ""


@dataclass(frozen=True)
class AttackerRow:
    """One kind of attacker, with what evading costs: success and quality of the models that it makes.

    Args:
        name: attack family, or what an adaptive attacker does.
        is_adaptive: whether it was made to evade.
        models: how many.
        asr: under its own sampler, mean over models.
        quality: of ordinary pictures (``kd_efflite0``), where the control was run.
        twin_quality: the same of the clean twins.
        price: what else it takes to make them, in words.
    """

    name: str
    is_adaptive: bool
    models: int
    asr: Estimate | None
    quality: Estimate | None
    twin_quality: Estimate | None
    price: str = ""


def repair_rows(folder: BenchDir) -> list[RepairRow]:
    """A line for each repair that was planned; models of adaptive attackers are left to `attacker_rows`.

    Raises:
        RunError: a file is damaged.
    """
    labels = [label for label, told in folder.record["contenders"].items() if told["kind"] == "repair"]
    return [_row(folder, label) for label in labels]


def attacker_rows(folder: BenchDir) -> list[AttackerRow]:
    """A line for each attack family and each adaptive attacker."""
    models, rows = folder.record["models"], []
    quality = {
        cell["model"]: found
        for cell in folder.results
        if cell["label"] == "no-repair" and (found := _numbers(cell["after"]).get("kd_efflite0")) is not None
    }
    twins = {told["pair"]: model for model, told in models.items() if told["counted_as"] == "clean" and told["pair"]}
    groups: dict[tuple[bool, str], list[str]] = {}
    for model, told in models.items():
        if told["counted_as"] == "backdoored":
            groups.setdefault((bool(told["adaptive"]), told["adaptive"] or told["attack"]), []).append(model)
    for (is_adaptive, name), members in sorted(groups.items()):
        others = [twins[pair] for model in members if model in quality and (pair := models[model]["pair"]) in twins]
        rows.append(
            AttackerRow(
                name,
                is_adaptive,
                len(members),
                over_models(Estimate.from_dict(models[model]["asr"]) for model in members),
                over_models(quality[model] for model in members if model in quality),
                over_models(quality[model] for model in others if model in quality),
                "; ".join(dict.fromkeys(models[model]["price"] for model in members if "price" in models[model])),
            )
        )
    return rows


def _row(folder: BenchDir, label: str) -> RepairRow:
    models = folder.record["models"]
    cells: dict[str, dict[str, Any]] = {}
    for cell in folder.results:
        told = models[cell["model"]]
        if cell["label"] == label and told["counted_as"] == "backdoored" and not told["adaptive"]:
            cells.setdefault(cell["model"], cell)  # the first seed
    failed = sum(one["label"] == label for one in folder.failures)
    if not cells:
        return RepairRow(label, 0, failed=failed)
    each = list(cells.values())
    sides = {side: [_numbers(cell[side]) for cell in each] for side in ("before", "after")}
    means = {
        side: {n: mean for n, _ in NUMBERS if (mean := over_models(f[n] for f in found if n in f)) is not None}
        for side, found in sides.items()
    }
    under: dict[str, list[Estimate]] = {"before": [], "after": []}
    for cell in each:
        for entry in cell["recovered"]:
            under[entry["protocol"]["model"]].append(Estimate.from_dict(entry))
    return RepairRow(
        label,
        len(each),
        means["before"],
        means["after"],
        _changes(sides["before"], sides["after"]),
        {side: mean for side, found in under.items() if (mean := over_models(found)) is not None},
        dict(Counter(cell["after"]["verdict"] for cell in each)),
        float(statistics.median(cell["spent"]["network_calls"] for cell in each)),
        float(statistics.median(cell["spent"]["seconds"] for cell in each)),
        failed,
        _given(each),
    )


def _numbers(side: Mapping[str, Any]) -> dict[str, Estimate]:
    kinds = dict(NUMBERS)
    return {
        entry["name"]: Estimate.from_dict(entry)
        for entry in side["estimates"]
        if kinds.get(entry["name"]) == entry["protocol"].get("kind")
    }


def _changes(before: list[dict[str, Estimate]], after: list[dict[str, Estimate]]) -> dict[str, Estimate]:
    """Model by model, so that what differs between models does not widen the interval."""
    made = {}
    for name, _ in NUMBERS:
        apart = [
            replace(b[name], value=b[name].value - a[name].value, low=None, high=None)
            for a, b in zip(before, after, strict=True)
            if name in a and name in b
        ]
        mean = over_models(apart)
        if mean is not None:
            made[name] = replace(mean, name=f"{name}_change")
    return made


def _given(cells: list[dict[str, Any]]) -> str:
    given = [cell["given"] for cell in cells]
    most = max(entry["clean pictures"] for entry in given)
    shifts = sum(entry["recovered shift"] for entry in given)
    said = [f"up to {most} clean pictures"] if most else []
    said += [f"the shift that the scan recovered, on {shifts} of {len(cells)} models"] if shifts else []
    said += ["the clean twin: same initial weights, no poison"] if any(entry["sibling"] for entry in given) else []
    return "; ".join(said) or "nothing but the model"
