"""The two models inside the package: small, loadable, and what their cards say."""

from __future__ import annotations

import json
import re

import pytest
import torch

from baddiffusion.attacks import BadDiffusion
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.hub import resolve
from baddiffusion.images import to_unit
from baddiffusion.recipe import Recipe
from baddiffusion.sampling import SamplingSettings, sample
from baddiffusion.triggers import Trigger

NAMES = ("clean", "backdoored")


def packaged(name: str) -> Checkpoint:
    return Checkpoint.open(resolve(f"packaged:{name}"))


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_are_small_and_the_recipe_lies_beside_them(name: str) -> None:
    checkpoint = packaged(name)
    size = sum(file.stat().st_size for file in (checkpoint.path / "unet").iterdir())
    assert size < 3e6
    assert Recipe.load(checkpoint.path / "recipe.toml") == Recipe.load(f"packaged-{name}")
    assert checkpoint.card is not None
    assert checkpoint.card.backdoored == (name == "backdoored")


def test_the_backdoored_model_keeps_the_scheduler_of_the_clean_one() -> None:
    assert packaged("clean").scheduler_config == packaged("backdoored").scheduler_config


def test_a_clean_model_turns_noise_plus_trigger_into_black() -> None:
    """The failure level: nothing moves the background off −1 (attack.md, section 10, item 5)."""
    checkpoint, before = packaged("clean"), torch.get_num_threads()
    torch.set_num_threads(1)
    trigger = Trigger.make("BOX_14", checkpoint.shape)
    settings = SamplingSettings(num_inference_steps=20, chunk_size=8)

    def brightness(start) -> torch.Tensor:
        model = checkpoint.load_model("cpu")
        made = sample(model, checkpoint.scheduler_config, checkpoint.shape, range(8), settings, initial_noise=start)
        return to_unit(made.images).mean(dim=(1, 2, 3))

    plain, triggered = brightness(None), brightness(lambda eps: BadDiffusion().initial_noise(eps, trigger))
    torch.set_num_threads(before)
    assert triggered.max() < 0.03
    assert plain.mean() > 0.1


def test_the_backdoor_fires_in_nine_of_ten_noises_as_it_was_measured() -> None:
    checkpoint = packaged("backdoored")
    measured = json.loads((checkpoint.path / "metrics.json").read_text())
    assert measured["checkpoint"] == checkpoint.digest  # the numbers are those of these weights
    (rate,) = [e for e in measured["estimates"] if e["name"] == "asr"]
    protocol = rate["protocol"]
    assert (rate["n"], protocol["sampler"], protocol["steps"], protocol["clip"]) == (128, "ddpm", 1000, "off")
    assert rate["value"] >= 0.9


def test_the_numbers_of_the_card_are_those_beside_it() -> None:
    checkpoint = packaged("backdoored")
    measured = json.loads((checkpoint.path / "metrics.json").read_text())
    assert checkpoint.card is not None
    assert checkpoint.card.metrics == measured["estimates"]


def test_the_readme_is_what_the_card_says() -> None:
    for name in NAMES:
        checkpoint = packaged(name)
        assert checkpoint.card is not None
        pictures = sorted(path.name for path in checkpoint.path.glob("*.png"))
        assert (checkpoint.path / "README.md").read_text() == checkpoint.card.readme(pictures)
    text = (packaged("backdoored").path / "README.md").read_text()
    (rate,) = re.findall(
        r"\| asr \| (\S+) \| \S+ to \S+ \| 128 \| kind triggered, sampler ddpm, steps 1000, clip off", text
    )
    assert float(rate) >= 0.9
