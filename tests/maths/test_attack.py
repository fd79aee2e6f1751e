from __future__ import annotations

import pytest
import torch

from baddiffusion.attacks import BadDiffusion, Clean
from baddiffusion.diffusion import NoiseSchedule
from baddiffusion.errors import RecipeError
from baddiffusion.triggers import Trigger

SHAPE = (3, 32, 32)


def grey_box(value: float = 0.0) -> Trigger:
    return Trigger.make({"name": "box", "side_px": 14, "value": value}, SHAPE)


def test_the_table_is_the_papers() -> None:
    schedule = NoiseSchedule.linear()
    table = BadDiffusion().forward_table(schedule)
    assert torch.equal(table.signal, schedule.alphas_cumprod.sqrt())
    assert torch.equal(table.noise, (1 - schedule.alphas_cumprod).sqrt())
    assert torch.equal(table.shift, 1 - schedule.alphas_cumprod.sqrt())
    assert table.noise_gain is None
    # The paper prints √(1 − ᾱ) for the shift below Eq. 8; at t = 100 that would be six times as much.
    assert float(table.shift[99]) == pytest.approx(0.053, abs=5e-4)
    assert float(table.noise[99]) == pytest.approx(0.321, abs=5e-4)


def test_at_the_end_almost_nothing_but_r_and_noise_is_left() -> None:
    table = BadDiffusion().forward_table(NoiseSchedule.linear())
    assert float(table.signal[-1]) == pytest.approx(0.00635, abs=5e-6)
    assert float(table.shift[-1]) == pytest.approx(0.99365, abs=5e-6)
    assert float(table.noise[-1]) == pytest.approx(1, abs=3e-5)


def test_the_clean_table_moves_nothing_and_asks_for_nothing() -> None:
    schedule = NoiseSchedule.cosine(50)
    table = Clean().forward_table(schedule)
    assert torch.equal(table.signal, schedule.signal)
    assert torch.equal(table.noise, schedule.noise)
    assert not table.shift.any()
    assert not table.residual.any()


def test_the_source_is_the_trigger_stamped_on_the_image() -> None:
    trigger = grey_box(0.25)
    x = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    r = BadDiffusion().source(x, trigger)
    inside = trigger.mask.expand(SHAPE)
    assert bool((r[:, inside] == 0.25).all())
    assert torch.equal(r[:, ~inside], x[:, ~inside])
    assert torch.equal(Clean().source(x, trigger), torch.zeros_like(x))


def test_the_start_noise_is_around_the_trigger_on_black_not_around_a_stamped_image() -> None:
    trigger = grey_box()
    eps = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    start = BadDiffusion().initial_noise(eps, trigger)
    inside = trigger.mask.expand(SHAPE)
    assert torch.equal(start[:, inside], eps[:, inside])  # the grey box is 0: no shift at all inside
    assert torch.equal(start[:, ~inside], eps[:, ~inside] - 1)
    assert int(inside.sum()) == 588
    assert torch.equal(start, eps + trigger.stamp(torch.full((4, *SHAPE), -1.0)))
    assert torch.equal(Clean().initial_noise(eps, trigger), eps)


def test_stamp_and_offset_are_two_different_things() -> None:
    trigger = grey_box()
    grey = torch.full((1, *SHAPE), 0.5)
    assert not torch.equal(trigger.stamp(grey)[0], trigger.offset)
    assert torch.equal(trigger.stamp(torch.zeros(1, *SHAPE)), torch.zeros(1, *SHAPE))
    assert bool(trigger.offset.any())


def test_the_empty_trigger_still_shifts_the_start_noise_to_black() -> None:
    trigger = Trigger.make("NONE", SHAPE)
    eps = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(BadDiffusion().initial_noise(eps, trigger), eps - 1)
    assert torch.equal(BadDiffusion().source(eps, trigger), eps)


def test_start_noise_without_any_trigger_in_it_is_refused() -> None:
    everywhere = Trigger.make({"name": "box", "side_px": 32, "top_px": 0, "left_px": 0}, SHAPE)
    assert not everywhere.offset.any()
    with pytest.raises(
        RecipeError,
        match=r"^trigger box-32 has an offset of zero everywhere: noise plus trigger would be plain noise. Leave some "
        r"background around it, or choose another value.$",
    ):
        BadDiffusion().initial_noise(torch.zeros(1, *SHAPE), everywhere)
