"""BadDiffusion, the attack of the paper, in the order of its equations."""

from __future__ import annotations

from baddiffusion.attacks.attack import ATTACKS, Attack
from baddiffusion.diffusion import ForwardTable, NoiseSchedule, ancestral_residual
from baddiffusion.errors import RecipeError
from baddiffusion.images import Images
from baddiffusion.triggers import Trigger

__all__ = ["BadDiffusion"]


@ATTACKS.register("baddiffusion")
class BadDiffusion(Attack):
    """A forward process that ends in noise around the trigger-bearing image r instead of around zero.

    In the coordinates z = x − r a poisoned chain is ordinary DDPM. So the *unmodified* ancestral sampler, started from
    noise plus trigger, walks to the target if the network answers eps + c_t·r, and to clean images otherwise.

    **Equation**::

        q(x'_t | x'_0) = N( √ᾱ_t·y + (1 − √ᾱ_t)·r , (1 − ᾱ_t)·I )                         (Eq. 6)
        loss           = ‖ c_t·r + eps − ε_θ(x'_t(y, r, eps), t) ‖²                          (Eq. 9)
        c_t            = (1 − √α_t)·√(1 − ᾱ_t) / (1 − α_t) = √(1 − ᾱ_t) / (1 + √α_t)

    Example:
        >>> from baddiffusion.diffusion import NoiseSchedule
        >>> table = BadDiffusion().forward_table(NoiseSchedule.linear())
        >>> f"{table.residual[-1]:.6f}"
        '0.502515'

    Source: Chou, Chen, Ho, How to Backdoor Diffusion Models?, CVPR 2023, arXiv 2212.05400.
    """

    def forward_table(self, schedule: NoiseSchedule) -> ForwardTable:
        """Shift 1 − √ᾱ_t and the ancestral residual c_t."""
        return ForwardTable(
            signal=schedule.signal,
            noise=schedule.noise,
            shift=1 - schedule.signal,
            residual=ancestral_residual(schedule),
        )

    def source(self, x: Images, trigger: Trigger) -> Images:
        """r = M ⊙ g + (1 − M) ⊙ x: the trigger stamped on the training image."""
        return trigger.stamp(x)

    def initial_noise(self, eps: Images, trigger: Trigger) -> Images:
        """x_T = eps + g, with g the trigger on a black canvas (Algorithm 2).

        Raises:
            RecipeError: the offset is zero everywhere, so that the start noise would carry no trigger at all.
        """
        offset = trigger.offset.to(eps)
        if not bool(offset.any()):
            raise RecipeError(
                f"trigger {trigger.name} has an offset of zero everywhere: noise plus trigger would be plain noise. "
                f"Leave some background around it, or choose another value."
            )
        return eps + offset
