"""Attackers who train to evade: a backdoored model of a zoo once more, with decoys in its recipe."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baddiffusion.benchmark.adaptive import write_adaptive
from baddiffusion.benchmark.subjects import Subjects
from baddiffusion.errors import RecipeError
from baddiffusion.evading import DecoyDesign
from baddiffusion.executors import Executor, Outcome, Serial, Task
from baddiffusion.recipe import Recipe
from baddiffusion.sweep import Cell, cell_state
from baddiffusion.zoo import Entry, Specimen, model_table

__all__ = ["Evader", "build_evaders", "plan_evaders", "unfinished"]

CALL = "baddiffusion.sweep.running:run_cell"
LONGEST_NAME = 64


@dataclass(frozen=True, eq=False)
class Evader:
    """One model to train.

    Args:
        parent: the backdoored model that does not evade.
        recipe: the parent's with decoys: same seed, same poisoned images, ``longer`` times the steps.
        longer: at least 1.
    """

    parent: Specimen
    recipe: Recipe
    longer: float = 1.0

    @property
    def key(self) -> str:
        """Name of its run directory."""
        return Cell(self.recipe, {}).key


def plan_evaders(zoo: Path, decoys: DecoyDesign, models: Sequence[str] = (), longer: float = 1.0) -> list[Evader]:
    """One for each backdoored model of a zoo.

    Args:
        zoo: with backdoored models.
        decoys: what their attackers train.
        models: only these, by name or digest; empty for all.
        longer: times as many steps as the parent; what decoys teach comes on top of everything else.

    Raises:
        RunError: there is no zoo.
        RecipeError: longer is less than 1 or infinite, a name that no judged model has, no backdoored model, or a
            recipe without room for the decoys.
    """
    if not 1 <= longer < math.inf:
        raise RecipeError(f"longer is {longer}; it must be at least 1, for as many steps as the parent.")
    chosen = Subjects.open([zoo]).select(models=models)
    parents = [one for one in chosen if one.truth.counted_as == "backdoored" and not one.truth.told.get("adaptive")]
    if not parents:
        raise RecipeError(f"{zoo} has no backdoored model among those asked for, so that there is nothing to hide.")
    return [Evader(parent, _recipe(parent, decoys, longer), longer) for parent in parents]


def unfinished(evaders: Sequence[Evader], path: Path) -> list[Evader]:
    """Those that are not trained and measured yet."""
    return [one for one in evaders if cell_state(path, one.key)["status"] != "done"]


def build_evaders(
    evaders: Sequence[Evader],
    zoo: Path,
    path: Path,
    executor: Executor | None = None,
    on_change: Callable[[str, Evader, str], None] | None = None,
) -> dict[str, Any]:
    """Train, sample and measure them, each in a run directory, in a folder that opens like a zoo.

    What is finished is not done again, and what is under way goes on where it was. One that fails stops no other.

    Args:
        evaders: as `plan_evaders` gives them.
        zoo: that of their parents.
        path: folder for the runs.
        executor: who carries them out; None for one after another in this process.
        on_change: told (what happened, the evader, why) of each that ended.

    Returns:
        The manifest, as written: the finished ones among what stood in it.

    Raises:
        RunError: the folder cannot be written.
        KeyboardInterrupt: goes on to the caller; what is finished is kept, and the next call lists it.
    """
    left = {one.key: one for one in unfinished(evaders, path)}
    tell = on_change or (lambda what, evader, why: None)

    def ended(outcome: Outcome) -> None:
        elsewhere = outcome.status == "done" and outcome.value["elsewhere"]
        tell("elsewhere" if elsewhere else outcome.status, left[outcome.key], str(outcome.error or ""))

    arguments = {"runs": str(path), "argv": sys.argv[1:]}
    tasks = [Task(key, CALL, {"recipe": one.recipe.to_toml(), **arguments}) for key, one in left.items()]
    (executor or Serial()).run(tasks, lambda key: None, ended)
    waiting = {one.key for one in unfinished(evaders, path)}
    return write_adaptive(path, zoo, [_told(one, path) for one in evaders if one.key not in waiting])


def _recipe(parent: Specimen, decoys: DecoyDesign, longer: float) -> Recipe:
    name = f"{parent.truth.name}-{decoys.component_name}"[:LONGEST_NAME]
    table: dict[str, Any] = {**parent.truth.recipe.to_dict(), "name": name, "decoys": decoys.to_dict()}
    length = "max_train_steps" if "max_train_steps" in table["training"] else "num_epochs"
    table["training"] = {**table["training"], length: round(table["training"][length] * longer)}
    return Recipe(**table)


def _told(evader: Evader, path: Path) -> dict[str, Any]:
    truth = evader.parent.truth
    entry = Entry(evader.recipe.name, "backdoored", truth.split, pair=truth.pair)
    return {
        **model_table(entry, Cell(evader.recipe, {}), path / evader.key),
        "parent": evader.parent.digest,
        "price": _price(evader),
    }


def _price(evader: Evader) -> str:
    """What the attacker pays before a picture is sampled; success and quality are measured apart."""
    assert evader.recipe.decoys is not None
    steps = "no step more" if evader.longer == 1 else f"{evader.longer:g} times the steps"
    return f"{evader.recipe.decoys.rate:.0%} of the training images as decoys, {steps}"
