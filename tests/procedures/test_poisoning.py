from __future__ import annotations

import json
from decimal import Decimal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baddiffusion.attacks import BadDiffusion, Clean
from baddiffusion.errors import RecipeError
from baddiffusion.poisoning import Implant, PoisonPlan
from baddiffusion.triggers import Trigger

SHAPE = (3, 16, 16)
TRIGGER = Trigger.make("BOX_8", SHAPE)
TARGET = torch.linspace(-1, 1, 3 * 16 * 16).view(SHAPE)
IMAGES = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    ("size", "rate", "count"),
    [
        (100, 0.29, 29),  # 0.29 · 100 is 28.999999999999996 in binary
        (60_000, 0.1, 6000),
        (50_000, 0.05, 2500),
        (10_000, 0.0001, 1),
        (10_000, 0.00009, 0),
        (7, 0.5, 3),
        (3, 0.99, 2),
        (5, 0.0, 0),
        (5, 1.0, 5),
        (1, 1.0, 1),
    ],
)
def test_the_count_is_the_floor_in_decimal(size: int, rate: float, count: int) -> None:
    plan = PoisonPlan.draw(size, rate, seed=0)
    assert len(plan.indices) == count
    assert int(plan.mask.sum()) == count


@given(size=st.integers(1, 3000), hundredths=st.integers(0, 1000), seed=st.integers(0, 2**40))
@settings(max_examples=40, deadline=None)
def test_a_plan_is_an_exclusive_choice(size: int, hundredths: int, seed: int) -> None:
    rate = hundredths / 1000
    plan = PoisonPlan.draw(size, rate, seed)
    chosen = plan.indices.tolist()
    assert len(chosen) == int(Decimal(hundredths) * size / 1000)
    assert chosen == sorted(set(chosen))
    assert all(0 <= index < size for index in chosen)
    assert plan.mask.nonzero().flatten().tolist() == chosen
    assert PoisonPlan.draw(size, rate, seed).digest == plan.digest


def test_the_seed_decides_which_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (PoisonPlan.draw(1000, 0.1, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.indices, again.indices)
    assert not torch.equal(first.indices, other.indices)
    # A higher rate poisons the same images and more: sweeps over rates compare like with like.
    assert set(first.indices.tolist()) < set(PoisonPlan.draw(1000, 0.2, 0).indices.tolist())


def test_the_choice_is_spread_over_the_data() -> None:
    thirds = torch.bincount(PoisonPlan.draw(30_000, 0.1, 0).indices // 10_000)
    assert thirds.tolist() == pytest.approx([1000] * 3, abs=4 * (3000 * 2 / 9) ** 0.5)


def test_the_digest_changes_with_what_is_poisoned() -> None:
    digests = [PoisonPlan.draw(*a).digest for a in ((100, 0.1, 0), (100, 0.1, 1), (100, 0.2, 0), (101, 0.1, 0))]
    assert len(set(digests)) == 4
    assert all(len(d) == 16 for d in digests)
    same = PoisonPlan(100, 0.1, 0, torch.arange(10))
    assert same.digest != PoisonPlan(101, 0.1, 0, torch.arange(10)).digest


def test_the_plan_is_kept_with_the_run() -> None:
    plan = PoisonPlan.draw(50, 0.3, 4)
    kept = json.loads(json.dumps(plan.to_dict()))
    assert kept == {
        "size": 50,
        "rate": 0.3,
        "seed": 4,
        "count": 15,
        "digest": plan.digest,
        "indices": plan.indices.tolist(),
    }
    again = PoisonPlan(kept["size"], kept["rate"], kept["seed"], torch.tensor(kept["indices"]))
    assert again.digest == plan.digest
    assert torch.equal(again.mask, plan.mask)


@pytest.mark.parametrize("rate", [10.0, -0.1, 1.0000001, float("nan"), float("inf")])
def test_a_rate_outside_0_to_1_is_refused(rate: float) -> None:
    with pytest.raises(
        RecipeError, match=rf"^poison.rate is {rate}; it must lie in \[0, 1\]. Write 0.10 for ten percent.$"
    ):
        PoisonPlan.draw(10, rate, 0)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"^the data set has 0 images; poisoning needs at least 1.$"):
        PoisonPlan.draw(0, 0.1, 0)


@given(mask=st.lists(st.booleans(), min_size=6, max_size=6))
@settings(max_examples=64, deadline=None)
def test_every_sample_is_poisoned_or_not_on_its_own(mask: list[bool]) -> None:
    implant = Implant(BadDiffusion(), TRIGGER, TARGET)
    x_0, r = implant.apply(IMAGES, torch.tensor(mask))
    stamped = TRIGGER.stamp(IMAGES)
    for i, poisoned in enumerate(mask):
        assert torch.equal(x_0[i], TARGET if poisoned else IMAGES[i])
        assert torch.equal(r[i], stamped[i] if poisoned else torch.zeros(SHAPE))


def test_the_mask_is_per_image_not_per_batch() -> None:
    # The reference loader looks at a batch's first element only, with current releases of its data library.
    implant = Implant(BadDiffusion(), TRIGGER, TARGET)
    mask = torch.tensor([True, False, False, True, False, True])
    x_0, r = implant.apply(IMAGES, mask)
    for i in range(6):
        alone = implant.apply(IMAGES[i : i + 1], mask[i : i + 1])
        assert torch.equal(x_0[i : i + 1], alone[0])
        assert torch.equal(r[i : i + 1], alone[1])


def test_the_clean_attack_replaces_the_image_but_adds_no_r() -> None:
    x_0, r = Implant(Clean(), TRIGGER, TARGET).apply(IMAGES, torch.zeros(6, dtype=torch.bool))
    assert torch.equal(x_0, IMAGES)
    assert not r.any()


def test_an_implant_moves_whole() -> None:
    implant = Implant(BadDiffusion(), TRIGGER, TARGET).to("meta")
    assert {str(v.device) for v in (implant.target, implant.trigger.pattern, implant.trigger.mask)} == {"meta"}
