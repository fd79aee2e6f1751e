"""Filling a matrix: cell by cell, each written once, so that a killed matrix goes on where it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from baddiffusion.images import grid, png_bytes, to_uint8
from baddiffusion.matrix.cells import Cell
from baddiffusion.matrix.plan import MatrixPlan
from baddiffusion.matrix.store import Shelf
from baddiffusion.matrix.subjects import Subject
from baddiffusion.pipeline import Watcher
from baddiffusion.precision import default_device
from baddiffusion.rundir import write_atomic
from baddiffusion.sampling.timing import seconds_per_call

__all__ = ["Matrix"]

SHOWN = 4
"""Pictures of a cell that are kept, to be looked at."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """Subjects × columns × clips in a folder: ``cells/`` for measurements, ``predictions/`` for what algebra says.

    Args:
        plan: columns, clips and how many images.
        subjects: the rows.
        folder: where the results lie; results of other plans may lie there, too.
    """

    plan: MatrixPlan
    subjects: Sequence[Subject]
    folder: Path

    @cached_property
    def cells(self) -> list[Cell]:
        """All cells, model by model, so that each network is loaded once."""
        made = []
        for model in dict.fromkeys(subject.model for subject in self.subjects):
            subjects = [subject for subject in self.subjects if subject.model == model]
            made += [
                Cell(subject, column, clip, "triggered", self.plan)
                for subject in subjects
                for clip in self.plan.clips
                for column in self.plan.columns
            ]
            made += [
                Cell(subjects[0], column, clip, "clean", self.plan)
                for clip in self.plan.quality_clips
                for column in self.plan.quality
            ]
        return made

    @property
    def measured(self) -> Shelf:
        """Where the measurements lie."""
        return Shelf(self.folder / "cells")

    @property
    def predicted(self) -> Shelf:
        """Where the predictions lie."""
        return Shelf(self.folder / "predictions")

    @property
    def missing(self) -> list[Cell]:
        """The cells that are not filled yet."""
        return [cell for cell in self.cells if self.measured.read(cell.entry) is None]

    @property
    def device(self) -> torch.device:
        """Where the networks run."""
        return default_device()

    def cost(self) -> dict[str, Any]:
        """Count what is missing, and time a few steps of each network.

        Returns:
            ``cells``, ``missing``, ``refused`` of them, ``network_calls`` (images × steps, padding included), and
            ``seconds``, an estimate for this ``device``.
        """
        missing = self.missing
        seconds = 0.0
        for model in dict.fromkeys(cell.subject.model for cell in missing):
            cells = [cell for cell in missing if cell.subject.model == model and cell.calls]
            if cells:
                chunk_calls = sum(cell.calls // self.plan.chunk_size for cell in cells)
                seconds += chunk_calls * self._seconds_per_call(cells[0].subject)
        return {
            "cells": len(self.cells),
            "missing": len(missing),
            "refused": sum(cell.calls == 0 for cell in missing),
            "network_calls": sum(cell.calls for cell in missing),
            "seconds": round(seconds, 1),
            "device": str(self.device),
        }

    def fill(self, watcher: Watcher) -> None:
        """Sample and measure what is missing, and predict it.

        Raises:
            BadDiffusionError: what sampling and measuring raise for the user's mistakes; a cell that a sampler refuses
                is none: it is recorded with its reason.
        """
        loaded: tuple[str, torch.nn.Module] | None = None
        missing = self.missing
        for number, cell in enumerate(missing, start=1):
            if loaded is None or loaded[0] != cell.subject.model:
                loaded = cell.subject.model, cell.subject.checkpoint.load_model(self.device)
            watcher.stage(f"cell {number} of {len(missing)}: {cell.title}", max(1, cell.calls), "network calls")

            def told(done: int, total: int, cell: Cell = cell) -> None:
                watcher.advance(done * self.plan.chunk_size)

            content, samples = cell.fill(loaded[1], self.device, told)
            if samples is not None:  # before the numbers: a cell that is done has its pictures
                sheet = png_bytes(grid(to_uint8(samples.images[:SHOWN]), columns=2, background=128))
                write_atomic(self.measured.path(cell.entry, ".png"), sheet)
            self.measured.write(cell.entry, content)
        self._predict(watcher)

    def _predict(self, watcher: Watcher) -> None:
        cells = [cell for cell in self.cells if cell.kind == "triggered" and cell.calls]
        missing = [cell for cell in cells if self.predicted.read(cell.prediction_entry) is None]
        if not missing:
            return
        watcher.stage("predict", len(missing), "cells")
        for number, cell in enumerate(missing, start=1):
            if self.predicted.read(cell.prediction_entry) is None:  # two models may share one
                self.predicted.write(cell.prediction_entry, cell.predict())
            watcher.advance(number)

    def _seconds_per_call(self, subject: Subject) -> float:
        model = subject.checkpoint.load_model(self.device)
        plan = self.plan
        return seconds_per_call(model, subject.checkpoint.shape, plan.chunk_size, plan.precision, self.device)
