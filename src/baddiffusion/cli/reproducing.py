"""The verb that repeats the paper's experiments: reproduce."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from baddiffusion.cli.app import EXPERIMENT, Json, Switch, app
from baddiffusion.cli.board import watching_cells
from baddiffusion.cli.printing import count, duration, note, say, say_json, table
from baddiffusion.cli.progress import watching
from baddiffusion.errors import BadDiffusionError, RecipeError, RunError

if TYPE_CHECKING:
    from baddiffusion.executors import Executor
    from baddiffusion.reproduction import Cost, Experiment, Reproduction

__all__ = ["reproduce"]

CIFAR10 = "BADDIFFUSION_CIFAR10"


@app.command(group=EXPERIMENT, sort_key=5)
def reproduce(
    name: str | None = None,
    /,
    *,
    preset: Literal["mini", "paper"] = "mini",
    runs: Annotated[Path, Parameter(name=["--runs", "--output-dir"])] = Path("runs"),
    cifar10: Path | None = None,
    workers: int | None = None,
    ray: str | None = None,
    shard: str = "1/1",
    no_train: Switch = False,
    dry_run: Switch = False,
    json: Json = False,
) -> None:
    """Repeat a table or figure of the paper; without a name, list them.

    Every experiment trains its networks (what another one has trained is used again), measures them, and writes a
    table: the paper's numbers beside ours, with interval, n and protocol. An implant that failed is shown as failed, a
    row that was not run as not run. What is finished is not done again, so the same command goes on after a break.

    Example: `baddiffusion reproduce poison-rates --dry-run`, `baddiffusion reproduce all --workers 2`

    Args:
        name: The experiment, or all.
        preset: mini (a small network on Fashion-MNIST) or paper (the paper's networks and numbers).
        runs: Folder for the runs' folders; the tables go to reproduce-PRESET inside.
        cifar10: Folder with CIFAR-10 as parquet files; left out, what BADDIFFUSION_CIFAR10 names.
        workers: Networks that are trained at once, each in a process of its own; left out, one after another.
        ray: Train on Ray: local starts a cluster on this machine, auto or host:port joins one.
        shard: i/n, train only the i-th of n parts, as in a job array; once without it then makes the tables.
        no_train: Train nothing: measure what is trained already, and make the tables; the rest stands there as not run.
        dry_run: Say what it would cost, and stop.
        json: Write the tables as JSON.
    """
    from baddiffusion.reproduction import EXPERIMENTS, Reproduction, experiment_named

    folder = cifar10 if cifar10 is not None else _from_environment()
    if name is None:
        _list(preset, runs, folder, json)
        return
    chosen = [experiment_named(name)] if name != "all" else [e for e in EXPERIMENTS.values() if preset in e.presets]
    works = [Reproduction(experiment, preset, runs, folder) for experiment in chosen]
    if dry_run:
        _tell_cost(works, json)
        return
    if no_train and (workers is not None or ray is not None or shard != "1/1"):
        raise RecipeError("--no-train trains nothing; leave --workers, --ray and --shard out.")
    _carry_out(works, None if no_train else _Training(_executor(workers, ray), _part(shard)), json)


def _from_environment() -> Path | None:
    named = os.environ.get(CIFAR10, "")
    return Path(named) if named else None


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None:
        raise RecipeError(f"--shard is {text!r}; it must be i/n. Write 1/4 for the first of four.")
    return int(found[1]), int(found[2])


def _executor(workers: int | None, ray: str | None) -> Executor | None:
    from baddiffusion.executors import OnRay, Processes

    if ray is not None:
        return OnRay(ray, workers)
    return None if workers is None else Processes(workers)


def _list(preset: Literal["mini", "paper"], runs: Path, cifar10: Path | None, json: bool) -> None:
    from baddiffusion.reproduction import EXPERIMENTS, Reproduction, total_cost

    works = [Reproduction(e, preset, runs, cifar10) for e in EXPERIMENTS.values() if preset in e.presets]
    known = {work.experiment.name: work for work in works}
    if json:
        say_json([_entry(experiment, known.get(experiment.name)) for experiment in EXPERIMENTS.values()])
        return
    rows: list[tuple[str, ...]] = [("experiment", "of the paper", "networks", "training images", "network calls", "")]
    for experiment in EXPERIMENTS.values():
        work = known.get(experiment.name)
        costs = _columns(work.cost) if work is not None else ("–", "–", "–", f"not in the preset {preset}")
        rows.append((experiment.name, ", ".join(experiment.paper), *costs))
    rows.append(("all", "networks that several share count once", *_columns(total_cost(works))))
    say(table(rows))
    say(f"\nbaddiffusion reproduce NAME --preset {preset}")


def _columns(cost: Cost) -> tuple[str, ...]:
    return count(cost.cells), count(cost.train_images), count(cost.network_calls)


def _entry(experiment: Experiment, work: Reproduction | None) -> dict[str, Any]:
    told = {
        "experiment": experiment.name,
        "title": experiment.title,
        "paper": list(experiment.paper),
        "presets": list(experiment.presets),
    }
    return {**told, "cost": None if work is None else _cost_entry(work.cost)}


def _cost_entry(cost: Cost) -> dict[str, int]:
    return {"cells": cost.cells, "train_images": cost.train_images, "network_calls": cost.network_calls}


def _tell_cost(works: Sequence[Reproduction], json: bool) -> None:
    from baddiffusion.reproduction import total_cost

    total = total_cost(works)
    seconds = _seconds(works[0], total)
    said = "not known: its network or its data are not on this machine"
    if seconds is not None:
        said = f"about {duration(seconds)}, if nothing of it is finished"
    if json:
        each = {work.experiment.name: _cost_entry(work.cost) for work in works}
        say_json({"preset": works[0].preset, **_cost_entry(total), "seconds": seconds, "experiments": each})
        return
    rows = [("", "networks", "training images", "network calls")]
    rows += [(work.experiment.name, *_columns(work.cost)) for work in works]
    rows += [("in all, what several share once", *_columns(total))] if len(works) > 1 else []
    say(table(rows))
    say(f"\ntime  {said}")
    for sentence in dict.fromkeys(sentence for work in works for sentence in work.left_out):
        note(sentence)


def _seconds(work: Reproduction, cost: Cost) -> float | None:
    """How long all of it takes one process here: a call of the network is timed, if it is at hand."""
    from baddiffusion.cost import BACKWARD_FACTOR, estimate_cost

    try:
        rate = estimate_cost(work.cells[0].recipe)["images_per_s"]
    except BadDiffusionError:
        return None
    return round((cost.train_images * BACKWARD_FACTOR + cost.network_calls) / rate, 1)


@dataclass
class _Training:
    """What trains the networks, which of them, and which failed."""

    executor: Executor | None
    part: tuple[int, int]
    failed: list[str] = field(default_factory=list)

    def train(self, work: Reproduction) -> dict[str, str]:
        """Train what is missing; return the status of every cell."""
        from baddiffusion.executors import shard
        from baddiffusion.reproduction import train_cells

        ours = [cell.key for sweep in work.sweeps for cell in shard(sweep.cells, *self.part)]
        with watching_cells(ours) as board:
            statuses = train_cells(work, self.executor, board.show, self.part)
        self.failed += [key for key in ours if statuses[key] in ("failed", "lost") and key not in self.failed]
        return statuses


def _carry_out(works: Sequence[Reproduction], training: _Training | None, json: bool) -> None:
    from baddiffusion.report.reproduction.section import reproduction_rows
    from baddiffusion.reproduction import tabulate

    for work in works:  # every mistake before the first network is trained
        _ = work.sweeps
    results: list[dict[str, Any]] = []
    for work in works:
        note(f"{work.experiment.name}: {', '.join(work.experiment.paper)}")
        statuses = training.train(work) if training is not None else None
        if training is not None and training.part[1] > 1:
            continue
        with watching() as watcher:
            result = tabulate(work, watcher, statuses)
        results.append(result)
        if not json:
            say(f"{result['title']} ({', '.join(result['paper'])})\n")
            say(table(reproduction_rows(result), indent="  "))
            said = (*result["differs"], *result["not_run"], f"in {work.path}")
            say("".join(f"\n{sentence}" for sentence in said) + "\n")
    if json:
        say_json(results)
    failed = training.failed if training is not None else []
    if failed:
        raise RunError(
            f"{len(failed)} networks failed, the first is {failed[0]}; the folders failures/ of the sweeps have the "
            f"tracebacks. The same command tries them again."
        )
