"""Carrying out a sweep: the cells that are not finished, by whatever executor; one that fails stops no other."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from baddiffusion.errors import RunError
from baddiffusion.executors import Executor, Outcome, Serial, Task, shard
from baddiffusion.pipeline import run_recipe
from baddiffusion.recipe import Recipe
from baddiffusion.rundir import RunDir, write_atomic
from baddiffusion.sweep.cells import Cell, Sweep
from baddiffusion.sweep.directory import SweepDir, cell_state

__all__ = ["run_cell", "run_sweep"]

LOCKED = "another process is working on "


def run_sweep(
    sweep: Sweep,
    runs: Path = Path("runs"),
    executor: Executor | None = None,
    on_change: Callable[[SweepDir], None] | None = None,
    shard: tuple[int, int] = (1, 1),
) -> SweepDir:
    """Run the cells of a sweep that are not finished.

    Args:
        sweep: which cells.
        runs: folder that holds run directories: one for each cell, and the sweep's own.
        executor: who carries the cells out; None for one after another in this process.
        on_change: told whenever something has happened to a cell, in this process.
        shard: (i, n): only the i-th of n parts. Jobs that run different parts share the folder.

    Returns:
        The sweep's folder. Cells that failed or were lost are told there, with their error; of a cell that another
        process works on it says *running*.

    Raises:
        RecipeError: there is no such shard.
        RunError: a folder cannot be written, the executor cannot begin, or several processes were started by
            ``torchrun`` or ``accelerate launch``: these share one recipe, not a sweep.
        KeyboardInterrupt: goes on to the caller; finished cells are kept.
    """
    _refuse_several_processes()
    work = _Work(sweep, runs, on_change or (lambda folder: None), shard)
    try:
        (executor or Serial()).run([work.task(cell) for cell in work.unfinished], work.begins, work.ended)
    finally:
        work.close()
    return work.folder


def run_cell(recipe: str, runs: str, argv: Sequence[str]) -> dict[str, bool]:
    """Carry out one cell, in whatever process: what a sweep's tasks call.

    Args:
        recipe: the resolved recipe as TOML.
        runs: folder that holds run directories.
        argv: arguments of the command that runs the sweep, for the cell's record; a worker has others of its own.

    Returns:
        ``{"elsewhere": True}`` if another process works on it.

    Raises:
        BadDiffusionError: what `run_recipe` raises.
    """
    sys.argv[1:] = argv
    try:
        run_recipe(Recipe(**tomllib.loads(recipe)), Path(runs))
    except RunError as error:
        if str(error).startswith(LOCKED):
            return {"elsewhere": True}
        raise
    return {"elsewhere": False}


class _Work:
    """One process's part of a sweep, and what it has to say of it."""

    def __init__(self, sweep: Sweep, runs: Path, on_change: Callable[[SweepDir], None], part: tuple[int, int]) -> None:
        self._runs, self._on_change = runs, on_change
        self._told: dict[str, dict[str, Any]] = {}
        self._elsewhere: set[str] = set()
        self.unfinished: list[Cell] = []
        for cell in shard(sweep.cells, *part):
            state = cell_state(runs, cell.key)
            unreadable = state["status"] == "failed" and not _is_readable(runs / cell.key)
            if state["status"] != "done" and not unreadable:
                state = {"status": "waiting", "error": None, "traceback": None}
                self.unfinished.append(cell)
            self._told[cell.key] = state
        self.folder = SweepDir.start(runs, sweep, self._told)
        on_change(self.folder)

    def task(self, cell: Cell) -> Task:
        """What an executor is given of a cell."""
        argument = {"recipe": cell.recipe.to_toml(), "runs": str(self._runs), "argv": sys.argv[1:]}
        return Task(cell.key, "baddiffusion.sweep.running:run_cell", argument)

    def begins(self, key: str) -> None:
        """A worker takes a cell up."""
        self._tell(key, "running")

    def ended(self, outcome: Outcome) -> None:
        """Something became of a cell. Its traceback goes to a file; that of an earlier try is removed."""
        name = f"failures/{outcome.key}.txt"
        if outcome.traceback is not None:
            write_atomic(self.folder.path / name, outcome.traceback)
        else:
            (self.folder.path / name).unlink(missing_ok=True)
        if outcome.status == "done" and outcome.value["elsewhere"]:
            self._elsewhere.add(outcome.key)
            self._tell(outcome.key, "running")
            return
        self._tell(outcome.key, outcome.status, outcome.error, name if outcome.traceback is not None else None)

    def close(self) -> None:
        """Leave no cell behind that seems to run: what was interrupted waits for the next time."""
        for key, state in self._told.items():
            if state["status"] == "running":
                self._told[key] = (
                    cell_state(self._runs, key) if key in self._elsewhere else state | {"status": "waiting"}
                )
        self.folder = self.folder.updated(self._told)
        self._on_change(self.folder)

    def _tell(self, key: str, status: str, error: str | None = None, traceback: str | None = None) -> None:
        self._told[key] = {"status": status, "error": error, "traceback": traceback}
        self.folder = self.folder.updated(self._told)
        self._on_change(self.folder)


def _is_readable(path: Path) -> bool:
    try:
        RunDir.read(path)
    except RunError:
        return False
    return True


def _refuse_several_processes() -> None:
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        raise RunError(
            f"a sweep was started as {processes} processes (torchrun or accelerate launch); all of them would run the "
            f"same cells. Start the sweep once, and use --workers; for a cell on several GPUs see docs/sweeps.md."
        )
