"""Where a training starts: fresh networks with other schedules and answers, and the checkpoints of other runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from baddiffusion.checkpoint import Checkpoint
from baddiffusion.cost import estimate_cost
from baddiffusion.errors import CheckpointError, RecipeError
from baddiffusion.experiment import Experiment
from baddiffusion.models import build, unet_config
from baddiffusion.origin import FRESH_SCHEDULER, ModelSettings, open_base
from baddiffusion.pipeline import run_recipe
from baddiffusion.recipe import Recipe
from baddiffusion.training import loop

QUICK = ("data.limit=8", "training.max_train_steps=2", "training.train_batch_size=4", "training.lr_warmup_steps=1")
FEW = ("sampling.n=2", "sampling.num_inference_steps=3", "sampling.chunk_size=2", "poison.rate=0.5")


def smoke(*changes: str) -> Recipe:
    return Recipe.load("smoke", [*QUICK, *FEW, *changes])


def test_recipes_from_before_there_was_a_choice_keep_their_digest() -> None:
    assert Recipe.load("demo").digest == "c202869f"
    assert Recipe.load("packaged-clean").digest == "67b257f3"
    assert "schedule" not in Recipe.load("demo").to_dict()["model"]
    assert smoke("model.schedule=linear", "model.prediction_type=epsilon").digest == smoke().digest


@pytest.mark.parametrize("change", ["model.schedule=cosine", "model.prediction_type=v_prediction"])
def test_a_choice_is_named_changes_the_digest_and_is_read_back(change: str, tmp_path: Path) -> None:
    recipe = smoke(change)
    key, _, value = change.removeprefix("model.").partition("=")
    assert recipe.to_dict()["model"][key] == value
    assert recipe.digest != smoke().digest
    (tmp_path / "again.toml").write_text(recipe.to_toml())
    assert Recipe.load(tmp_path / "again.toml") == recipe


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        ("linear", {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}),
        ("cosine", {"beta_schedule": "squaredcos_cap_v2"}),
        ("scaled-linear", {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
    ],
)
def test_schedules_are_those_of_diffusers(schedule: Any, theirs: dict[str, Any]) -> None:
    settings = ModelSettings(preset="micro", resolution=16, schedule=schedule)
    checkpoint_betas = Experiment(smoke(f"model.schedule={schedule}")).job.schedule.betas
    torch.testing.assert_close(checkpoint_betas.float(), DDPMScheduler(**theirs).betas, rtol=1e-4, atol=1e-7)
    assert set(settings.scheduler_config) == set(FRESH_SCHEDULER)


def test_the_usual_scheduler_is_the_one_that_it_always_was() -> None:
    assert ModelSettings().scheduler_config == FRESH_SCHEDULER


def test_a_fresh_network_learns_what_its_scheduler_config_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = [], loop.denoising_loss

    def watched(model, table, x_0, r, t, eps, prediction_type):
        asked.append(prediction_type)
        return real(model, table, x_0, r, t, eps, prediction_type)

    monkeypatch.setattr(loop, "denoising_loss", watched)
    run = run_recipe(smoke("model.schedule=cosine", "model.prediction_type=v_prediction"), tmp_path)
    config = Checkpoint.open(run.path / "checkpoint").scheduler_config
    assert (config["beta_schedule"], config["prediction_type"]) == ("squaredcos_cap_v2", "v_prediction")
    assert asked == ["v_prediction"] * 2
    assert (run.path / "metrics.json").exists()


def test_a_base_that_answers_v_is_trained_on_as_such(tmp_path: Path) -> None:
    network = build(unet_config("micro", (1, 16, 16)), seed=0)
    Checkpoint.write(tmp_path / "base", network, {**FRESH_SCHEDULER, "prediction_type": "v_prediction"})
    experiment = Experiment(smoke(f"model.base={tmp_path / 'base'}"))
    assert experiment.job.prediction_type == "v_prediction"
    plain = Experiment(smoke()).job
    assert plain.prediction_type == "epsilon"
    assert plain.identity(network) != experiment.job.identity(network)


def test_a_base_in_the_same_folder_of_runs_is_named_without_a_path(tmp_path: Path) -> None:
    first = run_recipe(smoke(), tmp_path, until="train")
    second = run_recipe(smoke(f"model.base=run:{first.path.name}", "seed=1"), tmp_path, until="train")
    base, made = (Checkpoint.open(run.path / "checkpoint") for run in (first, second))
    assert second.record["stages"]["train"]["inputs"]["base"] == base.digest
    assert made.card is not None
    assert made.card.base == f"run:{first.path.name}"
    assert made.digest != base.digest
    assert (second.path / "recipe.toml").read_text().count(str(tmp_path)) == 0


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["schedule=cosine", "prediction_type=v_prediction"])
def test_a_base_brings_its_own_scheduler(change: str) -> None:
    name = change.partition("=")[0]
    with pytest.raises(RecipeError, match=rf"model.{name} is .*, but the base packaged:clean brings its own; leave"):
        smoke(f"model.{change}", "model.base=packaged:clean")


def test_unknown_schedules_and_answers_are_told_what_is_known() -> None:
    with pytest.raises(RecipeError, match=r"model.schedule is 'sigmoid'; it must be 'linear', 'cosine' or 'scaled-li"):
        smoke("model.schedule=sigmoid")
    with pytest.raises(RecipeError, match=r"model.prediction_type is 'v'; it must be 'epsilon', 'v_prediction' or"):
        smoke("model.prediction_type=v")


@pytest.mark.parametrize("name", ["run:", "run:../other", "run:a/b", "run:.hidden"])
def test_a_run_is_named_and_no_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"model.base is 'run:.*'; behind run: stands the name of a run directory"):
        open_base(name, tmp_path)


def test_a_run_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'run:gone', but .* holds no finished training of that name. Run it fi"):
        open_base("run:gone", tmp_path)
    with pytest.raises(CheckpointError, match=r"'run:gone', but the folder of runs holds no finished training"):
        estimate_cost(smoke("model.base=run:gone"))
