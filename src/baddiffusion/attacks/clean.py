"""No attack: ordinary DDPM training, the control of every experiment."""

from __future__ import annotations

import torch

from baddiffusion.attacks.attack import ATTACKS, Attack
from baddiffusion.diffusion import ForwardTable, NoiseSchedule
from baddiffusion.images import Images
from baddiffusion.triggers import Trigger

__all__ = ["Clean"]


@ATTACKS.register("clean", aliases={"none": {}})
class Clean(Attack):
    """Ordinary diffusion training.

    **Equation**: x_t = √ᾱ_t·x_0 + √(1−ᾱ_t)·eps, target = eps. Source: arXiv 2006.11239, Eq. 4 and 14.
    """

    def forward_table(self, schedule: NoiseSchedule) -> ForwardTable:
        """Signal and noise of the schedule; no shift, no residual."""
        zero = torch.zeros_like(schedule.betas)
        return ForwardTable(signal=schedule.signal, noise=schedule.noise, shift=zero, residual=zero)

    def source(self, x: Images, trigger: Trigger) -> Images:
        """Zero: a clean model has no poisoned samples."""
        return torch.zeros_like(x)

    def initial_noise(self, eps: Images, trigger: Trigger) -> Images:
        """The noise itself."""
        return eps
