"""Verbs that carry out a recipe: run, train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from baddiffusion.cli.app import EXPERIMENT, Json, Switch, app
from baddiffusion.cli.costs import announce, cost_of, cost_rows
from baddiffusion.cli.naming import component_table, override
from baddiffusion.cli.printing import say, say_json, table
from baddiffusion.cli.progress import watching
from baddiffusion.cli.results import results_table, summary, the_results

if TYPE_CHECKING:
    from baddiffusion.recipe import Recipe
    from baddiffusion.rundir import RunDir

__all__ = ["FamiliarFlags", "Runs", "carry_out", "load", "run", "tell", "train"]

Overrides = Annotated[tuple[str, ...], Parameter(name="--set", consume_multiple=1, negative="", show_default=False)]
Tracker = Annotated[str | None, Parameter(show_default=False)]
Runs = Annotated[Path, Parameter(name=["--runs", "--output-dir"])]


@Parameter(name="*", group="As diffusers and the paper's code spell it (- and _ alike)")
@dataclass(frozen=True, kw_only=True)
class FamiliarFlags:
    """Flags that people know; each stands for one ``--set``."""

    train_batch_size: int | None = None
    """Images per optimizer step, over all devices."""
    learning_rate: float | None = None
    """Adam's."""
    num_epochs: int | None = None
    """Passes over the data."""
    max_train_steps: int | None = None
    """Optimizer steps; overrides the epochs."""
    lr_warmup_steps: int | None = None
    """Steps of the linear warm-up."""
    gradient_accumulation_steps: int | None = None
    """Parts that a step is split into, to fit into memory."""
    mixed_precision: str | None = None
    """auto, no or bf16."""
    use_ema: bool | None = None
    """Keep an average of the weights as the result."""
    seed: int | None = None
    """Decides everything random."""
    pretrained_model_name_or_path: str | None = None
    """Base checkpoint: a folder, a hub name, or packaged:clean."""
    poison_rate: float | None = None
    """Share of the images that is poisoned, in [0, 1]."""
    trigger: str | None = None
    """A name such as BOX_14, stop-sign or box:side_px=8."""
    target: str | None = None
    """A name such as HAT, corner or image:path=cat.png."""

    def overrides(self) -> list[str]:
        """The ``--set`` arguments that say the same."""
        return [override(KEYS.get(key, f"training.{key}"), value) for key, value in self._given().items()]

    def _given(self) -> dict[str, Any]:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        components = {key: component_table(given[key]) for key in ("trigger", "target") if given[key] is not None}
        return {key: value for key, value in {**given, **components}.items() if value is not None}


KEYS = {
    "seed": "seed",
    "pretrained_model_name_or_path": "model.base",
    "poison_rate": "poison.rate",
    "trigger": "trigger",
    "target": "target",
}
"""Where a flag's value goes in a recipe, for those that do not stand in its ``[training]`` under their own name."""


@app.command(group=EXPERIMENT, sort_key=2)
def run(
    recipe: str,
    /,
    *,
    set_: Overrides = (),
    runs: Runs = Path("runs"),
    tracker: Tracker = None,
    dry_run: Switch = False,
    json: Json = False,
) -> None:
    """Carry out a recipe: train, sample, measure, write the page.

    What is finished is not done again, so the same command resumes an interrupted run. A changed recipe is another run.

    Example: `baddiffusion run demo --set poison.rate=0.05 training.max_train_steps=600`

    Args:
        recipe: A recipe file (.toml), or the name of a packaged one: see `baddiffusion list recipes`.
        set_: Overrides of the recipe, key=value; for example poison.rate=0.05 or data.path=FOLDER.
        runs: Folder for the run's own folder.
        tracker: Log the training to one of accelerate's trackers too, such as tensorboard; by default to none. Nobody
            is asked to log in: wandb stays offline unless WANDB_MODE says otherwise. Files go to the run's tracking/.
        dry_run: Say what it would cost on this machine, and stop.
        json: Write the results as JSON.
    """
    finished = carry_out(load(recipe, set_), runs, "evaluate", dry_run, json, tracker)
    if finished is not None:
        tell(finished, json)


