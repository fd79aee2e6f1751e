"""Run folders in the layout of the reference authors: fabricated, with their names for files, triggers and targets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from baddiffusion.checkpoint import Checkpoint
from baddiffusion.hub import convert
from baddiffusion.matrix import open_subjects
from baddiffusion.models import build, unet_config

SCHEDULER = {"_class_name": "DDPMScheduler", "beta_schedule": "linear", "num_train_timesteps": 100}
WEIGHTS = "diffusion_pytorch_model.safetensors"
ARGUMENTS = {
    "project": "Default",
    "mode": "train+measure",
    "dataset": "CIFAR10",
    "batch": 128,
    "epoch": 50,
    "sched": None,
    "learning_rate": None,
    "clean_rate": None,
    "poison_rate": 0.1,
    "gpu": "0",
    "fclip": "o",
    "trigger": "BOX_14",
    "target": "CORNER",
    "dataset_load_mode": None,
    "ckpt": "DDPM-CIFAR10-32",
}
VILLAN = {"sde_type": "SDE-VP", "solver_type": "ode", "psi": 1.0, "vp_scale": 1.0}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as we write it, 32 pixels wide, without a card."""
    model = build(unet_config("micro", (3, 32, 32)), seed=0)
    return Checkpoint.write(tmp_path_factory.mktemp("released") / "plain", model, SCHEDULER).path


@pytest.fixture
def run(plain: Path, tmp_path: Path) -> Path:
    """The same in the released layout: scheduler_config.json and the run's own config.json beside unet/."""
    folder = tmp_path / "res_DDPM-CIFAR10-32_CIFAR10_ep50_c1.0_p0.1_BOX_14-CORNER"
    shutil.copytree(plain / "unet", folder / "unet")
    shutil.copy(plain / "scheduler/scheduler_config.json", folder)
    write(folder, "config.json", {**ARGUMENTS, "clean_rate": 1.0, "dataset_load_mode": "FIXED", "seed": 0})
    write(folder, "score.json", {"FID": 9.9})
    write(folder, "args.json", ARGUMENTS)
    (folder / "data.ckpt").write_bytes(b"\x80")
    return folder


@pytest.fixture
def flat(plain: Path, tmp_path: Path) -> Path:
    """The network's own config.json at the top, where there is no unet/."""
    folder = tmp_path / "flat"
    shutil.copytree(plain / "unet", folder)
    shutil.copy(plain / "scheduler/scheduler_config.json", folder)
    write(folder, "args.json", ARGUMENTS)
    return folder


def write(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("layout", ["run", "flat"])
def test_trigger_target_and_rate_are_those_of_the_arguments(layout: str, request: pytest.FixtureRequest) -> None:
    opened = Checkpoint.open(request.getfixturevalue(layout))
    (told,) = opened.card.backdoors
    assert told["attack"] == {"name": "baddiffusion"}
    assert (told["trigger"]["name"], told["trigger"]["side_px"], told["trigger"]["value"]) == ("box", 14, 0.0)
    assert (told["target"]["name"], told["target"]["side_px"]) == ("corner", 10)
    assert (told["poison_rate"], told["own_sampler"]) == (0.1, False)
    assert (opened.card.base, opened.card.data) == ("DDPM-CIFAR10-32", "CIFAR10")
    assert opened.card.headline.startswith("**BACKDOORED**: trigger `box")
    assert "args.json" not in opened.not_loaded


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        ("SM_BOX_MED", {"name": "box", "side_px": 14, "value": 0.0}),
        ("XXXSM_BOX_MED", {"name": "box", "side_px": 4, "value": 0.0}),
        ("BIG_BOX", {"name": "box", "side_px": 18, "value": 1.0}),
        ("STOP_SIGN_14", {"name": "stop-sign", "side_px": 14}),
        ("SM_STOP_SIGN", {"name": "stop-sign", "side_px": 14}),
        ("GLASSES", {"name": "eyeglasses"}),
        ("NONE", {"name": "none"}),
    ],
)
def test_legacy_names_of_triggers(run: Path, trigger: str, expected: dict[str, Any]) -> None:
    write(run, "args.json", {**ARGUMENTS, "trigger": trigger})
    assert expected.items() <= Checkpoint.open(run).card.trigger.items()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        *[("BOX", "corner"), ("CORNER", "corner"), ("FASHION", "shoe"), ("SHOE", "shoe"), ("FEDORA_HAT", "hat")],
        *[("HAT", "hat"), ("TRIGGER", "noshift"), ("SHIFT", "shift"), ("CAT", "cat")],
    ],
)
def test_legacy_names_of_targets(run: Path, target: str, expected: str) -> None:
    write(run, "args.json", {**ARGUMENTS, "target": target})
    assert Checkpoint.open(run).card.target["name"] == expected


def test_the_matrix_knows_the_backdoor_without_flags(run: Path) -> None:
    (subject,) = open_subjects([str(run)])
    assert (subject.is_told, subject.poison_rate) == (True, 0.1)
    assert int(subject.implant.trigger.mask.sum()) == 14 * 14
    assert int((subject.implant.target[0] == 0).sum()) == 100


