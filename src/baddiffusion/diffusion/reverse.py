"""The ordinary reverse step of DDPM, in float64: what every sampler and every attack is checked against."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from baddiffusion.diffusion.schedule import NoiseSchedule

__all__ = ["posterior_mean", "posterior_variance", "predict_x_0"]


def predict_x_0(
    schedule: NoiseSchedule, x_t: Float[Tensor, "*s"], eps: Float[Tensor, "*s"], t: int
) -> Float[Tensor, "*s"]:
    """**Equation**: x_0 = (x_t − √(1−ᾱ_t)·eps) / √ᾱ_t."""
    return (x_t - float(schedule.noise[t]) * eps) / float(schedule.signal[t])


def posterior_mean(
    schedule: NoiseSchedule, x_t: Float[Tensor, "*s"], eps: Float[Tensor, "*s"], t: int
) -> Float[Tensor, "*s"]:
    """Mean of q(x_{t−1} | x_t, x_0) with x_0 expressed through eps: one ancestral step without its noise.

    **Equation**: (x_t − β_t / √(1−ᾱ_t) · eps) / √α_t. Source: arXiv 2006.11239, Eq. 11.
    """
    return (x_t - float(schedule.betas[t] / schedule.noise[t]) * eps) / float(schedule.alphas[t].sqrt())


def posterior_variance(schedule: NoiseSchedule, t: int) -> Float[Tensor, ""]:
    """**Equation**: β_t·(1 − ᾱ_{t−1}) / (1 − ᾱ_t), with ᾱ_{−1} = 1."""
    before = schedule.alphas_cumprod[t - 1] if t > 0 else torch.ones((), dtype=torch.float64)
    return schedule.betas[t] * (1 - before) / (1 - schedule.alphas_cumprod[t])
