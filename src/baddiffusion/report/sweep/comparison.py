"""Several runs held against each other: a row per setting, the seeds of a setting taken together."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from baddiffusion.errors import EvaluationError, RunError
from baddiffusion.metrics import FIRES, Estimate
from baddiffusion.metrics.seeds import over_seeds
from baddiffusion.report.run.reading import RunFiles
from baddiffusion.report.sweep.cells import CellRun, Numbers
from baddiffusion.sweep import SweepDir

__all__ = ["Comparison", "Row", "below", "compare_runs", "is_bounded", "read_sweep", "runs_flag"]


@dataclass(frozen=True)
class Row:
    """One setting.

    Args:
        settings: the varied keys with their values; names of the columns in a reproduction.
        numbers: by column; over seeds where there are several.
        state: ``implanted``, ``failed implant``, ``control``, ``cell failed``, ``not finished``; of a reproduction what
            it says.
        seeds: of the runs that the numbers stand on.
        cells: all runs of this setting.
    """

    settings: Mapping[str, Any]
    numbers: Numbers
    state: str
    seeds: tuple[int, ...]
    cells: tuple[CellRun, ...] = ()

    @classmethod
    def of(cls, cells: Sequence[CellRun]) -> Row:
        """Take the seeds of one setting together: mean, interval and number of seeds where there is more than one."""
        done = [cell for cell in cells if cell.status == "done"]
        numbers: Numbers = {}
        for column in dict.fromkeys(column for cell in done for column in cell.numbers):
            found = {cell.seed: cell.numbers[column] for cell in done if column in cell.numbers}
            numbers[column] = _together(found)
        seeds = tuple(cell.seed for cell in done)
        return cls(cells[0].settings, numbers, _state(cells, numbers), seeds, tuple(cells))

    @property
    def success(self) -> Estimate | None:
        """How often the backdoor fired."""
        return self.numbers.get("asr")

    @property
    def fires(self) -> bool:
        """Whether it did so in most noises."""
        return self.success is not None and self.success.value >= FIRES


@dataclass(frozen=True)
class Comparison:
    """What a page of several runs is made from.

    Args:
        name: of the sweep; empty for runs that were picked by hand.
        folder: where the page stands by default, and its failures' tracebacks.
        varied: dotted recipe keys, the seed left out.
        cells: all of them.
        again: the command that makes everything, and goes on where it stopped.
    """

    name: str
    folder: Path
    varied: tuple[str, ...]
    cells: tuple[CellRun, ...]
    again: str

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """A row per setting, in the order of the cells."""
        found: dict[str, list[CellRun]] = {}
        for cell in self.cells:
            found.setdefault(json.dumps(dict(cell.settings), sort_keys=True), []).append(cell)
        return tuple(Row.of(cells) for cells in found.values())

    @property
    def done(self) -> tuple[CellRun, ...]:
        """Cells with numbers."""
        return tuple(cell for cell in self.cells if cell.status == "done")

    @property
    def undone(self) -> tuple[CellRun, ...]:
        """Cells without."""
        return tuple(cell for cell in self.cells if cell.status != "done")

    def command(self, cell: CellRun) -> str:
        """What runs this one cell: its own recipe where it was started, else the whole sweep, which skips the rest."""
        recipe = cell.path / "recipe.toml"
        if not recipe.exists():
            return self.again
        return shlex.join(["baddiffusion", "run", below(recipe), *runs_flag(cell.path.parent)])


def read_sweep(folder: Path) -> Comparison:
    """Read a sweep's folder.

    Args:
        folder: what ``baddiffusion sweep`` made; the cells' run directories stand beside it.

    Raises:
        RunError: there is no sweep, it is damaged, or it was written by another schema.
    """
    stored = SweepDir.read(folder)
    try:
        cells = tuple(
            CellRun(
                key=str(cell["key"]),
                settings={key: value for key, value in cell["settings"].items() if key != "seed"},
                seed=int(cell["seed"]),
                path=folder.parent / str(cell["key"]),
                told=str(cell["status"]),
                error=cell["error"],
                traceback=cell["traceback"],
            )
            for cell in stored.cells
        )
        varied = tuple(str(key) for key in stored.record["varied"] if key != "seed")
        name = str(stored.record["name"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{folder / 'sweep.json'} is damaged ({error}); remove it, and start the sweep again: no cell is lost."
        ) from None
    runs = runs_flag(folder.parent)
    return Comparison(
        name, folder, varied, cells, shlex.join(["baddiffusion", "sweep", below(folder / "sweep.toml"), *runs])
    )


def compare_runs(paths: Sequence[Path]) -> Comparison:
    """Hold runs against each other that were picked by hand; what their recipes differ in is what varies.

    Args:
        paths: run directories, at least two.

    Raises:
        RunError: one of them is no run, or one is given twice.
    """
    found = [(path, RunFiles(path)) for path in paths]
    doubled = {path.resolve() for path in paths if sum(other.resolve() == path.resolve() for other in paths) > 1}
    if doubled:
        raise RunError(f"{doubled.pop().name} is given twice; give each run once.")
    flat = [_flat(files.recipe) for _, files in found]
    keys = dict.fromkeys(key for recipe in flat for key in recipe)
    varied = tuple(k for k in keys if k not in ("name", "seed") and any(r.get(k) != flat[0].get(k) for r in flat))
    cells = [
        CellRun(path.resolve().name, {key: recipe.get(key) for key in varied}, int(recipe.get("seed", 0)), path)
        for (path, _), recipe in zip(found, flat, strict=True)
    ]
    if len({(str(cell.settings), cell.seed) for cell in cells}) < len(cells):  # nothing but the folder tells them apart
        varied = (*varied, "run")
        cells = [replace(cell, settings={**cell.settings, "run": cell.key}) for cell in cells]
    again = "\n".join(
        shlex.join(["baddiffusion", "run", below(path / "recipe.toml"), *runs_flag(path.parent)]) for path in paths
    )
    return Comparison("", paths[0].parent, varied, tuple(cells), again)


def is_bounded(estimate: Estimate) -> bool:
    """Whether its interval says anything: seeds that all gave the same value leave an empty one."""
    return estimate.low is not None and estimate.low != estimate.high


def below(path: Path, parts: int = 3) -> str:
    """A path as one types it where the folder of the runs lies: no absolute path enters a page."""
    return "/".join(path.resolve().parts[1:][-parts:])


def runs_flag(runs: Path) -> list[str]:
    """``--runs``, where the folder is not the default one."""
    name = runs.resolve().name
    return [] if name == "runs" else ["--runs", name]


def _together(found: Mapping[int, Estimate]) -> Estimate:
    """Mean and interval over seeds; the first seed's number alone, and why, where they were made in different ways."""
    first = next(iter(found.values()))
    if len(found) == 1:
        return first
    try:
        return over_seeds(list(found.values()), list(found))
    except EvaluationError as error:
        return replace(first, caveats=(f"Of seed {next(iter(found))} alone: {error}", *first.caveats))


def _state(cells: Sequence[CellRun], numbers: Numbers) -> str:
    if not any(cell.status == "done" for cell in cells):
        broken = any(cell.status in ("failed", "lost", "unreadable") for cell in cells)
        return "cell failed" if broken else "not finished"
    if any(cell.is_control for cell in cells):
        return "control"
    success = numbers.get("asr")
    return "implanted" if success is None or success.value >= FIRES else "failed implant"


def _flat(recipe: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted keys; a component stays whole, since fields of two different ones say nothing side by side."""
    found: dict[str, Any] = {}
    for key, value in recipe.items():
        if isinstance(value, Mapping) and "name" not in value:
            found |= _flat(value, f"{above}{key}.")
        else:
            found[above + key] = value
    return found
