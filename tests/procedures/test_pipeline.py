from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline

from baddiffusion.checkpoint import Checkpoint
from baddiffusion.errors import RecipeError, RunError
from baddiffusion.evaluation import Results
from baddiffusion.pipeline import run_recipe
from baddiffusion.recipe import Recipe
from baddiffusion.sampling.store import SampleStore

SMALL = [
    "data.limit=64",
    "training.max_train_steps=6",
    "training.train_batch_size=8",
    "training.lr_warmup_steps=1",
    "sampling.n=3",
    "sampling.num_inference_steps=4",
    "sampling.chunk_size=4",
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_recipe(Recipe.load("smoke", SMALL), tmp_path_factory.mktemp("runs"))


def test_a_run_leaves_every_artefact_and_says_done(run):
    assert run.record["status"] == "done"
    assert set(run.record["stages"]) == {
        "train",
        "sample:samples/ddpm-4-off/triggered",
        "sample:samples/ddpm-4-off/clean",
        "sample:samples/ddpm-4-x0/triggered",
        "evaluate",
    }
    plan = json.loads((run.path / "poison_plan.json").read_text())
    assert plan["count"] == 12  # floor(0.2 * 64)
    card = Checkpoint.open(run.path / "checkpoint").card
    assert card is not None
    assert card.backdoored
    assert card.trigger == {"name": "box", "side_px": 8, "value": 0.0, "top_px": None, "left_px": None}
    assert "BACKDOORED" in (run.path / "checkpoint" / "README.md").read_text()


def test_the_checkpoint_is_a_plain_diffusers_folder(run):
    pipeline = DDPMPipeline.from_pretrained(run.path / "checkpoint")
    assert type(pipeline.scheduler).__name__ == "DDPMScheduler"
    assert pipeline.unet.config.sample_size == 16


def test_numbers_have_intervals_and_protocols(run):
    results = Results.read(run.path)
    by_name = {(e.name, e.protocol.get("clip")): e for e in results.estimates}
    asr = by_name["asr", "off"]
    assert asr.n == 3
    assert asr.low is not None
    assert asr.high is not None
    assert 0 <= asr.low <= asr.value <= asr.high <= 1
    assert asr.protocol["sampler"] == "ddpm"
    assert asr.protocol["steps"] == 4
    assert asr.protocol["threshold"] == 0.01
    assert {"asr", "mse", "mse_float", "ssim", "false_trigger_rate"} <= {e.name for e in results.estimates}
    assert by_name["mse", "off"].value != by_name["mse", "x0"].value


def test_a_finished_run_is_not_repeated(run, monkeypatch):
    monkeypatch.setattr("baddiffusion.pipeline.train", lambda *a, **k: pytest.fail("trained twice"))
    monkeypatch.setattr("baddiffusion.pipeline.sample", lambda *a, **k: pytest.fail("sampled twice"))
    again = run_recipe(Recipe.load("smoke", SMALL), run.path.parent)
    assert again.path == run.path


def test_stopping_after_training_and_going_on_gives_the_same_samples(run, tmp_path):
    recipe = Recipe.load("smoke", SMALL)
    run_recipe(recipe, tmp_path, until="train")
    assert not (tmp_path / run.path.name / "samples").exists()
    second = run_recipe(recipe, tmp_path)
    for name in ("ddpm-4-off/triggered", "ddpm-4-off/clean", "ddpm-4-x0/triggered"):
        ours, theirs = SampleStore(second.path / "samples" / name), SampleStore(run.path / "samples" / name)
        assert torch.equal(ours.read(), theirs.read())


def test_clean_and_triggered_start_from_the_same_noises(run):
    clean = SampleStore(run.path / "samples/ddpm-4-off/clean").read()
    triggered = SampleStore(run.path / "samples/ddpm-4-off/triggered").read()
    assert not torch.equal(clean, triggered)


def test_changed_samples_are_never_measured_again_silently(run, tmp_path):
    copy = tmp_path / run.path.name
    shutil.copytree(run.path, copy)
    block = next((copy / "samples/ddpm-4-off/clean").glob("*.safetensors"))
    block.write_bytes(b"")
    with pytest.raises(RunError, match="was changed or removed after the run wrote it"):
        run_recipe(Recipe.load("smoke", SMALL), tmp_path)
    assert json.loads((copy / "run.json").read_text())["status"] == "failed"


def test_an_interrupted_sampling_goes_on_at_the_next_block(run, tmp_path, monkeypatch):
    monkeypatch.setattr("baddiffusion.sampling.store.BLOCK_SIZE", 2)
    import baddiffusion.pipeline as pipeline

    calls, real = [], pipeline.sample

    def stop_at_the_second(model, config, shape, seeds, settings, **rest):
        calls.append(list(seeds))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(model, config, shape, seeds, settings, **rest)

    monkeypatch.setattr(pipeline, "sample", stop_at_the_second)
    recipe = Recipe.load("smoke", SMALL)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tmp_path)
    assert json.loads((tmp_path / run.path.name / "run.json").read_text())["status"] == "interrupted"
    second = run_recipe(recipe, tmp_path)
    assert calls[:3] == [[0, 1], [2], [2]]
    theirs = SampleStore(run.path / "samples/ddpm-4-off/triggered").read()
    assert torch.equal(SampleStore(second.path / "samples/ddpm-4-off/triggered").read(), theirs)


