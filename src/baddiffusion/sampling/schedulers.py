"""Samplers by name: which stock diffusers scheduler each one runs, and how it is built from a checkpoint's config."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from pydantic import Field

from baddiffusion.errors import CheckpointError, EvaluationError, RecipeError
from baddiffusion.images import Images
from baddiffusion.registry import Component, Registry

__all__ = ["SAMPLERS", "Ddim", "Ddpm", "DpmSolverPlusPlus", "SamplerDesign", "as_eps", "train_timesteps"]

Spacing = Literal["leading", "linspace", "trailing"]
BETA_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "steps_offset")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
VARIANCE_TYPES = ("fixed_small", "fixed_small_log", "fixed_large")


def train_timesteps(scheduler_config: Mapping[str, Any]) -> int:
    """T, the number of steps that the checkpoint was trained with; diffusers' default is 1000."""
    return int(scheduler_config.get("num_train_timesteps", 1000))


class SamplerDesign(Component):
    """A sampler as a recipe names it: one stock scheduler class and the options that make it this sampler.

    To add one: a subclass with ``scheduler_class``, ``spacing`` and ``default_steps``, registered by name; the rest has
    defaults. The scheduler takes from the checkpoint's config the betas and whatever ``config_keys`` names, and nothing
    else. So its clipping and thresholding are always off (`Clipping` is ours), its prediction type is always epsilon
    (the loop converts), and the timestep spacing is the recipe's: configs written by different releases of diffusers
    differ in whether they name one, and equal weights must not give different images for that.

    Args:
        spacing: how fewer than T steps are spread over the T of training, in the words of arXiv 2305.08891, Table 2.
    """

    scheduler_class: ClassVar[type[Any]]
    config_keys: ClassVar[tuple[str, ...]] = ()

    spacing: Spacing = "leading"

    def default_steps(self, train_timesteps: int) -> int:
        """How many steps to take when the recipe does not say, for a model trained with that many."""
        raise RecipeError(f"{type(self).__name__} does not say how many steps it takes; define default_steps(T).")

    def options(self) -> dict[str, Any]:
        """Further arguments for the scheduler's constructor."""
        return {}

    def step_options(self) -> dict[str, Any]:
        """Further arguments for each of the scheduler's steps."""
        return {}

    def make_scheduler(self, arguments: dict[str, Any]) -> Any:
        """Make the stock scheduler."""
        return self.scheduler_class(**arguments)

    def coefficients(self, scheduler: Any) -> list[tuple[float, float]]:
        """Signal and noise of x_t at each of the scheduler's steps, in the scheduler's own coordinates.

        **Equation**: √ᾱ_t and √(1 − ᾱ_t), which fits every scheduler that steps x_t itself.
        """
        alpha_bar = scheduler.alphas_cumprod.double()[scheduler.timesteps.long()]
        return list(zip(alpha_bar.sqrt().tolist(), (1 - alpha_bar).sqrt().tolist(), strict=True))

    def build(self, scheduler_config: Mapping[str, Any], num_inference_steps: int | None = None) -> Any:
        """Make the scheduler of a checkpoint, with its timesteps set.

        Its tables stay on the CPU: a stock scheduler reads them entry by entry, and an entry that lies on an
        accelerator would be fetched, and waited for, at every step.

        Args:
            scheduler_config: what stands in the checkpoint's ``scheduler_config.json``.
            num_inference_steps: 1 … T; None takes `default_steps`.

        Returns:
            A scheduler of exactly ``scheduler_class``.

        Raises:
            CheckpointError: the config asks for something that no sampler here can do.
            RecipeError: the number of steps does not fit, or it does not fit the spacing.
            EvaluationError: another scheduler class came out than was asked for.
        """
        _check_config(scheduler_config)
        steps = self._steps(scheduler_config, num_inference_steps)
        arguments = {key: scheduler_config[key] for key in (*BETA_KEYS, *self.config_keys) if key in scheduler_config}
        # Left out, clip_sample is true in DDPM and DDIM.
        accepted = inspect.signature(self.scheduler_class.__init__).parameters
        arguments |= {key: False for key in ("clip_sample", "thresholding") if key in accepted}
        try:
            scheduler = self.make_scheduler({**arguments, "timestep_spacing": self.spacing, **self.options()})
        except (TypeError, ValueError, NotImplementedError, RuntimeError) as error:
            raise CheckpointError(f"the scheduler config {dict(scheduler_config)} cannot be used: {error}.") from None
        if type(scheduler) is not self.scheduler_class:
            raise EvaluationError(
                f"{self.component_name} is to run {self.scheduler_class.__name__}, but {type(scheduler).__name__} came "
                f"out; its images would be those of another sampler. Correct make_scheduler() of {type(self).__name__}."
            )
        with warnings.catch_warnings():
            # diffusers hands a tensor to np.array, which numpy 2 tells every caller about.
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            scheduler.set_timesteps(steps)
        self._check_timesteps(scheduler.timesteps.tolist(), train_timesteps(scheduler_config))
        return scheduler

    def _steps(self, scheduler_config: Mapping[str, Any], requested: int | None) -> int:
        limit = train_timesteps(scheduler_config)
        steps = self.default_steps(limit) if requested is None else requested
        if not 1 <= steps <= limit:
            raise RecipeError(
                f"num_inference_steps is {steps}; it must lie in [1, {limit}], the number of steps that the model was "
                f"trained with. Leave it out for {self.component_name}'s default of {self.default_steps(limit)}."
            )
        return steps

    def _check_timesteps(self, timesteps: list[int], limit: int) -> None:
        descends = all(later < earlier for earlier, later in pairwise(timesteps))
        if not descends or timesteps[0] >= limit or timesteps[-1] < 0:
            raise RecipeError(
                f"num_inference_steps is {len(timesteps)}; {self.component_name} with {self.spacing} spacing cannot "
                f"spread that many over the timesteps 0 … {limit - 1} without leaving them or repeating one. Take "
                f"fewer steps or another spacing."
            )


