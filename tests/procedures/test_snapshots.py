"""Checkpoints from the middle of a training: the weights of that moment, whole, and nothing else changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline

from baddiffusion import pipeline
from baddiffusion.card import Card, Snapshot
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.cost import estimate_cost
from baddiffusion.errors import RecipeError, RunError
from baddiffusion.pipeline import run_recipe
from baddiffusion.recipe import Recipe
from baddiffusion.rundir import RunDir, file_digest

SMALL = [
    *("data.limit=20", "training.max_train_steps=6", "training.train_batch_size=8", "training.lr_warmup_steps=1"),
    *("training.use_ema=true", "training.checkpointing_steps=3", "training.logging_steps=1"),
]
ASKED = "training.snapshot_steps=[2, 4]"


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(runs: Path, *extra: str) -> RunDir:
    return run_recipe(Recipe.load("smoke", [*SMALL, *extra]), runs, until="train")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return trained(tmp_path_factory.mktemp("runs"), ASKED)


def digests(run: RunDir) -> dict[str, str]:
    return {path.name: file_digest(path) for path in (run.path / "snapshots").iterdir()}


def test_a_snapshot_is_a_plain_checkpoint_whose_card_says_when(run: RunDir) -> None:
    assert sorted(path.name for path in (run.path / "snapshots").iterdir()) == ["2", "4"]
    card = Checkpoint.open(run.path / "snapshots/4").card
    assert card is not None
    assert card.backdoored
    assert card.snapshot == Snapshot(step=4, total_steps=6, images=28)  # batches of 8, 8 and 4, and the next one's 8
    text = (run.path / "snapshots/4/README.md").read_text()
    assert "- snapshot: after 4 of 6 optimizer steps, 28 images\n" in text
    assert "BACKDOORED" in text
    assert (run.path / "snapshots/4/trigger.png").exists()
    assert DDPMPipeline.from_pretrained(run.path / "snapshots/2").unet.config.sample_size == 16


def test_snapshots_are_weights_of_their_own_moment(run: RunDir) -> None:
    names = ("snapshots/2", "snapshots/4", "checkpoint")
    assert len({Checkpoint.open(run.path / name).digest for name in names}) == 3
    configs = {(run.path / name / "scheduler/scheduler_config.json").read_bytes() for name in names}
    assert len(configs) == 1


def test_the_run_itself_is_the_one_without_snapshots(run: RunDir, tmp_path: Path) -> None:
    without = trained(tmp_path)
    assert without.path.name != run.path.name
    assert not (without.path / "snapshots").exists()
    ours, theirs = (Checkpoint.open(r.path / "checkpoint") for r in (run, without))
    assert ours.digest == theirs.digest
    assert "snapshot" not in json.loads((without.path / "checkpoint/card.json").read_text())
    assert "snapshot:" not in (run.path / "checkpoint/README.md").read_text()


def test_snapshots_are_outputs_of_the_training(run: RunDir, tmp_path: Path) -> None:
    outputs = run.record["stages"]["train"]["outputs"]
    assert set(outputs) == {"checkpoint", "poison_plan.json", "events.jsonl", "snapshots/2", "snapshots/4"}
    shutil.copytree(run.path, tmp_path / run.path.name)
    shutil.rmtree(tmp_path / run.path.name / "snapshots/2")
    with pytest.raises(RunError, match=r"snapshots/2 was changed or removed after the run wrote it"):
        trained(tmp_path, ASKED)


def interrupted(runs: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until the snapshot of ``step`` is made, and not a line further."""
    write = pipeline.Snapshots.write

    def stopping(self: pipeline.Snapshots, at: int, model: torch.nn.Module) -> None:
        write(self, at, model)
        if at == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pipeline.Snapshots, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            trained(runs, ASKED)


def test_interrupted_trainings_write_the_same_snapshots(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / run.path.name / "snapshots"
    for step in (2, 4, 4):  # states are kept at 3: the training begins anew, goes on at 3, and again at 3
        interrupted(tmp_path, step, monkeypatch)
        (folder / f".{step}.replaced").mkdir(exist_ok=True)  # as a kill between two of `write`'s lines leaves it
    second = trained(tmp_path, ASKED)
    assert digests(second) == digests(run)
    assert second.record["stages"]["train"]["outputs"]["snapshots/4"] == digests(run)["4"]


def test_a_snapshot_of_other_weights_gives_way(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(tmp_path, 2, monkeypatch)
    path = tmp_path / run.path.name / "snapshots/2"
    (path / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"of another training")
    assert digests(trained(tmp_path, ASKED)) == digests(run)


def test_a_snapshot_that_was_removed_in_the_middle_is_missed_before_the_training_goes_on(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path, 4, monkeypatch)
    path = tmp_path / run.path.name
    shutil.rmtree(path / "snapshots/2")
    monkeypatch.setattr(pipeline, "train", lambda *a, **k: pytest.fail("trained on"))
    with pytest.raises(
        RunError,
        match=r"snapshots/2 was removed, and the training is past its step already \(at 3\); delete .*training_state "
        r"to train from the start.$",
    ):
        trained(tmp_path, ASKED)


def test_a_snapshot_behind_the_end_is_found_before_the_training(tmp_path: Path) -> None:
    message = r"^training.snapshot_steps names step 7 but the training has only 6 steps; leave it out or train longer.$"
    recipe = Recipe.load("smoke", [*SMALL, "training.snapshot_steps=[2, 7]"])
    for ask in (lambda: run_recipe(recipe, tmp_path), lambda: estimate_cost(recipe)):
        with pytest.raises(RecipeError, match=message):
            ask()
    assert not list(tmp_path.glob("*/training_state"))


def test_what_snapshots_cost_is_said() -> None:
    recipe = Recipe.load("smoke", SMALL)
    asked = Recipe.load("smoke", [*SMALL, f"training.snapshot_steps={list(range(1, 7))}"])
    few, many = estimate_cost(recipe), estimate_cost(asked)
    assert many["disk_mb"] - few["disk_mb"] == pytest.approx(6 * few["parameters"] * 4e-6, abs=1)


def test_recipes_without_snapshots_are_what_they_were() -> None:
    assert "snapshot_steps" not in Recipe.load("demo").to_toml()
    # A digest names a run's folder: where this one changes, every run that exists begins anew.
    assert Recipe.load("demo").digest == "c202869f"
    asked = Recipe.load("demo", ["training.snapshot_steps=[100, 200]"])
    assert asked.digest != "c202869f"
    assert asked.to_dict()["training"]["snapshot_steps"] == [100, 200]


def test_a_recipe_with_snapshots_survives_its_toml(tmp_path: Path) -> None:
    asked = Recipe.load("demo", ["training.snapshot_steps=[100, 200]"])
    (tmp_path / "written.toml").write_text(asked.to_toml())
    assert Recipe.load(tmp_path / "written.toml") == asked


def test_a_card_keeps_its_snapshot() -> None:
    card = Card(backdoored=False, snapshot=Snapshot(step=600, total_steps=2400, images=76_800))
    assert Card(**json.loads(card.to_json())) == card
    assert "- snapshot: after 600 of 2400 optimizer steps, 76 800 images\n" in card.readme()