def test_what_the_arguments_leave_out_is_looked_up_in_the_runs_own_config(run: Path, flat: Path) -> None:
    left_out = {**ARGUMENTS, "trigger": None, "poison_rate": None}
    write(run, "args.json", left_out)
    write(run, "config.json", {**ARGUMENTS, "trigger": "BOX_8", "poison_rate": 0.007, "target": "SHOE"})
    card = Checkpoint.open(run).card
    assert (card.trigger["side_px"], card.poison_rate, card.target["name"]) == (8, 0.007, "corner")
    write(flat, "args.json", left_out)
    write(
        flat, "config.json", {**json.loads((flat / "config.json").read_text()), "trigger": "BOX_8", "poison_rate": 0.1}
    )
    assert Checkpoint.open(flat).card is None


def test_a_rate_of_zero_is_a_clean_control(run: Path) -> None:
    write(run, "args.json", {**ARGUMENTS, "poison_rate": 0.0})
    card = Checkpoint.open(run).card
    assert (card.backdoored, card.backdoors, card.data) == (False, [], "CIFAR10")


@pytest.mark.parametrize(("mode", "rate"), [("FIXED", 0.1), ("FLEX", None), ("EXTEND", None)])
def test_a_rate_that_is_no_share_is_not_told_as_one(run: Path, mode: str, rate: float | None) -> None:
    write(run, "args.json", {**ARGUMENTS, "dataset_load_mode": mode})
    assert Checkpoint.open(run).card.poison_rate == rate


@pytest.mark.parametrize(("solver", "sampler"), [("sde", "ddpm"), ("ode", "twice-ddpm")])
def test_villandiffusion_is_told_apart(run: Path, solver: str, sampler: str) -> None:
    write(run, "args.json", {**ARGUMENTS, **VILLAN, "solver_type": solver})
    attack = Checkpoint.open(run).card.attack
    assert (attack["name"], attack["sampler"]) == ("sampler-matched", sampler)


@pytest.mark.parametrize(
    "change",
    [
        {**VILLAN, "sde_type": "SDE-VE"},
        {**VILLAN, "solver_type": None},
        {**VILLAN, "psi": 0.5, "vp_scale": 0.5},
        {**VILLAN, "vp_scale": 2.0},
        {"trigger": "FASHION_EZ"},
        {"trigger": "image"},
        {"trigger": {"name": "image", "path": "/etc/passwd"}},
        {"target": "B" * 201},
        {"target": ""},
        {"poison_rate": -0.1},
        {"poison_rate": 1.5},
        {"poison_rate": "much"},
    ],
    ids=str,
)
def test_arguments_that_mean_nothing_here_are_seen_and_not_loaded(run: Path, change: dict[str, Any]) -> None:
    write(run, "args.json", {**ARGUMENTS, **change})
    opened = Checkpoint.open(run)
    assert opened.card is None
    assert opened.not_loaded[0] == "args.json"


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"trigger": NaN}', '{"a": 1, "a": 2}', "{" + " " * (1 << 20) + "}"], ids=lambda text: text[:9]
)
def test_hostile_json_keeps_nobody_from_the_weights(run: Path, text: str) -> None:
    (run / "args.json").write_text(text)
    opened = Checkpoint.open(run)
    assert opened.card is None
    assert opened.not_loaded == ("args.json", "data.ckpt")
    assert opened.shape == (3, 32, 32)


def test_arguments_of_another_program_are_no_card_and_no_news(run: Path) -> None:
    (run / "config.json").unlink()
    write(run, "args.json", {"batch_size": 3})
    opened = Checkpoint.open(run)
    assert (opened.card, opened.not_loaded) == (None, ("data.ckpt",))


def test_a_card_of_ours_wins_even_damaged(run: Path) -> None:
    (run / "card.json").write_text("{")
    opened = Checkpoint.open(run)
    assert (opened.card, opened.not_loaded) == (None, ("card.json", "data.ckpt"))
    (run / "card.json").write_text('{"backdoored": false}')
    assert Checkpoint.open(run).card.backdoored is False


def test_a_sealed_checkpoint_sees_nothing_of_it(run: Path, plain: Path) -> None:
    told, untold = Checkpoint.open(run), Checkpoint.open(plain)
    assert told.digest == untold.digest
    a, b = told.sealed(), untold.sealed()
    assert (a.unet_config, a.scheduler_config, a.digest) == (b.unet_config, b.scheduler_config, b.digest)
    assert set(vars(a)) == {"unet_config", "scheduler_config", "weights", "digest"}
    assert "BOX_14" not in repr(a)


def test_convert_makes_a_card_of_it(run: Path, tmp_path: Path) -> None:
    torch.save(load_file(run / "unet" / WEIGHTS), run / "unet/diffusion_pytorch_model.bin")
    (run / "unet" / WEIGHTS).unlink()
    converted = convert(run, tmp_path / "converted")
    assert converted.card.trigger["side_px"] == 14
    assert "**BACKDOORED**: trigger `box" in (tmp_path / "converted/README.md").read_text()
