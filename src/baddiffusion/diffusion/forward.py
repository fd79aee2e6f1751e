"""The forward process of every attack, and of none: one table, one q_sample, one loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from baddiffusion.errors import RecipeError
from baddiffusion.images import Images

__all__ = ["Denoiser", "ForwardTable", "denoising_loss"]

Denoiser = Callable[[Images, Int64[Tensor, " b"]], Images]
"""Predicts eps from (x_t, t); t is 0-based."""


@dataclass(frozen=True, eq=False)
class ForwardTable:
    """An attack, as four float64 vectors of length T and one optional image.

    **Equation**::

        x_t    = signal[t]·x_0 + shift[t]·r + noise[t]·(gain ⊙ eps)
        target = eps + residual[t]·r

    A clean sample has r = 0 and gain 1, which makes one formula serve clean and poisoned samples alike.

    Args:
        signal: √ᾱ_t.
        noise: √(1 − ᾱ_t).
        shift: how far the chain has moved towards r.
        residual: the correction that the network learns to add.
        noise_gain: (c, h, w), multiplies the noise of poisoned samples; None stands for ones.

    Raises:
        RecipeError: the vectors differ in length.
    """

    signal: Float64[Tensor, " T"]
    noise: Float64[Tensor, " T"]
    shift: Float64[Tensor, " T"]
    residual: Float64[Tensor, " T"]
    noise_gain: Float[Tensor, "c h w"] | None = None

    def __post_init__(self) -> None:
        lengths = {len(v) for v in (self.signal, self.noise, self.shift, self.residual)}
        if len(lengths) != 1:
            raise RecipeError(f"signal, noise, shift and residual have lengths {sorted(lengths)}; they must be equal.")

    def __len__(self) -> int:
        return len(self.signal)

    def to(self, device: torch.device | str) -> ForwardTable:
        """Move the table, so that a training step on an accelerator copies nothing."""
        gain = self.noise_gain.to(device) if self.noise_gain is not None else None
        vectors = {name: getattr(self, name).to(device) for name in ("signal", "noise", "shift", "residual")}
        return replace(self, **vectors, noise_gain=gain)

    def q_sample(self, x_0: Images, r: Images, t: Int64[Tensor, " b"], eps: Images) -> Images:
        """Draw x_t given x_0 (the image, or the target of a poisoned sample), r (zero for a clean sample) and eps."""
        if self.noise_gain is not None:
            poisoned = r.flatten(1).any(dim=1).view(-1, 1, 1, 1)
            eps = torch.where(poisoned, self.noise_gain.to(eps) * eps, eps)
        return _at(self.signal, t, x_0) * x_0 + _at(self.shift, t, x_0) * r + _at(self.noise, t, x_0) * eps

    def target(self, r: Images, t: Int64[Tensor, " b"], eps: Images) -> Images:
        """What the network has to answer at x_t."""
        return eps + _at(self.residual, t, eps) * r


def denoising_loss(
    model: Denoiser, table: ForwardTable, x_0: Images, r: Images, t: Int64[Tensor, " b"], eps: Images
) -> Float[Tensor, " b"]:
    """Mean squared error of each sample, unreduced: clean and poisoned losses are logged apart.

    **Equation**: ‖ eps + residual[t]·r − ε_θ(x_t, t) ‖² / (c·h·w), always in float32.

    Source: arXiv 2212.05400, Eq. 10.
    """
    prediction = model(table.q_sample(x_0, r, t, eps), t)
    return (prediction.float() - table.target(r, t, eps).float()).square().flatten(1).mean(dim=1)


def _at(vector: Float64[Tensor, " T"], t: Int64[Tensor, " b"], like: Images) -> Float[Tensor, "b 1 1 1"]:
    return vector.to(t.device)[t].to(like.dtype).view(-1, 1, 1, 1)