@app.command(group=EXPERIMENT, sort_key=3)
def train(
    recipe: str,
    /,
    *,
    set_: Overrides = (),
    runs: Runs = Path("runs"),
    tracker: Tracker = None,
    dry_run: Switch = False,
    json: Json = False,
    flags: FamiliarFlags | None = None,
) -> None:
    """Carry out a recipe up to the checkpoint, and stop.

    The folder runs/…/checkpoint opens in diffusers as it is; `baddiffusion run` with the same settings goes on from it.

    Example: `baddiffusion train demo --trigger STOP_SIGN_14 --target SHOE --poison_rate 0.05 --max_train_steps 800`

    Args:
        recipe: A recipe file (.toml), or the name of a packaged one: see `baddiffusion list recipes`.
        set_: Overrides of the recipe, key=value; for example poison.rate=0.05 or data.path=FOLDER.
        runs: Folder for the run's own folder.
        tracker: Log the training to one of accelerate's trackers too, such as tensorboard; by default to none. Nobody
            is asked to log in: wandb stays offline unless WANDB_MODE says otherwise. Files go to the run's tracking/.
        dry_run: Say what it would cost on this machine, and stop.
        json: Write where the checkpoint is as JSON.
    """
    familiar = flags.overrides() if flags is not None else []
    finished = carry_out(load(recipe, (*set_, *familiar)), runs, "train", dry_run, json, tracker)
    if finished is not None:
        _tell_checkpoint(finished, json)


def load(recipe: str, overrides: tuple[str, ...]) -> Recipe:
    """Read a recipe, by file or by name."""
    from baddiffusion.recipe import Recipe

    return Recipe.load(recipe, overrides)


def carry_out(
    recipe: Recipe,
    runs: Path,
    until: Literal["train", "evaluate"],
    dry_run: bool,
    json: bool,
    tracker: str | None = None,
) -> RunDir | None:
    """Carry out a recipe, with its cost said before and its progress meanwhile.

    Returns:
        The finished run; None where there is nothing to tell: only the cost was asked for, or another process of the
        group tells it.
    """
    path = runs / f"{recipe.name}-{recipe.digest}"
    if tracker is not None:
        from baddiffusion.training import require_tracker

        require_tracker(tracker)
    if dry_run:
        cost = {
            "recipe": recipe.name,
            "digest": recipe.digest,
            "run": str(path),
            **cost_of(recipe, until),
        }
        say_json(cost) if json else say(table(cost_rows(cost)))
        return None
    from accelerate import Accelerator, PartialState

    from baddiffusion.pipeline import run_recipe

    if not Accelerator().is_main_process:  # of torchrun's processes, one speaks
        run_recipe(recipe, runs, until=until)
        PartialState().destroy_process_group()  # a process that ends inside its group may abort
        return None
    announce(recipe, path, until)
    with watching() as watcher:
        finished = run_recipe(recipe, runs, watcher, until, tracker)
    PartialState().destroy_process_group()
    return finished


def _tell_checkpoint(finished: RunDir, json: bool) -> None:
    checkpoint = str(finished.path / "checkpoint")
    if json:
        say_json({"run": str(finished.path), "status": finished.record["status"], "checkpoint": checkpoint})
    else:
        say(f"checkpoint  {checkpoint}")


def tell(finished: RunDir, json: bool, further: Mapping[str, Any] | None = None) -> None:
    """Write the page of a finished run and say what it measured.

    Args:
        finished: the run.
        json: as JSON.
        further: what JSON says besides.
    """
    from baddiffusion.report import write_report
    from baddiffusion.report.run.reading import RunFiles

    page, files = write_report(finished.path), RunFiles(finished.path)
    results = the_results(files)
    if json:
        about = {"run": str(finished.path), "status": finished.record["status"], "report": str(page)}
        say_json({**about, **results, **(further or {})})
        return
    say(results_table(results["estimates"]))
    say()
    say(summary(files))
    say(f"page  {page}")
