"""Filling a cell: the method sees the sealed model, the benchmark compares what it answers with the truth."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from baddiffusion.benchmark.cells import BenchCell
from baddiffusion.benchmark.recovery import recovered
from baddiffusion.benchmark.state import Found, measure, measure_once, success_of
from baddiffusion.defending import CleanPictures, needs_sibling
from baddiffusion.defenses import Detector, Repair
from baddiffusion.rng import derive
from baddiffusion.watching import Nobody, Watcher

__all__ = ["fill", "fill_detection", "fill_repair"]

RESCAN = 2**31
"""Seeds of scans after a repair lie below; derived, so that they are those of no scan before."""


def fill(cell: BenchCell, folder: Path, watcher: Watcher | None = None) -> dict[str, Any]:
    """Measure what a cell stands for.

    Args:
        cell: which.
        folder: of the benchmark, where what all repairs of a model have in common is kept.
        watcher: is told how far the work is.

    Returns:
        The content of the cell's file.

    Raises:
        EvaluationError: the method answered without a score, or with one that is NaN or infinite.
        BadDiffusionError: what the method raises.
    """
    watcher = watcher or Nobody()
    made = fill_detection(cell, watcher) if cell.contender.is_detector else fill_repair(cell, folder, watcher)
    return {**cell.to_dict(), "budget": cell.contender.budget, **made, "made_with": _made_with()}


def fill_detection(cell: BenchCell, watcher: Watcher) -> dict[str, Any]:
    """Ask a detector about one model, and see how near it came."""
    method, specimen = cell.contender.method, cell.specimen
    assert isinstance(method, Detector)
    data = cell.measuring.pictures(specimen, cell.seed).pixels if method.needs_data else None
    detection = method.inspect(specimen.sealed, cell.seed, data, watcher=watcher)
    is_bad = specimen.truth.counted_as == "backdoored"
    near = recovered(detection, specimen.truth.implant) if is_bad else []
    return {
        "outcome": detection.outcome,
        "scores": dict(detection.scores),
        "recovered": [estimate.to_dict() for estimate in near],
        "spent": detection.spent.to_dict(),
        "notes": list(detection.notes),
    }


def fill_repair(cell: BenchCell, folder: Path, watcher: Watcher) -> dict[str, Any]:
    """Measure a model, repair it, measure what came of it in the same way."""
    measuring, specimen, seed = cell.measuring, cell.specimen, cell.seed
    clean, model = measuring.pictures(specimen, seed), specimen.sealed
    yardstick = measuring.yardstick(specimen, clean)
    identity = {"model": specimen.digest, "seed": seed, "measured": measuring.to_dict()}
    identity |= {"data": measuring.data_words(specimen)}
    before = measure_once(folder / "before", model, identity, yardstick, measuring, seed, watcher)
    method = _bound(cell, before.found)
    data = _allowed(method, clean)
    repaired = method.repair(model, data, seed, watcher=watcher)
    fresh = derive(seed, "scan after a repair") % RESCAN
    after = measure(repaired.model, yardstick, measuring, fresh, "after", watcher)
    target = specimen.truth.implant.target
    each = [("before", model), ("after", repaired.model)] if before.found is not None else []
    under = [success_of(before.found, sealed, target, measuring, title) for title, sealed in each if before.found]
    return {
        "before": before.to_dict(),
        "after": after.to_dict(),
        "recovered": [estimate.to_dict() for estimate in under],
        "spent": repaired.spent.to_dict(),
        "given": {
            "recovered shift": hasattr(method, "with_shifts") and before.found is not None,
            "clean pictures": 0 if data is None else len(data),
            "sibling": cell.sibling.digest if cell.sibling is not None else None,
        },
        "notes": list(repaired.notes),
    }


def _bound(cell: BenchCell, found: Found | None) -> Repair:
    """Give a repair what it works on: a clean sibling, or the shift that the scan recovered. Never the true trigger."""
    method: Any = cell.contender.method
    if needs_sibling(type(method)):
        assert cell.sibling is not None  # `plan_cells` makes no such cell
        method = method.with_sibling(cell.sibling.sealed)
    if found is not None and hasattr(method, "with_shifts"):
        method = method.with_shifts(found.shift[None], found.target)
    assert isinstance(method, Repair)
    return method


def _allowed(method: Repair, clean: CleanPictures) -> torch.Tensor | None:
    return clean.pixels if method.needs_data else None


def _made_with() -> dict[str, Any]:
    versions = {name: metadata.version(name) for name in ("baddiffusion", "torch", "diffusers")}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    device = gpu or f"cpu ({platform.machine()}), {torch.get_num_threads()} threads"
    return {"device": device, "versions": versions}
