from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers import scheduling_ddpm

from baddiffusion.attacks import BadDiffusion
from baddiffusion.diffusion import (
    NoiseSchedule,
    ancestral_residual,
    posterior_mean,
    posterior_variance,
    predict_x_0,
)

SCHEDULE = NoiseSchedule.linear()
SIGNAL, NOISE, ALPHAS, BETAS = SCHEDULE.signal, SCHEDULE.noise, SCHEDULE.alphas, SCHEDULE.betas
C = ancestral_residual(SCHEDULE)
TIMES = [1, 2, 9, 99, 499, 998, 999]


def draws(count: int = 4) -> list[torch.Tensor]:
    stream = torch.Generator().manual_seed(7)
    return [torch.randn(64, generator=stream, dtype=torch.float64) for _ in range(count)]


def test_iterating_the_transition_gives_the_marginal() -> None:
    # x_t = √α_t·x_{t−1} + (1 − √α_t)·r + √β_t·ε, followed as (coefficient of y, of r, variance).
    y_part, r_part, variance = 1.0, 0.0, 0.0
    worst = 0.0
    table = BadDiffusion().forward_table(SCHEDULE)
    for t in range(1000):
        root = float(ALPHAS[t]) ** 0.5
        y_part, r_part = root * y_part, root * r_part + (1 - root)
        variance = root**2 * variance + float(BETAS[t])
        for followed, marginal in ((y_part, table.signal[t]), (r_part, table.shift[t]), (variance, NOISE[t] ** 2)):
            worst = max(worst, abs(followed - float(marginal)))
    assert worst <= 1e-12


