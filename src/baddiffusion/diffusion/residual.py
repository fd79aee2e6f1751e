"""What the network must answer on top of the noise so that an unmodified sampler carries r to the target."""

from __future__ import annotations

from jaxtyping import Float64
from torch import Tensor

from baddiffusion.diffusion.schedule import NoiseSchedule

__all__ = ["ancestral_residual"]


def ancestral_residual(schedule: NoiseSchedule) -> Float64[Tensor, " T"]:
    """The paper's correction for the ancestral DDPM sampler.

    Subtract r from both sides of the backdoored chain and it is an ordinary DDPM chain; its posterior mean, written in
    the original coordinates, is the clean sampler's step with the noise estimate moved by c_t·r.

    **Equation**: c_t = (1 − √α_t)·√(1 − ᾱ_t) / (1 − α_t) = √(1 − ᾱ_t) / (1 + √α_t); the second form does not cancel.

    Source: arXiv 2212.05400, Eq. 8 to 10.
    """
    return schedule.noise / (1 + schedule.alphas.sqrt())
