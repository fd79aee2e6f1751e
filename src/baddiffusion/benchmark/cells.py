"""One cell: a method with its settings, on one model, with one seed. Its file is written once."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from baddiffusion.benchmark.contenders import Contender
from baddiffusion.benchmark.measuring import Measuring
from baddiffusion.benchmark.subjects import DIGITS, Subjects
from baddiffusion.defending import needs_sibling
from baddiffusion.matrix.store import Entry
from baddiffusion.zoo import Specimen, Split

__all__ = ["BenchCell", "plan_cells"]


@dataclass(frozen=True, eq=False)
class BenchCell:
    """A cell.

    Args:
        contender: the method.
        specimen: the model; a method is handed its ``sealed`` half, and nothing else of it.
        seed: decides everything random.
        measuring: how a repair is measured, and which clean pictures a method gets.
        sibling: of a repair that works on one, the clean twin.
    """

    contender: Contender
    specimen: Specimen
    seed: int
    measuring: Measuring
    sibling: Specimen | None = None

    @cached_property
    def entry(self) -> Entry:
        """Its place, by everything that decides its numbers."""
        method = self.contender.method
        identity: dict[str, Any] = {"model": self.specimen.digest, "seed": self.seed, "method": method.to_dict()}
        if not self.contender.is_detector:
            identity |= {"measured": self.measuring.to_dict(), "data": self.measuring.data_words(self.specimen)}
        elif method.needs_data:
            identity |= {"data": self.measuring.data_words(self.specimen)}
        if self.sibling is not None:
            identity |= {"sibling": self.sibling.digest}
        return Entry(f"{self.contender.label} {self.specimen.digest[:DIGITS]} {self.seed}", identity)

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        return self.entry.name

    def to_dict(self) -> dict[str, Any]:
        """What ``bench.json`` says of it: nothing that the file of the cell does not say, but before there is one."""
        return {
            "name": self.name,
            "kind": "detector" if self.contender.is_detector else "repair",
            "label": self.contender.label,
            "model": self.specimen.digest,
            "seed": self.seed,
        }

    def task(self, zoos: Sequence[Path], folder: Path) -> dict[str, Any]:
        """What a worker is given, as JSON takes it."""
        return {
            "contender": self.contender.to_dict(),
            "model": self.specimen.digest,
            "seed": self.seed,
            "measuring": self.measuring.to_dict(),
            "zoos": [str(zoo) for zoo in zoos],
            "folder": str(folder),
        }

    @classmethod
    def of_task(cls, subjects: Subjects, task: dict[str, Any]) -> BenchCell:
        """Make the cell that a worker was given."""
        specimen, contender = subjects.by_digest[task["model"]], Contender.from_dict(task["contender"])
        return cls(
            contender,
            specimen,
            task["seed"],
            Measuring.from_dict(task["measuring"]),
            _sibling(contender, subjects, specimen),
        )

    def command(self, zoos: Sequence[Path], short: bool) -> str:
        """What runs this cell alone, into a folder of its own."""
        words = ["baddiffusion", "bench", "--zoo", *(_portable(zoo) for zoo in zoos), "-o", "again"]
        words += ["--only", self.contender.label, "--model", self.specimen.digest[:DIGITS], "--seed", str(self.seed)]
        return shlex.join([*words, *(["--short"] if short else [])])


def plan_cells(
    subjects: Subjects,
    contenders: Sequence[Contender],
    seeds: Sequence[int],
    measuring: Measuring,
    split: Split | None = None,
    models: Sequence[str] = (),
) -> list[BenchCell]:
    """All cells: detectors on every model, repairs on backdoored ones, the control also on their twins.

    Averaging needs a clean sibling: the twin, trained from the same initial weights without poison. A backdoored model
    whose twin is not built has no such cell.

    Args:
        subjects: the models.
        contenders: the methods.
        seeds: each a cell of its own.
        measuring: of repairs.
        split: only this one.
        models: only these, by name or digest; named ones are repaired even if they are no backdoored ones.

    Raises:
        RecipeError: a name or digest that no judged model has.
    """
    chosen, cells = subjects.select(split, models), []
    twins = {twin.digest for one in chosen if (twin := subjects.twin(one)) is not None}
    for contender in contenders:
        for specimen in chosen:
            sibling = _sibling(contender, subjects, specimen)
            bad, control = specimen.truth.counted_as == "backdoored", contender.method.component_name == "no-repair"
            wanted = contender.is_detector or bad or (control and (bool(models) or specimen.digest in twins))
            if wanted and (sibling is not None or not needs_sibling(type(contender.method))):
                cells += [BenchCell(contender, specimen, seed, measuring, sibling) for seed in seeds]
    return cells


def _sibling(contender: Contender, subjects: Subjects, specimen: Specimen) -> Specimen | None:
    return subjects.twin(specimen) if needs_sibling(type(contender.method)) else None


def _portable(path: Path) -> str:
    """The name without the place on this machine."""
    return path.name if path.is_absolute() or str(path).startswith(("~", "..")) else str(path)
