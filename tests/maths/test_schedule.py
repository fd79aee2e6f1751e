from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from baddiffusion.diffusion import NoiseSchedule
from baddiffusion.errors import RecipeError

# The table of shared notes on the attack: t (the paper's, from 1), β_t, ᾱ_t, √ᾱ_t, √(1−ᾱ_t), as printed there.
PRINTED = {
    1: ("1.0000e-4", "0.99990", "0.99995", "0.01000"),
    10: ("2.7928e-4", "0.998105", "0.999052", "0.043529"),
    100: ("2.0721e-3", "0.897018", "0.947110", "0.320908"),
    500: ("1.00400e-2", "0.078587", "0.280334", "0.959902"),
    1000: ("0.02", "4.03583e-5", "0.00635282", "0.99997982"),
}


def half_a_digit(printed: str) -> float:
    digits, _, exponent = printed.partition("e")
    return 0.5 * 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))


@pytest.mark.parametrize("t", PRINTED)
def test_the_papers_schedule_has_the_printed_values(t: int) -> None:
    schedule = NoiseSchedule.linear()
    vectors = (schedule.betas, schedule.alphas_cumprod, schedule.signal, schedule.noise)
    for vector, printed in zip(vectors, PRINTED[t], strict=True):
        assert float(vector[t - 1]) == pytest.approx(float(printed), abs=half_a_digit(printed) * (1 + 1e-9))


def test_what_follows_from_the_betas() -> None:
    schedule = NoiseSchedule.linear()
    assert len(schedule) == 1000
    assert schedule.betas.dtype == torch.float64
    assert float(schedule.betas.diff().std()) < 1e-15
    product = 1.0
    for t, beta in enumerate(schedule.betas.tolist()):
        product *= 1 - beta
        assert float(schedule.alphas_cumprod[t]) == pytest.approx(product, rel=1e-12)
    assert (schedule.signal**2 + schedule.noise**2).sub(1).abs().max() < 1e-15


@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta_schedule": "linear", "beta_start": 3e-4, "beta_end": 0.01, "num_train_timesteps": 250},
        {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 100},
        {"trained_betas": [0.01, 0.1, 0.02, 0.3], "num_train_timesteps": 4},
    ],
    ids=["default", "linear", "scaled_linear", "cosine", "trained_betas"],
)
def test_a_scheduler_config_gives_the_betas_that_diffusers_builds(scheduler: type, options: dict) -> None:
    theirs = scheduler(**options)
    ours = NoiseSchedule.from_scheduler_config(dict(theirs.config))
    torch.testing.assert_close(ours.betas, theirs.betas.double(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod.double(), rtol=1e-4, atol=1e-6)


def test_an_empty_config_is_diffusers_default() -> None:
    assert torch.equal(NoiseSchedule.from_scheduler_config({}).betas, NoiseSchedule.linear().betas)


def test_named_schedules_start_and_end_where_they_say() -> None:
    scaled = NoiseSchedule.scaled_linear(50, 0.0015, 0.0195)
    assert float(scaled.betas[0]) == pytest.approx(0.0015, rel=1e-12)
    assert float(scaled.betas[-1]) == pytest.approx(0.0195, rel=1e-12)
    assert float(NoiseSchedule.scaled_linear(1000, 0.0015, 0.0195).signal[-1]) == pytest.approx(0.0119, abs=5e-5)
    cosine = NoiseSchedule.cosine(1000)
    assert float(cosine.betas.max()) == 0.999
    # Half way, ᾱ = cos²((0.5 + 0.008) / 1.008 · π/2) / cos²(0.008 / 1.008 · π/2): a closed form without a product.
    expected = np.cos(0.508 / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    assert float(cosine.alphas_cumprod[499]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "betas",
    [
        [0.1, 0.2, 0.3],
        (0.1, 0.2, 0.3),
        np.array([0.1, 0.2, 0.3]),
        torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64),
        torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64, requires_grad=True),
    ],
    ids=["list", "tuple", "numpy", "tensor", "parameter"],
)
def test_from_betas_keeps_every_digit(betas: object) -> None:
    schedule = NoiseSchedule.from_betas(betas)
    assert schedule.betas.tolist() == [0.1, 0.2, 0.3]
    assert not schedule.betas.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_from_betas_takes_every_float_type(dtype: torch.dtype) -> None:
    betas = torch.tensor([0.1, 0.2, 0.3], dtype=dtype)
    assert torch.equal(NoiseSchedule.from_betas(betas).betas, betas.double())
    if dtype == torch.float32:
        assert torch.equal(NoiseSchedule.from_betas(betas.numpy()).betas, betas.double())


@pytest.mark.parametrize("steps", [0, -3])
@pytest.mark.parametrize("make", [NoiseSchedule.linear, NoiseSchedule.scaled_linear, NoiseSchedule.cosine])
def test_a_schedule_needs_a_step(make, steps: int) -> None:
    with pytest.raises(RecipeError, match=f"^steps is {steps}; a schedule needs at least 1.$"):
        make(steps)


@pytest.mark.parametrize("bad", [[0.0, 0.1], [0.1, 1.0], [-0.1, 0.1], [0.1, 1.5], [0.1, float("nan")]])
def test_betas_lie_strictly_between_0_and_1(bad: list[float]) -> None:
    with pytest.raises(RecipeError, match=r"^betas reach from \S+ to \S+; each must lie in \(0, 1\).$"):
        NoiseSchedule.from_betas(bad)


def test_an_empty_schedule_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"^betas has shape \(0,\); it must be a vector with one beta per step.$"):
        NoiseSchedule.from_betas([])


@pytest.mark.parametrize("bad", ["abc", [0.1, "x"], None, [[0.1], [0.1, 0.2]]], ids=repr)
def test_betas_that_are_not_numbers_are_refused(bad: object) -> None:
    with pytest.raises(RecipeError, match=r"betas .*it must be a vector of numbers"):
        NoiseSchedule.from_betas(bad)


def test_an_unknown_schedule_in_a_config_is_refused() -> None:
    with pytest.raises(
        RecipeError, match=r"^beta_schedule is 'sigmoid'; known are 'linear', 'scaled_linear' and 'squaredcos_cap_v2'."
    ):
        NoiseSchedule.from_scheduler_config({"beta_schedule": "sigmoid"})


def test_a_rescaled_schedule_is_refused_rather_than_read_wrongly() -> None:
    with pytest.raises(RecipeError, match=r"^rescale_betas_zero_snr is True; .* Use a base without it.$"):
        NoiseSchedule.from_scheduler_config({"rescale_betas_zero_snr": True})