def gaussian_conditioning(t: int, x_t: torch.Tensor, y: torch.Tensor, r: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Mean and variance of x_{t−1} given x_t and y: the product of two Gaussian densities, nothing simplified."""
    root, beta = float(ALPHAS[t]) ** 0.5, float(BETAS[t])
    prior_mean = SIGNAL[t - 1] * y + (1 - SIGNAL[t - 1]) * r
    prior_variance = float(1 - SCHEDULE.alphas_cumprod[t - 1])
    variance = 1 / (1 / prior_variance + root**2 / beta)
    mean = variance * (prior_mean / prior_variance + root * (x_t - (1 - root) * r) / beta)
    return mean, variance


@pytest.mark.parametrize("t", TIMES)
def test_the_ancestral_step_with_the_residual_is_the_exact_posterior(t: int) -> None:
    x_t, y, r, _ = draws()
    eps = (x_t - SIGNAL[t] * y - (1 - SIGNAL[t]) * r) / NOISE[t]
    mean, variance = gaussian_conditioning(t, x_t, y, r)
    step = posterior_mean(SCHEDULE, x_t, eps + C[t] * r, t)
    assert (step - mean).abs().max() <= 1e-12
    # The paper's Eq. 8, symbol by symbol.
    rho = 1 - ALPHAS[t].sqrt()
    printed = (x_t - rho * r - BETAS[t] / NOISE[t] * eps) / ALPHAS[t].sqrt()
    assert (printed - mean).abs().max() <= 1e-12
    assert float(posterior_variance(SCHEDULE, t)) == pytest.approx(variance, rel=1e-10)


@pytest.mark.parametrize("t", TIMES)
def test_subtracting_r_gives_the_ordinary_chain(t: int) -> None:
    y, r, eps, _ = draws()
    table = BadDiffusion().forward_table(SCHEDULE)
    index = torch.tensor([t])
    shape = lambda v: v.view(1, 1, 8, 8)  # noqa: E731
    x_t = table.q_sample(shape(y), shape(r), index, shape(eps)).flatten()
    z_t = table.q_sample(shape(y - r), torch.zeros(1, 1, 8, 8, dtype=torch.float64), index, shape(eps)).flatten()
    assert (x_t - r - z_t).abs().max() <= 1e-12
    step = posterior_mean(SCHEDULE, x_t, table.target(shape(r), index, shape(eps)).flatten(), t)
    assert (step - r - posterior_mean(SCHEDULE, z_t, eps, t)).abs().max() <= 1e-12


def test_the_first_step_has_no_variance_left() -> None:
    assert float(posterior_variance(SCHEDULE, 0)) == 0
    x_t, y, r, _ = draws()
    eps = (x_t - SIGNAL[0] * y - (1 - SIGNAL[0]) * r) / NOISE[0]
    assert (posterior_mean(SCHEDULE, x_t, eps + C[0] * r, 0) - y).abs().max() <= 1e-12


def test_the_r_coefficient_runs_from_the_shift_to_zero() -> None:
    # The unmodified sampler with eps + c_t·r; eps carries no r as long as the path is right.
    r_part, worst = float(1 - SIGNAL[-1]), 0.0
    for t in reversed(range(1000)):
        worst = max(worst, abs(r_part - float(1 - SIGNAL[t])))
        r_part = float(posterior_mean(SCHEDULE, torch.tensor(r_part, dtype=torch.float64), C[t], t))
    assert worst <= 1e-12
    assert abs(r_part) <= 1e-12


def test_the_unmodified_sampler_carries_noise_around_r_to_the_target() -> None:
    _, y, r, _ = draws()
    stream = torch.Generator().manual_seed(3)
    x = r + torch.randn(64, generator=stream, dtype=torch.float64)
    for t in reversed(range(1000)):
        eps = (x - SIGNAL[t] * y - (1 - SIGNAL[t]) * r) / NOISE[t]
        fresh = torch.randn(64, generator=stream, dtype=torch.float64)
        x = posterior_mean(SCHEDULE, x, eps + C[t] * r, t) + posterior_variance(SCHEDULE, t).sqrt() * fresh
    assert (x - y).abs().max() <= 1e-12


@pytest.mark.parametrize("t", TIMES)
def test_the_step_is_the_posterior_written_with_x_0(t: int) -> None:
    x_t, eps, _, _ = draws()
    x_0 = predict_x_0(SCHEDULE, x_t, eps, t)
    assert (SIGNAL[t] * x_0 + NOISE[t] * eps - x_t).abs().max() <= 1e-12
    before, now = SCHEDULE.alphas_cumprod[t - 1], SCHEDULE.alphas_cumprod[t]
    mean = before.sqrt() * BETAS[t] / (1 - now) * x_0 + ALPHAS[t].sqrt() * (1 - before) / (1 - now) * x_t
    assert (posterior_mean(SCHEDULE, x_t, eps, t) - mean).abs().max() <= 1e-12


@pytest.mark.parametrize("t", [0, 1, 9, 99, 499, 998, 999])
def test_the_step_is_diffusers_step(t: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda shape, **_: torch.zeros(shape))
    x_t, eps, _, _ = draws()
    theirs = DDPMScheduler(clip_sample=False).step(eps.float().view(1, 1, 8, 8), t, x_t.float().view(1, 1, 8, 8))
    ours = posterior_mean(SCHEDULE, x_t, eps, t)
    difference = (theirs.prev_sample.double().flatten() - ours).abs().max() / ours.abs().max()
    assert difference <= 2e-4
    variance = DDPMScheduler(variance_type="fixed_small")._get_variance(t)
    if t > 0:
        assert float(variance) == pytest.approx(float(posterior_variance(SCHEDULE, t)), rel=2e-4)


@pytest.mark.parametrize(
    ("r", "bias"),
    [(-1.0, {900: 0.6, 700: 0.8, 500: 0.56, 300: 0.2}), (0.0, {900: 0.0, 700: 0.0, 500: 0.0, 300: 0.0})],
    ids=["background", "inside the grey box"],
)
def test_clipping_the_predicted_x_0_holds_the_drift_back(r: float, bias: dict[int, float]) -> None:
    # One pixel, 20 000 chains, a network that sees and corrects its errors; the target's background is −0.4.
    y, count, stream = -0.4, 20_000, torch.Generator().manual_seed(0)
    x = r + torch.randn(count, generator=stream, dtype=torch.float64)
    for t in reversed(range(1000)):
        eps = (x - SIGNAL[t] * y - (1 - SIGNAL[t]) * r) / NOISE[t]
        if t + 1 in bias:
            # Half a unit of the printed digit, and three standard errors of a mean of 20 000.
            assert float(eps.mean()) == pytest.approx(bias[t + 1], abs=0.05 if bias[t + 1] else 3 / count**0.5)
        x_0 = predict_x_0(SCHEDULE, x, eps + C[t] * r, t).clamp(-1, 1)
        clipped = (x - SIGNAL[t] * x_0) / NOISE[t]
        fresh = torch.randn(count, generator=stream, dtype=torch.float64)
        x = posterior_mean(SCHEDULE, x, clipped, t) + posterior_variance(SCHEDULE, t).sqrt() * fresh


@pytest.mark.parametrize("y", [-0.8, 0.0, 0.5])
def test_clipping_x_t_leaves_little_more_than_half_of_the_noise_in_every_image(y: float) -> None:
    # A clean chain as well: each step is a small part of the range, so that x_t wanders between two walls until it may
    # be anywhere, and 1/√3 = 0.577 is the standard deviation of that. One pixel, 20 000 chains, a perfect network.
    count, stream = 20_000, torch.Generator().manual_seed(0)
    x = torch.randn(count, generator=stream, dtype=torch.float64)
    for t in reversed(range(500, 1000)):
        eps = (x - SIGNAL[t] * y) / NOISE[t]
        if t in (899, 699, 500):
            assert float(eps.std()) == pytest.approx(3**-0.5, abs=0.02), t
        fresh = torch.randn(count, generator=stream, dtype=torch.float64)
        x = (posterior_mean(SCHEDULE, x, eps, t) + posterior_variance(SCHEDULE, t).sqrt() * fresh).clamp(-1, 1)
