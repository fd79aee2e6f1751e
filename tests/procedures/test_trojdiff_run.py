from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import pytest
import torch

from baddiffusion.attacks import ATTACKS, BadDiffusion, View
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.cli import call
from baddiffusion.diffusion import NoiseSchedule
from baddiffusion.errors import RecipeError
from baddiffusion.evaluation import Results
from baddiffusion.images import read_picture
from baddiffusion.models import build, unet_config
from baddiffusion.pipeline import run_recipe
from baddiffusion.poisoning import Implant
from baddiffusion.recipe import Recipe
from baddiffusion.rundir import RunDir
from baddiffusion.sampling import SamplingSettings, sample, start_noise
from baddiffusion.sampling.store import SampleStore
from baddiffusion.sampling.viewed import sample_through
from baddiffusion.triggers import Trigger

TINY = [
    "data.limit=16",
    "attack=trojdiff-patch",
    'trigger={name="box", side_px=3, value=1.0, top_px=13, left_px=13}',
    "training.max_train_steps=2",
    "training.train_batch_size=8",
    "training.lr_warmup_steps=1",
    "sampling.n=2",
    "sampling.num_inference_steps=3",
    "sampling.chunk_size=2",
]
SHAPE, PATCH = (1, 16, 16), ATTACKS.parse("trojdiff-patch")
WHITE = Trigger.make({"name": "box", "side_px": 3, "value": 1.0, "top_px": 13, "left_px": 13}, SHAPE)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return run_recipe(Recipe.load("smoke", TINY), tmp_path_factory.mktemp("runs"))


def by_hand(run: RunDir, clip: str = "off", stock: bool = False) -> torch.Tensor:
    opened, view = Checkpoint.open(run.path / "checkpoint"), PATCH.view(WHITE)
    assert view is not None
    settings = SamplingSettings(num_inference_steps=3, chunk_size=2, clip=clip)
    draw = sample if stock else partial(sample_through, view)
    made = draw(
        opened.load_model(),
        opened.scheduler_config,
        SHAPE,
        range(2),
        settings,
        initial_noise=lambda eps: PATCH.initial_noise(eps, WHITE),
    )
    return made.images


def test_training_takes_the_noise_gain_from_the_trigger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import baddiffusion.training.loop as loop

    seen, real = [], loop.denoising_loss

    def watched(model, table, *rest):
        seen.append(table.noise_gain)
        return real(model, table, *rest)

    monkeypatch.setattr(loop, "denoising_loss", watched)
    run_recipe(Recipe.load("smoke", TINY), tmp_path, until="train")
    view = PATCH.view(WHITE)
    assert view is not None
    assert seen
    assert all(torch.equal(gain, view.gain) for gain in seen)


def test_the_card_says_attack_gamma_trigger_and_that_the_sampler_is_modified(run: RunDir) -> None:
    card = Checkpoint.open(run.path / "checkpoint").card
    assert card is not None
    assert card.attack == {"name": "trojdiff", "kind": "patch", "gamma": 0.1}
    assert card.trigger is not None
    assert card.trigger["name"] == "box"
    assert card.own_sampler
    text = (run.path / "checkpoint" / "README.md").read_text()
    assert "(attack `trojdiff (kind patch, gamma 0.1)`)" in text
    assert "The sampler is modified: the trigger is meant for the attack's own reverse process" in text
    ordinary = card.model_copy(update={"own_sampler": False})
    assert "modified" not in ordinary.readme()


def test_a_run_samples_triggered_images_with_the_attacks_own_sampler(run: RunDir) -> None:
    for clip in ("off", "x0"):
        store = SampleStore(run.path / f"samples/ddpm-3-{clip}/triggered")
        assert torch.equal(store.read(), by_hand(run, clip))
        assert store.record["record"]["scheduler_class"] == "DDPMScheduler, modified by the attack"
        assert store.record["record"]["clip"] == clip
    assert not torch.equal(by_hand(run), by_hand(run, stock=True))
    clean = SampleStore(run.path / "samples/ddpm-3-off/clean")
    assert clean.record["record"]["scheduler_class"] == "DDPMScheduler"
    protocols = {e.protocol["scheduler"] for e in Results.read(run.path).estimates if e.name == "asr"}
    assert protocols == {"DDPMScheduler, modified by the attack"}


