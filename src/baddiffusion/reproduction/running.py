"""Carrying an experiment out: train its cells, ask what else is wanted, write the numbers beside the paper's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from baddiffusion.errors import RunError
from baddiffusion.executors import Executor
from baddiffusion.images import grid, png_bytes, to_uint8
from baddiffusion.matrix.store import Shelf
from baddiffusion.precision import default_device
from baddiffusion.reproduction.asking import Ask
from baddiffusion.reproduction.counting import Cost, cost_of
from baddiffusion.reproduction.experiments import Experiment, Preset
from baddiffusion.reproduction.joining import command_of, join
from baddiffusion.reproduction.lines import Line
from baddiffusion.reproduction.quality import missing_inception
from baddiffusion.reproduction.reading import Runs
from baddiffusion.rundir import write_atomic
from baddiffusion.sweep import Cell, Sweep, SweepDir, run_sweep
from baddiffusion.watching import Nobody, Watcher

__all__ = [
    "SCHEMA",
    "Reproduction",
    "read_result",
    "reproduce",
    "tabulate",
    "total_cost",
    "train_cells",
]

SCHEMA = 1
SHOWN = 4
NO_COLOR = (
    "The row in color was left out: it needs CIFAR-10. Give --cifar10 FOLDER, or set BADDIFFUSION_CIFAR10 to a folder "
    "with its parquet files."
)


@dataclass(frozen=True, eq=False)
class Reproduction:
    """An experiment in a preset.

    Args:
        experiment: which.
        preset: at which size.
        runs: the folder of the run directories; the results go to ``reproduce-<preset>`` inside.
        cifar10: folder with CIFAR-10 as parquet files; None leaves the small preset's row in color out, and lets the
            large one fetch the data.
    """

    experiment: Experiment
    preset: Preset
    runs: Path
    cifar10: Path | None = None

    @cached_property
    def sweeps(self) -> tuple[Sweep, ...]:
        """What is trained.

        Raises:
            RecipeError: the experiment cannot be run, or not in this preset.
        """
        main = Sweep.load(self.experiment.sweep(self.preset))
        given = () if self.cifar10 is None else (f"data.path={self.cifar10}",)
        if given and main.cells[0].recipe.data.component_name == "cifar10":
            main = Sweep.load(self.experiment.sweep(self.preset), given)
        color = self.experiment.color(self.preset)
        return (main, Sweep.load(color, given)) if color is not None and given else (main,)

    @property
    def cells(self) -> list[Cell]:
        """The cells of all its sweeps."""
        return [cell for sweep in self.sweeps for cell in sweep.cells]

    @cached_property
    def lines(self) -> list[Line]:
        """The lines of its table, one for each seed."""
        return self.experiment.lines(self.cells)

    @property
    def asks(self) -> list[Ask]:
        """What is asked of the trained models, each question once."""
        return list({ask.identity: ask for line in self.lines for ask in line.asks}.values())

    @property
    def cost(self) -> Cost:
        """All of it, finished parts included."""
        return cost_of(self.cells, self.asks)

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.runs / f"reproduce-{self.preset}"

    @property
    def path(self) -> Path:
        """The results file."""
        return self.folder / f"{self.experiment.name}.json"

    @property
    def left_out(self) -> list[str]:
        """What this preset does not have."""
        is_colorless = self.experiment.color(self.preset) is not None and self.cifar10 is None
        return [NO_COLOR] if is_colorless else []


def total_cost(reproductions: Sequence[Reproduction]) -> Cost:
    """Of several: what they share counts once."""
    cells = [cell for each in reproductions for cell in each.cells]
    return cost_of(cells, [ask for each in reproductions for ask in each.asks])


def reproduce(
    work: Reproduction,
    executor: Executor | None = None,
    watcher: Watcher | None = None,
    on_change: Callable[[SweepDir], None] | None = None,
) -> dict[str, Any]:
    """Carry an experiment out, or what is left of it.

    Args:
        work: what to do.
        executor: what trains the cells; None for one after another in this process.
        watcher: told about what comes after the training.
        on_change: told when a cell starts or ends.

    Returns:
        What the results file holds.

    Raises:
        BadDiffusionError: what `train_cells` and `tabulate` raise.
    """
    return tabulate(work, watcher, train_cells(work, executor, on_change))


def train_cells(
    work: Reproduction,
    executor: Executor | None = None,
    on_change: Callable[[SweepDir], None] | None = None,
    shard: tuple[int, int] = (1, 1),
) -> dict[str, str]:
    """Train and measure the cells of an experiment that are not finished.

    Args:
        work: which experiment.
        executor: as `run_sweep` takes it.
        on_change: as `run_sweep` calls it.
        shard: (i, n): only the i-th of n parts.

    Returns:
        The status of every cell: one that failed stops no other.

    Raises:
        RecipeError: the experiment cannot be run, or there is no such shard.
        RunError: a folder cannot be written, or the executor cannot begin.
    """
    statuses: dict[str, str] = {}
    for sweep in work.sweeps:
        done = run_sweep(sweep, work.runs, executor, on_change, shard)
        statuses |= {str(cell["key"]): str(cell["status"]) for cell in done.cells}
    return statuses


def tabulate(
    work: Reproduction, watcher: Watcher | None = None, statuses: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Ask the trained models what is still open, and write the paper's numbers beside ours.

    Args:
        work: which experiment.
        watcher: told about the progress.
        statuses: of the cells, as `train_cells` told them.

    Returns:
        What the results file holds. A row without numbers says why, and what would give it some.

    Raises:
        BadDiffusionError: a file is damaged or cannot be written.
    """
    runs = Runs(work.runs, Shelf(work.folder / "answers"), statuses or {})
    without_fid = _answer(work.asks, runs, watcher or Nobody())
    readings, refused = runs.read(work.lines)
    rows = join(work.experiment, work.preset, readings)
    devices = {runs.device(cell.key) for cell in work.cells} - {None}
    result = {
        "schema": SCHEMA,
        "experiment": work.experiment.name,
        "title": work.experiment.title,
        "paper": list(work.experiment.paper),
        "preset": work.preset,
        "command": command_of(work.experiment, work.preset),
        "differs": list(work.experiment.differs.get(work.preset, ())),
        "hardware": sorted(str(device) for device in devices),
        "rows": rows,
        "not_run": [*work.left_out, *without_fid, *refused, *_missing(rows)],
    }
    write_atomic(work.path, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result


def read_result(path: Path) -> dict[str, Any]:
    """Read a results file.

    Raises:
        RunError: it is damaged, or was written by another schema.
    """
    try:
        stored = json.loads(path.read_text())
        schema, _, _ = stored["schema"], stored["rows"], stored["not_run"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}); give the command of the reproduction again.") from None
    if schema != SCHEMA:
        raise RunError(f"{path} has schema {schema}; this version reads schema {SCHEMA}. Give the command again.")
    return stored