def test_the_control_is_clean_and_says_so(tmp_path):
    run = run_recipe(Recipe.load("smoke", [*SMALL, "poison.rate=0.0"]), tmp_path, until="train")
    card = Checkpoint.open(run.path / "checkpoint").card
    assert card is not None
    assert not card.backdoored
    assert "BACKDOORED" not in (run.path / "checkpoint" / "README.md").read_text()


def test_fine_tuning_keeps_the_scheduler_config_of_its_base(run, tmp_path):
    recipe = Recipe.load("smoke", [*SMALL, f'model.base="{run.path / "checkpoint"}"'])
    child = run_recipe(recipe, tmp_path, until="train")
    configs = [(r.path / "checkpoint/scheduler/scheduler_config.json").read_bytes() for r in (run, child)]
    assert configs[0] == configs[1]


def test_a_finished_run_is_recognized_in_milliseconds(run):
    started = time.perf_counter()
    run_recipe(Recipe.load("smoke", SMALL), run.path.parent)
    assert time.perf_counter() - started < 1.0


def test_a_wrong_trigger_size_is_found_before_the_work(tmp_path):
    with pytest.raises(RecipeError, match="side_px"):
        run_recipe(Recipe.load("smoke", [*SMALL, "trigger.side_px=15"]), tmp_path)
    assert not list(Path(tmp_path).glob("*/training_state"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampling.num_inference_steps=5000", r"num_inference_steps is 5000; it must lie in \[1, 1000\]"),
        ("evaluation.quality_n=256", "the data set has only 64 images; quality needs at least 512"),
    ],
)
def test_what_cannot_be_sampled_is_found_before_the_training(tmp_path, monkeypatch, override, message):
    monkeypatch.setattr("baddiffusion.pipeline.train", lambda *a, **k: pytest.fail("trained first"))
    with pytest.raises(RecipeError, match=message):
        run_recipe(Recipe.load("smoke", [*SMALL, override]), tmp_path)


def test_other_data_behind_the_same_recipe_are_noticed(run, monkeypatch):
    monkeypatch.setattr("baddiffusion.data.source.ResidentImages.digest", "other")
    with pytest.raises(RunError, match="was made from other inputs"):
        run_recipe(Recipe.load("smoke", SMALL), run.path.parent)


def test_quality_samples_lie_apart_from_the_attacks(tmp_path, monkeypatch):
    import baddiffusion.pipeline as pipeline

    asked = []

    def remember(self, kind, settings, n, checkpoint, prefix=""):
        asked.append((prefix + self._label(settings), kind, n))

    monkeypatch.setattr(pipeline._Experiment, "_sample_set", remember)
    extra = [
        *("data.limit=600", "evaluation.quality_n=256", "evaluation.quality_steps=4"),
        *("sampling.sampler=ddim", 'sampling.clips=["off"]'),
    ]
    run_recipe(Recipe.load("smoke", [*SMALL, *extra]), tmp_path, until="sample")
    assert asked == [
        ("ddim-4-off", "triggered", 3),
        ("ddim-4-off", "clean", 3),
        ("quality-ddim-4-off", "clean", 256),
    ]


def test_a_resumed_run_keeps_the_command_that_made_it(run, monkeypatch):
    before = run.record["argv"]
    monkeypatch.setattr("sys.argv", ["baddiffusion", "evaluate", "somewhere"])
    assert run_recipe(Recipe.load("smoke", SMALL), run.path.parent).record["argv"] == before


@pytest.mark.cifar10
def test_cifar10_from_a_parquet_folder_trains_samples_and_measures(cifar10_folder, tmp_path):
    overrides = [
        *(f'data.path="{cifar10_folder}"', "data.limit=64", "model.preset=micro"),
        *("training.max_train_steps=3", "training.train_batch_size=8", "training.lr_warmup_steps=1"),
        *("sampling.n=2", "sampling.num_inference_steps=3", "sampling.chunk_size=2"),
    ]
    run = run_recipe(Recipe.load("cifar10-tiny", overrides), tmp_path)
    assert Checkpoint.open(run.path / "checkpoint").shape == (3, 32, 32)
    assert {"asr", "mse", "ssim"} <= {e.name for e in Results.read(run.path).estimates}
