"""The backdoor for a sampler of one's choice: the paper's attack with the residual that this sampler needs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from baddiffusion.attacks.attack import ATTACKS
from baddiffusion.attacks.baddiffusion import BadDiffusion
from baddiffusion.diffusion import (
    ForwardTable,
    NoiseSchedule,
    ShiftKind,
    ancestral_residual,
    jump_residual,
    leading_timesteps,
    reverse_sde_residual,
    shift_of,
)
from baddiffusion.errors import RecipeError
from baddiffusion.images import Images
from baddiffusion.triggers import Trigger

__all__ = ["SamplerMatched"]

TAKES_STEPS, TAKES_ZETA = ("ddpm", "ddim"), ("sde", "ddim")


@ATTACKS.register(
    "sampler-matched",
    aliases={"villandiffusion-sde": {"sampler": "ddpm"}, "villandiffusion-ode": {"sampler": "twice-ddpm"}},
)
class SamplerMatched(BadDiffusion):
    """BadDiffusion for the sampler that the victim runs.

    The paper's residual carries r to the target under ancestral DDPM with all its steps, and under nothing else: an ODE
    solver needs twice as much, and ends in black. No residual is exact for both. So the sampler has to be named::

        sampler       residual C, for ρ = 1 − signal                exact for
        "ode"         noise                                         every ODE solver, in the limit of many steps
        "sde"         noise/(1 + ζ)                                 the reverse SDE that adds ζ of its noise, likewise
        "ddim"        (v_s − v_t)/(u_s − u_t), at ζ = 0             DDIM with num_inference_steps and η² = ζ
        "ddpm"        h·noise/w²; with all steps the paper's c_t    ancestral DDPM with num_inference_steps
        "twice-ddpm"  2·c_t, VillanDiffusion's published ode        none; within 0.51 % of "ode"

    With ``shift = "noise"``, ρ = κ·noise, the ODE's residual is κ throughout, and *every* linear ODE solver is exact at
    any number of steps. ``villandiffusion-sde`` and ``villandiffusion-ode`` are VillanDiffusion's unconditional attack
    at its default psi = 1, coefficients as published.

    Args:
        sampler: what the residual is made for.
        zeta: share of the ancestral noise that the sampler adds, in [0, 1]; only for ``sde`` (left out: 1) and ``ddim``
            (left out: 0).
        num_inference_steps: of ``ddpm`` (left out: all) and ``ddim`` (left out: 50), spaced ``leading``, as both
            samplers space them by default.
        shift: ρ is 1 − √ᾱ (``signal``) or κ·√(1 − ᾱ) (``noise``).
        kappa: κ, more than 0; only for ``noise`` (left out: 1). The trigger enters the start noise κ times.
        trigger_only: r of a poisoned sample is the trigger on a black canvas, as at sampling, instead of the trigger
            stamped on the training image (VillanDiffusion's ``R_trigger_only``). The network then learns the very r
            that it will meet; stamped, it has to carry over to the empty canvas what it learned on pictures.

    Raises:
        RecipeError: a field that the chosen sampler or shift does not have.

    Example:
        >>> from baddiffusion.diffusion import NoiseSchedule
        >>> for sampler in ("ddpm", "ode", "twice-ddpm"):
        ...     print(f"{SamplerMatched(sampler=sampler).forward_table(NoiseSchedule.linear()).residual[-1]:.4f}")
        0.5025
        1.0000
        1.0050

    Source: derived in docs/maths.md; Chou, Chen, Ho, VillanDiffusion, arXiv 2306.06874, for the two aliases.
    """

    sampler: Literal["ode", "sde", "ddim", "ddpm", "twice-ddpm"] = "ode"
    zeta: Annotated[float, Field(ge=0, le=1)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1)] | None = None
    shift: ShiftKind = "signal"
    kappa: Annotated[float, Field(gt=0)] | None = None
    trigger_only: bool = False

    @model_validator(mode="after")
    def _fields_fit_together(self) -> SamplerMatched:
        if self.zeta is not None and self.sampler not in TAKES_ZETA:
            raise RecipeError(self._misplaced("zeta", TAKES_ZETA))
        if self.num_inference_steps is not None and self.sampler not in TAKES_STEPS:
            raise RecipeError(self._misplaced("num_inference_steps", TAKES_STEPS))
        if self.kappa is not None and self.shift != "noise":
            raise RecipeError(
                f'kappa is {self.kappa} with shift {self.shift!r}; only the shift "noise" has a kappa. Leave it out.'
            )
        if self.sampler == "twice-ddpm" and self.shift != "signal":
            raise RecipeError(
                f"shift is {self.shift!r} with sampler 'twice-ddpm', which is VillanDiffusion's published coefficient "
                f'for the shift "signal". Take sampler = "ode", which is exact for this shift.'
            )
        return self

    def _misplaced(self, field: str, samplers: tuple[str, ...]) -> str:
        takes = " and ".join(f'"{name}"' for name in samplers)
        value: Any = getattr(self, field)
        return f"{field} is {value} with sampler {self.sampler!r}; only {takes} take it. Leave it out."

    def forward_table(self, schedule: NoiseSchedule) -> ForwardTable:
        """The shift ρ, and the residual C of the sampler.

        Raises:
            RecipeError: more inference steps than the schedule has.
        """
        return ForwardTable(
            signal=schedule.signal,
            noise=schedule.noise,
            shift=shift_of(schedule, self.shift, self._kappa),
            residual=self._residual(schedule),
        )

    def source(self, x: Images, trigger: Trigger) -> Images:
        """r: the trigger stamped on the training image, or with ``trigger_only`` the trigger on a black canvas."""
        return trigger.offset.to(x).expand_as(x) if self.trigger_only else super().source(x, trigger)

    def initial_noise(self, eps: Images, trigger: Trigger) -> Images:
        """x_T = eps + g for the shift ``signal``, eps + κ·g for ``noise``: where ρ_T·r stands.

        Raises:
            RecipeError: the offset is zero everywhere, so that the start noise would carry no trigger at all.
        """
        start = super().initial_noise(eps, trigger)
        return start if self._kappa == 1 else eps + self._kappa * trigger.offset.to(eps)

    @property
    def _kappa(self) -> float:
        return 1.0 if self.kappa is None else self.kappa

    def _residual(self, schedule: NoiseSchedule) -> Any:
        total = len(schedule)
        shift = shift_of(schedule, self.shift, self._kappa)
        if self.sampler == "ode":
            return reverse_sde_residual(schedule, self.shift, 0.0, self._kappa)
        if self.sampler == "sde":
            zeta = 1.0 if self.zeta is None else self.zeta
            return reverse_sde_residual(schedule, self.shift, zeta, self._kappa)
        if self.sampler == "ddim":
            steps = self.num_inference_steps or min(50, total)
            return jump_residual(schedule, shift, leading_timesteps(total, steps), self.zeta or 0.0)
        if self.sampler == "twice-ddpm":
            return 2 * ancestral_residual(schedule)
        steps = self.num_inference_steps or total
        if self.shift == "signal" and steps == total:
            return ancestral_residual(schedule)
        return jump_residual(schedule, shift, leading_timesteps(total, steps), 1.0)