def _answer(asks: Sequence[Ask], runs: Runs, watcher: Watcher) -> list[str]:
    """Answer what is not answered yet, model by model; return why no FID was measured, if so."""
    device = default_device()
    loaded: tuple[str, torch.nn.Module] | None = None
    ordered = sorted(asks, key=lambda ask: (ask.source.name, str(ask.source.recipe.designs[0])))
    open_asks = [ask for ask in ordered if runs.has_weights(ask.source) and runs.answer(ask) is None]
    reason = missing_inception() if any(ask.needs_inception for ask in open_asks) else ""
    if reason:
        open_asks = [ask for ask in open_asks if not ask.needs_inception]
    for number, ask in enumerate(open_asks, start=1):
        subject = runs.subject(ask.source)
        entry = ask.entry(subject)
        if loaded is None or loaded[0] != ask.source.name:
            loaded = ask.source.name, subject.checkpoint.load_model(device)
        watcher.stage(f"{number} of {len(open_asks)}: {entry.title}", max(1, ask.calls), "network calls")

        def told(done: int, total: int, ask: Ask = ask) -> None:
            watcher.advance(ask.calls * done // total)

        content, samples, shown = ask.answer(subject, loaded[1], device, told)
        if samples is not None:
            shown = samples.images[:SHOWN]
        if shown is not None:  # before the numbers: an answer that stands has its pictures
            sheet = png_bytes(grid(to_uint8(shown), columns=2, background=128))
            write_atomic(runs.shelf.path(entry, ".png"), sheet)
        runs.shelf.write(entry, content)
    return [f"No FID was measured: {reason}"] if reason else []


def _missing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many rows have no number, by what would give them one."""
    commands: dict[str, int] = {}
    failed = sum(row["state"] == "cell failed" for row in rows)
    for row in rows:
        if row["state"] == "not run":
            commands[row["command"]] = commands.get(row["command"], 0) + 1
    said = [f"{count} of {len(rows)} rows were not run; they come from: {how}" for how, count in commands.items()]
    return [*said, f"{failed} of {len(rows)} rows have a cell that failed."] if failed else said
