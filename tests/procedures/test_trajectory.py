from __future__ import annotations

import pytest
import torch

from baddiffusion.attacks import ATTACKS
from baddiffusion.diffusion import NoiseSchedule
from baddiffusion.errors import RecipeError
from baddiffusion.metrics import mean_interval
from baddiffusion.poisoning import Implant
from baddiffusion.sampling import SamplingSettings
from baddiffusion.trajectory import bias_curves, bias_estimates, follow, perfect_denoiser, regions
from baddiffusion.triggers import Trigger

CONFIG = {"num_train_timesteps": 1000}
SHAPE = (1, 8, 8)
Y = torch.full(SHAPE, -0.4)


def implant(attack="baddiffusion", side_px=4, value=0.0):
    return Implant(ATTACKS.parse(attack), Trigger.make({"name": "box", "side_px": side_px, "value": value}, SHAPE), Y)


def settings(sampler="ddpm", steps=50, clip="off", chunk_size=32):
    return SamplingSettings(sampler=sampler, num_inference_steps=steps, clip=clip, chunk_size=chunk_size)


def theory(n=32, backdoor=None, **asked):
    backdoor = backdoor or implant()
    how = settings(**asked)
    return follow(perfect_denoiser(backdoor, CONFIG, how), CONFIG, backdoor, "triggered", range(n), how)


def at(trajectory, region, timestep):
    (curve,) = [curve for curve in bias_curves(trajectory, "theory") if curve.region == region]
    return curve.mean[curve.timesteps.index(timestep)]


def test_the_published_bias_under_clipping():
    # An independent scalar simulation: +0.6, +0.8, +0.56, +0.2 in the background at the paper's t = 900, 700, 500, 300,
    # and none inside the grey box. 32 × 48 pixels leave a standard error of 0.03.
    clipped = theory(steps=250, clip="x0")
    for t, expected in ((900, 0.6), (700, 0.8), (500, 0.56), (300, 0.2)):
        assert at(clipped, "background", t) == pytest.approx(expected, abs=0.1), t
        assert abs(at(clipped, "trigger", t)) < 0.13, t


def test_without_clipping_the_noise_stays_what_it_is_and_the_chain_ends_at_the_target():
    free = theory(steps=250)
    for t in (900, 500, 300, 100):
        assert abs(at(free, "background", t)) < 0.1, t
        assert abs(at(free, "trigger", t)) < 0.13, t
    torch.testing.assert_close(free.images, Y.expand(32, *SHAPE), atol=1e-3, rtol=0)
    # ODE solvers leave the paper's residual with its known bias of about 2.9·r.
    ode = theory(sampler="ddim", steps=250)
    assert at(ode, "background", 0) == pytest.approx(-2.87, abs=0.1)


@pytest.mark.parametrize("sampler", ["euler", "dpm-solver++", "heun", "unipc"])
def test_the_matched_attack_keeps_its_noise_under_solvers_of_every_coordinate(sampler):
    matched = implant({"name": "sampler-matched", "shift": "noise"})
    chain = theory(backdoor=matched, sampler=sampler, steps=20 if sampler != "heun" else 10)
    for curve in bias_curves(chain, "theory"):
        drift = torch.tensor(curve.mean) - curve.mean[0]
        assert float(drift.abs().max()) < 0.02
    assert chain.bias is not None
    assert float((chain.bias[1:] - chain.bias[:-1]).abs().max()) > 0.05  # images differ, each keeps its own


def test_what_is_measured():
    backdoor, how = implant(value=0.5), settings(steps=4, chunk_size=2)
    seen = {}

    def network(x_t, t):
        seen.setdefault(int(t[0]), []).append(x_t.clone())
        return (x_t + 0.2).sin()

    chain = follow(network, CONFIG, backdoor, "triggered", range(3), how)
    assert chain.timesteps == (750, 500, 250, 0)
    schedule = NoiseSchedule.from_scheduler_config(CONFIG)
    offset = backdoor.trigger.offset.double()
    assert [(part.name, part.r) for part in chain.regions] == [("background", -1.0), ("trigger", 0.5)]
    for index, t in enumerate(chain.timesteps):
        x_t = torch.cat(seen[t])[:3].double()
        signal, noise = schedule.signal[t], schedule.noise[t]
        implied = (x_t - signal * Y - (1 - signal) * offset) / noise
        for region, part in enumerate(chain.regions):
            expected = implied[:, part.mask].mean(dim=1)
            torch.testing.assert_close(chain.bias[:, index, region], expected, atol=2e-4, rtol=2e-4)
    assert torch.equal(chain.x_t, torch.cat([seen[t][0][:1] for t in chain.timesteps]))