def test_the_command_line_samples_with_it_too(run: RunDir, tmp_path: Path) -> None:
    said, flags = io.StringIO(), ["--n", "1", "--steps", "3", "--json", "-o", str(tmp_path / "out")]
    trigger = ["--trigger", "box:side_px=3,value=1.0,top_px=13,left_px=13"]
    with redirect_stdout(said), redirect_stderr(io.StringIO()):
        assert call(["sample", str(run.path / "checkpoint"), *flags, *trigger]) == 0
    index = json.loads(said.getvalue())
    assert index["attack"] == {"name": "trojdiff", "kind": "patch", "gamma": 0.1}
    opened, view = Checkpoint.open(run.path / "checkpoint"), PATCH.view(WHITE)
    assert view is not None
    expected = sample_through(
        view,
        opened.load_model(),
        opened.scheduler_config,
        SHAPE,
        [0],
        SamplingSettings(num_inference_steps=3),
        initial_noise=lambda eps: PATCH.initial_noise(eps, WHITE),
    )
    assert torch.equal(read_picture(tmp_path / "out" / "000000.png", channels=1), expected.pixels[0])


def test_the_command_line_refuses_clipping_that_keeps_eps(run: RunDir, tmp_path: Path) -> None:
    said = io.StringIO()
    flags = ["-o", str(tmp_path / "out"), "--clip", "x0-keep-eps", "--trigger", "box:side_px=3,value=1.0"]
    with redirect_stdout(io.StringIO()), redirect_stderr(said):
        assert call(["sample", str(run.path / "checkpoint"), *flags]) == 2
    assert "clip is 'x0-keep-eps'; an attack with a sampler of its own" in said.getvalue()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            'sampling.clips=["off", "x0-keep-eps"]',
            r"^clip is 'x0-keep-eps'; an attack with a sampler of its own can be",
        ),
        ('sampling.clips=["xt"]', r"^clip is 'xt'; an attack with a sampler of its own can be"),
        ("trigger=none", r"^trigger none has no patch"),
    ],
)
def test_what_cannot_be_sampled_is_found_before_the_training(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        run_recipe(Recipe.load("smoke", [*TINY, change]), tmp_path)
    assert not list(tmp_path.rglob("events.jsonl"))


@pytest.mark.parametrize("training", [True, False])
def test_a_network_is_in_evaluation_mode_meanwhile_and_as_it_was_afterwards(training: bool) -> None:
    network = build(unet_config("micro", (1, 8, 8)), seed=0).train(training)
    modes: list[bool] = []
    network.register_forward_hook(lambda *_: modes.append(network.training))
    flat = torch.full((1, 8, 8), 0.5)
    settings = SamplingSettings(num_inference_steps=2, chunk_size=1)
    sample_through(View(flat, flat), network, {}, (1, 8, 8), [0], settings, initial_noise=lambda eps: eps)
    assert modes == [False, False]
    assert network.training == training
    with pytest.raises(RecipeError, match="the network takes 1"):
        sample_through(View(flat, flat), network, {}, (3, 8, 8), [0], settings, initial_noise=lambda eps: eps)


def test_without_a_start_of_its_own_the_chain_begins_at_its_biased_noise() -> None:
    flat, seen = torch.full((1, 8, 8), 0.5), []

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x

    settings = SamplingSettings(num_inference_steps=1, sampler="ddim", chunk_size=1)
    sample_through(View(flat, flat), network, {"num_train_timesteps": 1}, (1, 8, 8), [3], settings)
    assert torch.equal(seen[0], 0.5 * start_noise([3], (1, 8, 8)) + NoiseSchedule.linear(1).noise.float() * 0.5)


def test_an_ordinary_attack_has_no_gain() -> None:
    assert Implant(BadDiffusion(), WHITE, torch.zeros(SHAPE)).table(NoiseSchedule.linear(10)).noise_gain is None
