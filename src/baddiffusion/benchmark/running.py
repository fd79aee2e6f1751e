"""Carrying out a benchmark: the cells that are not finished, by whatever executor; one that fails stops no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from baddiffusion.benchmark.cells import BenchCell
from baddiffusion.benchmark.filling import fill
from baddiffusion.benchmark.folder import BenchDir, hold
from baddiffusion.benchmark.subjects import Subjects
from baddiffusion.executors import Executor, Outcome, Serial, Task, shard
from baddiffusion.matrix.store import Shelf
from baddiffusion.zoo import MANIFEST

__all__ = ["cost", "run_bench", "run_cell", "unfinished"]

CALL = "baddiffusion.benchmark.running:run_cell"
Told = Callable[[str, BenchCell, str], None]


def run_bench(
    cells: Sequence[BenchCell],
    subjects: Subjects,
    zoos: Sequence[Path],
    path: Path,
    executor: Executor | None = None,
    on_change: Told | None = None,
    part: tuple[int, int] = (1, 1),
    short: bool = False,
) -> BenchDir:
    """Fill the cells that are not filled yet.

    Args:
        cells: as `plan_cells` gives them.
        subjects: the models.
        zoos: folders that workers open them from.
        path: folder of the benchmark.
        executor: who carries the cells out; None for one after another in this process.
        on_change: told (what happened, the cell, why) in this process.
        part: (i, n): only the i-th of n parts. Jobs that run different parts share the folder.
        short: whether the commands of the cells ask for short budgets.

    Returns:
        The folder. A cell that failed is told there; the next call tries it again.

    Raises:
        RecipeError: there is no such part.
        RunError: the folder cannot be written, or holds results of other settings.
        KeyboardInterrupt: goes on to the caller; what is finished is kept.
    """
    folder = BenchDir.plan(path, subjects, cells, zoos, short)
    left = {cell.name: cell for cell in shard(unfinished(cells, path), *part)}
    tell = on_change or (lambda what, cell, why: None)

    def ended(outcome: Outcome) -> None:
        cell = left[outcome.key]
        if outcome.status == "done":
            folder.forgive(cell.name)
            tell("elsewhere" if outcome.value["elsewhere"] else "done", cell, "")
            return
        folder.fail(cell.name, str(outcome.error), outcome.traceback)
        tell(outcome.status, cell, str(outcome.error))

    tasks = [Task(name, CALL, {"task": cell.task(zoos, path)}) for name, cell in left.items()]
    (executor or Serial()).run(tasks, lambda key: tell("running", left[key], ""), ended)
    return BenchDir.read(path)


def run_cell(task: dict[str, Any]) -> dict[str, bool]:
    """Fill one cell, in whatever process: what the tasks of a benchmark call.

    Returns:
        ``{"elsewhere": True}`` if another process works on it.

    Raises:
        BadDiffusionError: what `fill` raises.
    """
    folder = Path(task["folder"])
    zoos = tuple((zoo, (Path(zoo) / MANIFEST).stat().st_mtime_ns) for zoo in task["zoos"])
    cell = BenchCell.of_task(_opened(zoos), task)
    with hold(folder, f".locks/{cell.name}", wait=False) as mine:
        if mine is None:
            return {"elsewhere": True}
        shelf = Shelf(folder / "cells")
        if shelf.read(cell.entry) is None:
            shelf.write(cell.entry, fill(cell, folder))
    return {"elsewhere": False}


def unfinished(cells: Sequence[BenchCell], path: Path) -> list[BenchCell]:
    """Those that have no file yet.

    Raises:
        RunError: a file is damaged, or holds another cell.
    """
    shelf = Shelf(path / "cells")
    return [cell for cell in cells if shelf.read(cell.entry) is None]


def cost(cells: Sequence[BenchCell]) -> dict[str, int]:
    """Network calls by method; of repairs with the measuring before and after, and both scans.

    The measuring before a repair is shared by all repairs of a model; here it counts once for each model and seed.

    Raises:
        RecipeError: a sampler that does not run on a model's schedule.
    """
    calls: dict[str, int] = {}
    begun: set[tuple[str, int]] = set()
    for cell in cells:
        label, shape = cell.contender.label, cell.specimen.truth.shape
        calls[label] = calls.get(label, 0) + cell.contender.method.cost(shape)
        if not cell.contender.is_detector:
            states = 1 if (cell.specimen.digest, cell.seed) in begun else 2
            begun.add((cell.specimen.digest, cell.seed))
            calls["measuring"] = calls.get("measuring", 0) + states * _state_calls(cell)
    return calls


def _state_calls(cell: BenchCell) -> int:
    """Of the pictures that success and quality are measured on, and of a scan."""
    recipe, measuring = cell.specimen.truth.recipe, cell.measuring
    own, plan = recipe.sampling, recipe.evaluation
    steps = own.num_inference_steps or recipe.model.scheduler_config["num_train_timesteps"]
    asked = own.sampler.network_calls(steps) * _filled(measuring.n)
    quality = plan.quality_sampler.network_calls(plan.quality_steps) * _filled(measuring.quality_n)
    return asked + quality + measuring.scan.calls


def _filled(n: int, chunk: int = 32) -> int:
    return -(-n // chunk) * chunk


@lru_cache(maxsize=2)
def _opened(zoos: tuple[tuple[str, int], ...]) -> Subjects:
    """The models, opened once in each process as long as their manifests stay."""
    return Subjects.open([Path(zoo) for zoo, _ in zoos])
