"""What a sweep has measured: one row for each setting, seeds taken together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baddiffusion.errors import EvaluationError
from baddiffusion.evaluation import Results
from baddiffusion.metrics import Estimate, over_seeds
from baddiffusion.sweep.directory import SweepDir

__all__ = ["Row", "headline", "summarize"]

QUALITY = ("fid", "kd_efflite0", "fd_efflite0")
SEED = "seed"


@dataclass(frozen=True)
class Row:
    """A setting of a sweep with its numbers.

    Args:
        settings: the varied keys; without the seed where several seeds stand behind the numbers.
        cells: keys of the cells behind it.
        seeds: of the cells that are measured.
        statuses: of all its cells.
        estimates: ``asr``, ``mse`` and ``quality``, as far as they are measured.
    """

    settings: dict[str, Any]
    cells: tuple[str, ...]
    seeds: tuple[int, ...]
    statuses: tuple[str, ...]
    estimates: Mapping[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        estimates = {name: estimate.to_dict() for name, estimate in self.estimates.items()}
        return {
            "settings": self.settings,
            "cells": list(self.cells),
            "seeds": list(self.seeds),
            "statuses": list(self.statuses),
            "estimates": estimates,
        }


def headline(run: Path) -> dict[str, Estimate]:
    """The numbers of a measured run that a sweep's table shows.

    Returns:
        ``asr`` and ``mse`` of the first triggered set, which is the attack's own, and ``quality`` of clean samples if
        it was asked for.

    Raises:
        EvaluationError: the run is not measured, or its numbers are damaged.
    """
    estimates = Results.read(run).estimates
    wanted = {"asr": (("asr",), "triggered"), "mse": (("mse",), "triggered"), "quality": (QUALITY, "clean")}
    found = {
        title: next((e for name in names for e in estimates if (e.name, e.protocol.get("kind")) == (name, kind)), None)
        for title, (names, kind) in wanted.items()
    }
    return {title: estimate for title, estimate in found.items() if estimate is not None}


def summarize(folder: SweepDir) -> list[Row]:
    """Collect the numbers of the finished cells; where cells differ in their seed only, over the seeds.

    Cells whose numbers were made in different ways, such as on other hardware, are not averaged: each keeps its row.

    Raises:
        EvaluationError: the numbers of a finished cell are damaged.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for cell in folder.cells:
        others = {key: value for key, value in cell["settings"].items() if key != SEED}
        groups.setdefault(json.dumps(others, sort_keys=True), []).append(cell)
    rows: list[Row] = []
    for cells in groups.values():
        measured = {
            cell["key"]: headline(folder.path.parent / cell["key"]) for cell in cells if cell["status"] == "done"
        }
        try:
            rows.append(_row(cells, measured))
        except EvaluationError:
            rows += [_row([cell], measured) for cell in cells]
    return rows


def _row(cells: list[dict[str, Any]], measured: Mapping[str, dict[str, Estimate]]) -> Row:
    done = [cell for cell in cells if cell["key"] in measured]
    seeds = [cell["seed"] for cell in done]
    several = len(cells) > 1
    estimates = {}
    for title in ("asr", "mse", "quality"):
        found = [(measured[cell["key"]][title], cell["seed"]) for cell in done if title in measured[cell["key"]]]
        if len(found) > 1:
            estimates[title] = over_seeds([estimate for estimate, _ in found], [seed for _, seed in found])
        elif found:
            estimates[title] = found[0][0]
    return Row(
        settings={key: value for key, value in cells[0]["settings"].items() if key != SEED or not several},
        cells=tuple(cell["key"] for cell in cells),
        seeds=tuple(seeds),
        statuses=tuple(cell["status"] for cell in cells),
        estimates=estimates,
    )