SAMPLERS: Registry[SamplerDesign] = Registry("sampler")


@SAMPLERS.register("ddpm", aliases={"DDPM-SCHED": {}})
class Ddpm(SamplerDesign):
    """Ancestral sampling, the sampler that the paper's residual is made for.

    With fewer than T steps the transitions are recomputed for the stride. The variance is the checkpoint's
    ``variance_type``: fixed_large for google/ddpm-cifar10-32.

    Source: arXiv 2006.11239, Algorithm 2; arXiv 2212.05400, Algorithm 2.
    """

    scheduler_class: ClassVar[type[Any]] = DDPMScheduler
    config_keys: ClassVar[tuple[str, ...]] = ("variance_type",)

    def default_steps(self, train_timesteps: int) -> int:
        """All of them."""
        return train_timesteps


@SAMPLERS.register("ddim", aliases={"DDIM-SCHED": {}})
class Ddim(SamplerDesign):
    """DDIM; an ODE solver for eta 0, ancestral sampling with the small variance for eta 1.

    Args:
        eta: how much of the ancestral noise is added, in [0, 1].
        spacing: ``leading``, or ``trailing`` for a number of steps that divides T. Stock DDIMScheduler takes every jump
            T // steps wide, whatever the next timestep is: with any other spacing the chain would not fit together.

    Source: arXiv 2010.02502, Eq. 12 and 16.
    """

    scheduler_class: ClassVar[type[Any]] = DDIMScheduler
    config_keys: ClassVar[tuple[str, ...]] = ("set_alpha_to_one",)

    eta: Annotated[float, Field(ge=0, le=1)] = 0.0

    def default_steps(self, train_timesteps: int) -> int:
        """50, as in the paper's appendix E."""
        return min(50, train_timesteps)

    def step_options(self) -> dict[str, Any]:
        """The stock scheduler takes eta at every step."""
        return {"eta": self.eta}

    def _check_timesteps(self, timesteps: list[int], limit: int) -> None:
        super()._check_timesteps(timesteps, limit)
        jump = limit // len(timesteps)
        fits = all(earlier - later == jump for earlier, later in pairwise(timesteps)) and timesteps[-1] < jump
        if not fits:
            raise RecipeError(
                f"spacing is {self.spacing!r} with {len(timesteps)} steps of {limit}; stock DDIM always jumps {jump} "
                f"timesteps, and these do not lie that far apart. Use leading, or trailing with a divisor of {limit}."
            )


@SAMPLERS.register("dpm-solver++", aliases={f"DPM_SOLVER_PP_O{order}-SCHED": {"order": order} for order in (1, 2, 3)})
class DpmSolverPlusPlus(SamplerDesign):
    """DPM-Solver++, multistep: an ODE solver in the predicted image.

    Args:
        order: 1, 2 or 3. The third is unstable on these models: FID 18 to 44 in the authors' releases.
        spacing: ``linspace`` is this scheduler's own default and starts at T − 1.

    Source: arXiv 2211.01095, Algorithm 2.
    """

    scheduler_class: ClassVar[type[Any]] = DPMSolverMultistepScheduler

    spacing: Spacing = "linspace"
    order: Annotated[int, Field(ge=1, le=3)] = 2

    def default_steps(self, train_timesteps: int) -> int:
        """20, as in the paper's appendix E."""
        return min(20, max(1, train_timesteps - 1))

    def options(self) -> dict[str, Any]:
        """The data-prediction form, at the order asked for."""
        return {"algorithm_type": "dpmsolver++", "solver_order": self.order, "final_sigmas_type": "zero"}


def _check_config(config: Mapping[str, Any]) -> None:
    allowed = {
        "prediction_type": ("epsilon", PREDICTION_TYPES),
        "variance_type": ("fixed_small", VARIANCE_TYPES),
        "beta_schedule": ("linear", BETA_SCHEDULES),
        "rescale_betas_zero_snr": (False, (False,)),
    }
    for key, (default, values) in allowed.items():
        value = config.get(key, default)
        if value is not None and value not in values:
            raise CheckpointError(
                f"the scheduler config has {key} = {value!r}; this sampler can use "
                f"{', '.join(map(repr, values))}. Take another checkpoint."
            )
    if not isinstance(config.get("num_train_timesteps", 1000), int) or train_timesteps(config) < 1:
        raise CheckpointError(
            f"the scheduler config has num_train_timesteps = {config['num_train_timesteps']!r}; it must be a whole "
            f"number, at least 1."
        )


def as_eps(prediction_type: str, answer: Images, x_t: Images, signal: float, noise: float) -> Images:
    """Turn what the network answered into eps, whatever it was trained to predict.

    Stock schedulers convert too, each in its own way; converting once makes clipping and every sampler see the same.

    **Equation**: epsilon: eps; v_prediction: signal·v + noise·x_t; sample: (x_t − signal·x_0) / noise.

    Args:
        prediction_type: as the scheduler config spells it.
        answer: the network's output.
        x_t: the network's input.
        signal: √ᾱ_t.
        noise: √(1 − ᾱ_t).

    Source: arXiv 2202.00512, appendix D, for v.
    """
    if prediction_type == "v_prediction":
        return signal * answer + noise * x_t
    if prediction_type == "sample":
        return (x_t - signal * answer) / noise
    return answer
