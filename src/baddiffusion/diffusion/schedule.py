"""The noise schedule: betas and what follows from them, in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from baddiffusion.errors import RecipeError

__all__ = ["NoiseSchedule"]


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The variances β_t of the forward process, t = 0 … T−1 (diffusers' index; the paper's t is one more).

    **Equation**: α_t = 1 − β_t, ᾱ_t = Π_{s ≤ t} α_s; ``signal`` = √ᾱ_t, ``noise`` = √(1 − ᾱ_t).

    Args:
        betas: each in (0, 1).

    Raises:
        RecipeError: an empty vector, or a beta outside (0, 1).

    Source: Ho, Jain, Abbeel, Denoising Diffusion Probabilistic Models, arXiv 2006.11239, Eq. 2 to 4.
    """

    betas: Float64[Tensor, " T"]

    def __post_init__(self) -> None:
        if self.betas.ndim != 1 or len(self.betas) == 0:
            raise RecipeError(f"betas has shape {tuple(self.betas.shape)}; it must be a vector with one beta per step.")
        if not bool(((self.betas > 0) & (self.betas < 1)).all()):
            raise RecipeError(
                f"betas reach from {self.betas.min():g} to {self.betas.max():g}; each must lie in (0, 1)."
            )

    @classmethod
    def from_betas(cls, betas: Any) -> NoiseSchedule:
        """Take any vector of betas: a tensor of any float type, an array, or a list.

        Raises:
            RecipeError: it is no vector of numbers, it is empty, or a beta lies outside (0, 1).
        """
        try:  # dtype here, not afterwards: a list of Python floats would pass through float32 otherwise
            vector = torch.as_tensor(betas, dtype=torch.float64, device="cpu").detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise RecipeError(f"betas cannot be read ({error}); it must be a vector of numbers.") from None
        return cls(vector)

    @classmethod
    def linear(cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
        """Space the betas evenly: the schedule of DDPM and of the paper."""
        return cls(torch.linspace(beta_start, beta_end, _positive(steps), dtype=torch.float64))

    @classmethod
    def scaled_linear(cls, steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> NoiseSchedule:
        """Space the square roots of the betas evenly: the schedule of latent diffusion."""
        roots = torch.linspace(beta_start**0.5, beta_end**0.5, _positive(steps), dtype=torch.float64)
        return cls(roots**2)

    @classmethod
    def cosine(cls, steps: int = 1000, max_beta: float = 0.999) -> NoiseSchedule:
        """Follow ᾱ(s) = cos²((s + 0.008) / 1.008 · π/2), betas capped. Source: arXiv 2102.09672, Eq. 17."""
        s = torch.arange(_positive(steps) + 1, dtype=torch.float64) / steps
        alpha_bar = torch.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2
        return cls((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta))

    @classmethod
    def from_scheduler_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """Read the betas that a diffusers scheduler would build from its ``scheduler_config.json``.

        Raises:
            RecipeError: the config names a schedule that this function does not know, or rescales it.
        """
        if config.get("rescale_betas_zero_snr"):
            raise RecipeError(
                "rescale_betas_zero_snr is True; the last beta is then 1, which leaves nothing of the image to predict "
                "noise from. Use a base without it."
            )
        steps = int(config.get("num_train_timesteps", 1000))
        if config.get("trained_betas") is not None:
            return cls.from_betas(config["trained_betas"])
        kind = config.get("beta_schedule", "linear")
        start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
        if kind == "linear":
            return cls.linear(steps, start, end)
        if kind == "scaled_linear":
            return cls.scaled_linear(steps, start, end)
        if kind == "squaredcos_cap_v2":
            return cls.cosine(steps)
        raise RecipeError(
            f"beta_schedule is {kind!r}; known are 'linear', 'scaled_linear' and 'squaredcos_cap_v2'. "
            f"Or give trained_betas."
        )

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def alphas(self) -> Float64[Tensor, " T"]:
        """α_t = 1 − β_t."""
        return 1 - self.betas

    @cached_property
    def alphas_cumprod(self) -> Float64[Tensor, " T"]:
        """ᾱ_t, the product of all alphas up to t."""
        return torch.cumprod(self.alphas, dim=0)

    @cached_property
    def signal(self) -> Float64[Tensor, " T"]:
        """√ᾱ_t, how much of the image is left."""
        return self.alphas_cumprod.sqrt()

    @cached_property
    def noise(self) -> Float64[Tensor, " T"]:
        """√(1 − ᾱ_t), the standard deviation of the noise."""
        return (1 - self.alphas_cumprod).sqrt()


def _positive(steps: int) -> int:
    if steps < 1:
        raise RecipeError(f"steps is {steps}; a schedule needs at least 1.")
    return steps