def test_frames_are_the_first_image_with_its_prediction():
    how = settings(steps=10, chunk_size=2)
    chain = follow(lambda x_t, t: 0 * x_t, CONFIG, implant(), "clean", range(3), how, frames=4)
    assert chain.pictured == (0, 3, 6, 9)
    assert chain.x_t.shape == chain.x_0.shape == (4, *SHAPE)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    expected = chain.x_t / alpha_bar[[900, 600, 300, 0]].sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(chain.x_0, expected, atol=1e-4, rtol=1e-4)
    assert chain.bias is None
    assert bias_curves(chain, "measured") == []
    assert bias_estimates(chain) == []


def test_the_frames_of_any_image_can_be_asked_for():
    how = settings(steps=4, chunk_size=2)

    def network(x_t, t):
        return x_t.sin()

    together = follow(network, CONFIG, implant(), "triggered", [5, 3, 8, 9, 2], how, shown=9)
    alone = follow(network, CONFIG, implant(), "triggered", [9], how)
    assert torch.equal(together.x_t, alone.x_t)
    assert torch.equal(together.x_0, alone.x_0)


def test_few_steps_have_fewer_frames():
    chain = follow(lambda x_t, t: 0 * x_t, CONFIG, implant(), "clean", [0], settings(steps=3, chunk_size=1))
    assert chain.pictured == (0, 1, 2)


def test_a_trigger_without_a_mask_has_one_region():
    empty = Trigger.make("none", SHAPE)
    assert [(part.name, int(part.mask.sum())) for part in regions(empty)] == [("background", 64)]


class TestNumbers:
    def test_curves_hold_mean_and_interval_over_images(self):
        chain = theory(n=4, steps=5, clip="x0")
        background, inside = bias_curves(chain, "theory")
        assert (background.region, background.clip, background.n, background.source) == (
            "background",
            "x0",
            4,
            "theory",
        )
        assert (inside.r, background.r) == (0.0, -1.0)
        values = chain.bias[:, 2, 0]
        assert background.mean[2] == pytest.approx(float(values.mean()))
        assert (background.low[2], background.high[2]) == pytest.approx(mean_interval(values))

    def test_estimates_stand_at_the_nearest_steps(self):
        found = bias_estimates(theory(n=4, steps=100))
        background = [e for e in found if e.protocol["region"] == "background"]
        assert [e.protocol["timestep"] for e in background] == [900, 700, 500, 300, 100]
        assert len(found) == 10
        assert {(e.name, e.n, e.unit) for e in found} == {("implied_noise_bias", 4, "standard deviations of the noise")}

    def test_one_image_has_no_interval(self):
        (first, *_) = bias_estimates(theory(n=1, steps=3))
        assert (first.low, first.caveats) == (None, ("one image gives no interval",))


class TestRefusals:
    def test_too_few_frames(self):
        with pytest.raises(RecipeError, match="frames is 1; it must be at least 2"):
            follow(lambda x_t, t: x_t, CONFIG, implant(), "clean", [0], settings(steps=2), frames=1)

    def test_an_attack_with_its_own_sampler(self):
        with pytest.raises(RecipeError, match="the attack trojdiff brings a sampler of its own"):
            perfect_denoiser(implant("trojdiff"), CONFIG, settings())

    def test_a_shown_seed_that_is_not_sampled(self):
        def asked(seeds, shown):
            follow(lambda x_t, t: x_t, CONFIG, implant(), "clean", seeds, settings(steps=2), shown=shown)

        with pytest.raises(RecipeError, match=r"the shown seed is 3; it must be one of the 2 seeds: 0, 2\."):
            asked([0, 2], 3)
        with pytest.raises(RecipeError, match=r"the shown seed is 9; it must be one of the 8 seeds: 0, 1, 2, 3, …\."):
            asked(range(8), 9)
