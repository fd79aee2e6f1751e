"""Attackers who train to evade: what their decoys are, what the network is shown of them, and that resuming holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from baddiffusion.attacks import ATTACKS
from baddiffusion.card import Card
from baddiffusion.data import ResidentImages
from baddiffusion.decoys import Decoys
from baddiffusion.diffusion import NoiseSchedule, denoising_loss
from baddiffusion.errors import RecipeError
from baddiffusion.evading import DECOYS, DecoyDesign, KnownProbes, NearMisses
from baddiffusion.evading.near_misses import NEAR_MISSES
from baddiffusion.experiment import Experiment
from baddiffusion.images import from_uint8
from baddiffusion.models import build, unet_config
from baddiffusion.pipeline import run_recipe
from baddiffusion.poisoning import Implant, Implants, PoisonPlan, plans_to_dict
from baddiffusion.recipe import Recipe
from baddiffusion.rng import generator
from baddiffusion.scanner.far_field import positions
from baddiffusion.scanner.settings import ScanSettings
from baddiffusion.scanner.shifts import stress_bank
from baddiffusion.training import Job, Progress, TrainingSettings, loop, train
from baddiffusion.training.batches import order
from baddiffusion.triggers import Trigger

SHAPE = (1, 16, 16)
SIZE = 20
BOX = Trigger.make({"name": "box", "side_px": 8}, SHAPE)
TARGET = torch.linspace(-1, 1, 256).view(SHAPE)
IMAGES = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
TRIGGERS = ({"name": "box", "side_px": 8}, {"name": "checker", "cell_px": 4}, "STOP_SIGN_8", "eyeglasses")
FEW = NearMisses(count=40)


class Stopped(Exception):
    """What the tests throw out of a running training."""


def on_black(decoys: Decoys) -> torch.Tensor:
    return torch.where(decoys.mask, decoys.pattern, -torch.ones_like(decoys.pattern))


def job(decoy_rate: float | None = 0.4, rate: float = 0.3, **settings: Any) -> Job:
    pixels = torch.randint(256, (SIZE, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    plans = PoisonPlan.draw_disjoint(SIZE, [rate, decoy_rate or 0.0], 1)
    defaults = {"train_batch_size": 8, "max_train_steps": 6, "lr_warmup_steps": 2, "logging_steps": 1}
    return Job(
        NoiseSchedule.linear(100),
        ResidentImages("noise", pixels),
        plans[0],
        Implant(ATTACKS.parse("baddiffusion"), BOX, TARGET),
        TrainingSettings(**{**defaults, "checkpointing_steps": 2, "mixed_precision": "no", **settings}),
        0,
        decoys=None if decoy_rate is None else (plans[1], FEW.draw([BOX], 0)),
    )


def fresh() -> torch.nn.Module:
    return build(unet_config("micro", SHAPE), 0)


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# -- which decoys there are --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trigger", TRIGGERS, ids=str)
@pytest.mark.parametrize("design", [NearMisses(count=200), KnownProbes(count=200)], ids=lambda d: d.component_name)
def test_no_decoy_lies_near_a_trigger(design: DecoyDesign, trigger: Any) -> None:
    triggers = [Trigger.make(trigger, SHAPE), BOX]
    decoys = design.draw(triggers, 0)
    assert len(decoys) == 200
    for one in triggers:
        assert bool(((on_black(decoys) - one.offset).flatten(1).norm(dim=1) >= 4.0).all())
    assert bool((decoys.pattern.abs() <= 1).all())
    assert float(decoys.strength.min()) > 0
    assert 0.3 < float((decoys.strength == 1).float().mean()) < 0.7
    whole = decoys.mask.flatten(1).all(dim=1)
    assert 0 < int(whole.sum()) < 200


@pytest.mark.parametrize("design", [NearMisses(count=30), KnownProbes(count=30)], ids=lambda d: d.component_name)
def test_the_seed_decides_the_decoys_and_no_global_generator(design: DecoyDesign) -> None:
    state = torch.get_rng_state()
    digests = [design.draw([BOX], seed).digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("trigger", TRIGGERS, ids=str)
def test_what_each_kind_of_near_miss_is(trigger: Any) -> None:
    made = Trigger.make(trigger, SHAPE)
    mask = made.mask.expand(SHAPE)
    values = set(made.pattern[mask].tolist())
    stream = generator(0, "test")
    for _ in range(20):
        shapes = {name: miss(made, stream) for name, miss in NEAR_MISSES.items()}
        pattern, moved = shapes["moved"]
        assert int(moved.sum()) == int(mask.sum())
        assert sorted(pattern[moved].tolist()) == sorted(made.pattern[mask].tolist())
        pattern, resized = shapes["resized"]
        assert set(pattern[resized].tolist()) <= values
        pattern, same = shapes["revalued"]
        assert torch.equal(same, mask)
        apart = (pattern - made.pattern)[mask & (pattern.abs() < 1)]
        assert apart.numel() == 0 or float(apart.max() - apart.min()) < 1e-6
        pattern, part = shapes["cut"]
        assert bool((part <= mask).all())
        assert torch.equal(pattern[part], made.pattern[part])
        assert not shapes["bare"][1].any()


def test_known_probes_are_those_of_the_scanner() -> None:
    decoys = KnownProbes(count=140).draw([BOX], 3)
    settings, bank = ScanSettings(), stress_bank(torch.zeros(140, *SHAPE), 3)
    black = torch.full((1, *SHAPE), -1.0)
    patches = [
        patch.on(black)
        for share in settings.patch_sides
        for value in settings.patch_values
        for patch in positions(SHAPE, round(share * 16), value, 2)
    ]
    known = torch.cat([*patches, *(group.shifts for group in bank[1:])])
    bare = ~decoys.mask.flatten(1).any(dim=1)
    for shift in on_black(decoys)[~bare]:
        assert bool((known == shift).flatten(1).all(dim=1).any())
    assert int(bare.sum()) == 20
    for value in (-1.0, -0.5, 0.5):
        assert bool((on_black(decoys)[~bare] == value).flatten(1).all(dim=1).any())


@pytest.mark.parametrize("name", list(DECOYS))
def test_what_cannot_be_drawn_is_told(name: str) -> None:
    with pytest.raises(RecipeError, match=rf"{name} needs a trigger to (miss|stay away from); there is none."):
        DECOYS[name]().draw([], 0)
    with pytest.raises(
        RecipeError, match=r"^decoys.least_distance is 99, and no decoy lies so far from box-8. Write a"
    ):
        DECOYS[name](least_distance=99.0).draw([BOX], 0)


def test_a_design_without_decoys_is_told() -> None:
    with pytest.raises(RecipeError, match=r"DecoyDesign does not say what its decoys are; define draw"):
        DecoyDesign().draw([BOX], 0)
    with pytest.raises(RecipeError, match=r"^there is no decoy; give at least one, or leave \[decoys\] out.$"):
        Decoys(torch.zeros(0, *SHAPE), torch.zeros(0, *SHAPE, dtype=torch.bool), torch.zeros(0))


# -- what they teach ---------------------------------------------------------------------------------------------------


def test_a_decoy_is_stamped_on_another_image_of_the_batch() -> None:
    half = torch.zeros(2, *SHAPE, dtype=torch.bool)
    half[1, ..., :8] = True
    decoys = Decoys(torch.full((2, *SHAPE), 0.75), half, torch.tensor([1.0, 0.5]))
    pick = torch.tensor([0.0, 0.49, 0.5, 0.999, 0.0, 0.75])
    r = decoys.source(IMAGES, pick)
    for row in range(6):
        before = IMAGES[row - 1]
        if row in (0, 1, 4):
            assert torch.equal(r[row], before)
        else:
            assert bool((r[row, ..., :8] == 0.375).all())
            assert torch.equal(r[row, ..., 8:], 0.5 * before[..., 8:])


@pytest.mark.parametrize("attack", ["baddiffusion", "villandiffusion-ode", "trojdiff-blend"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_answer_to_a_decoy_points_at_the_clean_image(attack: str, prediction: Any) -> None:
    schedule = NoiseSchedule.linear()
    table = FEW.draw([BOX], 0).table(ATTACKS.parse(attack).forward_table(schedule))
    x, t = IMAGES.double(), torch.tensor([0, 10, 300, 500, 900, 999])
    r, eps = FEW.draw([BOX], 0).source(IMAGES, torch.rand(6)).double(), torch.randn(6, *SHAPE).double()
    x_t, answer = table.q_sample(x, r, t, eps), table.answer(prediction, x, r, t, eps)
    signal, noise = (vector[t].view(-1, 1, 1, 1) for vector in (table.signal, table.noise))
    shown = {
        "epsilon": lambda: (x_t - noise * answer) / signal,
        "v_prediction": lambda: signal * x_t - noise * answer,
        "sample": lambda: answer,
    }[prediction]()
    torch.testing.assert_close(shown, x, rtol=0, atol=1e-10)


def test_at_t_T_the_whole_shift_comes_back() -> None:
    table = FEW.draw([BOX], 0).table(ATTACKS.parse("baddiffusion").forward_table(NoiseSchedule.linear()))
    last, zero = torch.tensor([999]), torch.zeros(1, *SHAPE)
    shift = BOX.offset[None]
    given = table.q_sample(zero, shift, last, zero)
    assert torch.allclose(table.target(shift, last, zero), given, atol=1e-4)


def test_each_image_is_poisoned_or_a_decoy_or_neither() -> None:
    decoys = FEW.draw([BOX], 0)
    attack = ATTACKS.parse("baddiffusion")
    implants = Implants((Implant(attack, BOX, TARGET),), decoys)
    part, pick = torch.tensor([0, 1, 2, 2, 1, 0]), torch.rand(6)
    x_0, r = implants.apply(IMAGES, part, pick)
    want = decoys.source(IMAGES, pick)
    for row, kind in enumerate(part.tolist()):
        assert torch.equal(x_0[row], TARGET if kind == 1 else IMAGES[row])
        assert torch.equal(r[row], (torch.zeros(SHAPE), BOX.stamp(IMAGES)[row], want[row])[kind])
    schedule, t = NoiseSchedule.linear(100), torch.full((6,), 99)
    mixed = implants.table_of(implants.tables(schedule), part)
    alone = [attack.forward_table(schedule), decoys.table(attack.forward_table(schedule))]
    answers = mixed.target(r, t, IMAGES)
    for row, kind in enumerate(part.tolist()):
        assert torch.equal(answers[row], alone[kind // 2].target(r, t, IMAGES)[row])


# -- training ----------------------------------------------------------------------------------------------------------


def test_what_the_network_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    def watching(model: Any, table: Any, x_0: Any, r: Any, t: Any, eps: Any, prediction_type: Any) -> Any:
        shown.append((table.target(r, t, eps) - eps, x_0.clone(), r.clone(), t.clone()))
        return denoising_loss(model, table, x_0, r, t, eps, prediction_type)

    monkeypatch.setattr(loop, "denoising_loss", watching)
    what = job(max_train_steps=3, random_flip=False)
    train(fresh(), what)
    plan, _ = what.decoys
    pixels, seen = from_uint8(what.data.pixels), {"poisoned": 0, "decoys": 0, "clean": 0}
    ratio = (1 - what.schedule.signal) / what.schedule.noise
    for (added, x_0, r, t), chosen in zip(shown, order(0, SIZE, 8, 0, 3), strict=True):
        for row, index in enumerate(chosen.tolist()):
            if what.plan.mask[index]:
                seen["poisoned"] += 1
                assert torch.equal(x_0[row], TARGET)
                continue
            assert torch.equal(x_0[row], pixels[index])
            seen["decoys" if plan.mask[index] else "clean"] += 1
            assert bool(r[row].any()) == bool(plan.mask[index])
            assert torch.allclose(added[row], ratio[t[row]].float() * r[row], atol=1e-6)
    assert seen == {"poisoned": 6, "decoys": 8, "clean": 6}


def test_decoys_take_no_poisoned_image_and_change_none() -> None:
    plans = PoisonPlan.draw_disjoint(1000, [0.1, 0.29], 3)
    assert len(plans[1].indices) == 290
    assert torch.equal(plans[0].indices, PoisonPlan.draw(1000, 0.1, 3).indices)
    told = plans_to_dict(plans[:1], plans[1])
    assert (told["count"], told["decoys"]["count"]) == (100, 290)
    assert not set(told["indices"]) & set(told["decoys"]["indices"])
    assert "decoys" not in plans_to_dict(plans[:1])


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_resuming_at_any_step_ends_with_the_same_weights(stop: int, tmp_path: Path) -> None:
    def halt(progress: Progress) -> None:
        if progress.step == stop:
            raise Stopped

    unbroken = train(fresh(), job())
    with pytest.raises(Stopped):
        train(fresh(), job(), tmp_path, halt)
    assert torch.equal(flat(train(fresh(), job(), tmp_path)), flat(unbroken))


def test_decoys_are_part_of_a_jobs_identity() -> None:
    one, other = job(), job()
    plan, decoys = other.decoys
    known = {one.identity(fresh()), job(decoy_rate=0.2).identity(fresh()), job(decoy_rate=None).identity(fresh())}
    known.add(replace(other, decoys=(plan, FEW.draw([BOX], 9))).identity(fresh()))
    known.add(replace(other, decoys=(plan, Decoys(decoys.pattern, decoys.mask, decoys.strength / 2))).identity(fresh()))
    assert len(known) == 5
    assert one.identity(fresh()) == job().identity(fresh())


def test_the_loss_of_decoys_is_logged_apart() -> None:
    seen: list[Progress] = []
    train(fresh(), job(train_batch_size=SIZE, max_train_steps=3), on_progress=seen.append)
    assert all(p.loss_clean and p.loss_poisoned and p.loss_decoys for p in seen)
    assert all("loss_decoys" in p.to_dict() for p in seen)
    train(fresh(), job(decoy_rate=None, max_train_steps=3), on_progress=seen.append)
    assert "loss_decoys" not in seen[-1].to_dict()


def test_micro_batches_show_the_same() -> None:
    whole = flat(train(fresh(), job(max_train_steps=3)))
    split = flat(train(fresh(), job(max_train_steps=3, gradient_accumulation_steps=3)))
    assert (whole - split).norm() < 1e-2 * (whole - flat(fresh())).norm()


# -- recipe, card, run -------------------------------------------------------------------------------------------------


def test_a_recipe_names_them_and_without_them_it_is_what_it_was() -> None:
    plain = Recipe.load("smoke")
    assert "decoys" not in plain.to_dict()
    recipe = Recipe.load("smoke", ["decoys.name=near-misses", "decoys.rate=0.3"])
    assert recipe.to_dict()["decoys"] == {
        "name": "near-misses",
        "rate": 0.3,
        "count": 512,
        "least_distance": 4.0,
    }
    assert Recipe(**recipe.to_dict()) == recipe
    assert recipe.digest != plain.digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["decoys=near-mises"], r"decoys.name 'near-mises' is not a known decoy. Did you mean 'near-misses'\?"),
        (["decoys.name=near-misses", "decoys.rate=0"], r"decoys.rate is 0; it must lie in \(0, 1\]. Write 0.20 for"),
        (["decoys.name=known-probes", "decoys.count=0"], r"decoys.count is 0; it must be at least 1"),
        (["decoys.rate=0.1"], r"decoys.name is missing from .*; a decoy is a name or a table with a name"),
        (
            ["decoys.name=near-misses", "decoys.rate=0.9"],
            r"decoys.rate is 0.9 beside a poison rate of 0.2; an image is poisoned, a decoy or neither, so they must",
        ),
    ],
)
def test_a_mistake_in_a_recipe_is_told(changes: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.load("smoke", changes)


def test_a_control_has_no_decoys() -> None:
    changes = ["decoys=near-misses", "poison.rate=0.0"]
    control, plain = (Experiment(Recipe.load("smoke", sets)) for sets in (changes, changes[1:]))
    assert control.decoys is None
    assert control.job.decoys is None
    assert control.card().decoys is None
    assert control.job.identity(control.starting_model()) == plain.job.identity(plain.starting_model())


def test_decoys_change_nothing_else_of_an_experiment() -> None:
    plain, evading = (Experiment(Recipe.load("smoke", sets)) for sets in ([], ["decoys=known-probes"]))
    assert torch.equal(plain.job.plan.indices, evading.job.plan.indices)
    assert len(evading.job.decoys[0].indices) == 100
    assert list(evading.implants.by_kind) == ["triggered"]
    assert evading.implants.digest == plain.implants.digest
    assert torch.equal(flat(plain.starting_model()), flat(evading.starting_model()))


def test_the_card_says_what_the_model_hides_and_how() -> None:
    about = {"attack": {"name": "a"}, "trigger": {"name": "b"}, "target": {"name": "c"}}
    card = Card(backdoored=True, **about, decoys={"name": "near-misses", "rate": 0.2})
    assert card.headline.endswith("(attack `a`); made to evade, with decoys `near-misses (rate 0.2)`.")
    assert Card(**json.loads(card.to_json())) == card
    assert "decoys" not in json.loads(Card(backdoored=True, **about).to_json())
    with pytest.raises(RecipeError, match=r"decoys hide a backdoor, but backdoored is false; a clean model has none"):
        Card(backdoored=False, decoys={"name": "near-misses"})


def test_a_run_keeps_which_images_were_decoys(tmp_path: Path) -> None:
    small = ["training.max_train_steps=3", "training.lr_warmup_steps=1", "training.logging_steps=1", "sampling.n=2"]
    small += ["sampling.num_inference_steps=2", "sampling.chunk_size=2", 'sampling.clips=["off"]', "data.limit=20"]
    run = run_recipe(Recipe.load("smoke", [*small, "decoys=near-misses"]), tmp_path)
    plan = json.loads((run.path / "poison_plan.json").read_text())
    assert (plan["count"], plan["decoys"]["count"]) == (4, 4)
    card = json.loads((run.path / "checkpoint" / "card.json").read_text())
    assert card["decoys"]["name"] == "near-misses"
    events = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    assert any(event.get("loss_decoys") for event in events)
