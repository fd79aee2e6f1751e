"""The chain watched from inside (the paper's appendix D): what x_t is, what it predicts, how biased its noise is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from baddiffusion.diffusion import Denoiser, NoiseSchedule
from baddiffusion.errors import RecipeError
from baddiffusion.images import Images
from baddiffusion.metrics import Estimate, mean_interval
from baddiffusion.poisoning import Implant
from baddiffusion.sampling import Observation, SamplingRecord, SamplingSettings, sample
from baddiffusion.sampling.schedulers import train_timesteps
from baddiffusion.triggers import Trigger

__all__ = [
    "BiasCurve",
    "Region",
    "Trajectory",
    "bias_curves",
    "bias_estimates",
    "follow",
    "perfect_denoiser",
    "regions",
]

FRAMES = 9
"""Pictured steps of a chain, its first and its last among them."""


class Region(NamedTuple):
    """Elements of the image that the trigger shifts alike.

    Args:
        name: ``background`` or ``trigger``.
        mask: which elements.
        r: the mean of r over them: −1 in the background, 0 in a grey box.
    """

    name: str
    mask: Bool[Tensor, "c h w"]
    r: float


def regions(trigger: Trigger) -> tuple[Region, ...]:
    """The background of a trigger and the trigger itself; one that covers nothing, or everything, has one region.

    Example:
        >>> [(part.name, int(part.mask.sum()), part.r) for part in regions(Trigger.make("BOX_14", (1, 32, 32)))]
        [('background', 828, -1.0), ('trigger', 196, 0.0)]
    """
    inside = trigger.mask.expand(trigger.pattern.shape)
    parts = (("background", ~inside), ("trigger", inside))
    return tuple(Region(name, mask, float(trigger.offset[mask].mean())) for name, mask in parts if bool(mask.any()))


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One set of chains, step by step.

    Args:
        kind: ``clean`` or ``triggered``: what the chains started from.
        train_timesteps: T.
        timesteps: t of every step.
        pictured: the steps whose frames are kept.
        x_t: where those steps start, of one seed, in the coordinates of training.
        x_0: what the network predicts there, before clipping.
        bias: mean implied noise of every image, step and region, see `follow`; None for clean chains.
        regions: the regions of ``bias``.
        images: where the chains end, unclamped.
        record: how they were made.
    """

    kind: Literal["clean", "triggered"]
    train_timesteps: int
    timesteps: tuple[int, ...]
    pictured: tuple[int, ...]
    x_t: Float[Tensor, "f c h w"]
    x_0: Float[Tensor, "f c h w"]
    bias: Float64[Tensor, "n steps regions"] | None
    regions: tuple[Region, ...]
    images: Images
    record: SamplingRecord

    @property
    def protocol(self) -> dict[str, Any]:
        """How the chains were made, as their numbers say it."""
        record = self.record
        how = {"sampler": record.sampler["name"], "steps": record.num_inference_steps, "clip": record.clip}
        return {"kind": self.kind, **how, "precision": record.precision, "device": record.device}


class _Level(NamedTuple):
    """What a step's x_t is made of: x_t / scale = signal·x_0 + shift·r + noise·eps."""

    signal: float
    noise: float
    shift: float
    residual: float
    scale: float


def follow(
    denoiser: torch.nn.Module | Denoiser,
    scheduler_config: Mapping[str, Any],
    implant: Implant,
    kind: Literal["clean", "triggered"],
    seeds: Sequence[int],
    settings: SamplingSettings,
    *,
    frames: int = FRAMES,
    shown: int | None = None,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> Trajectory:
    """Sample while watching: frames of one image, and of triggered chains how biased their noise is.

    The implied noise is what would have to be the noise of x_t if the chain were a chain to the target. As long as the
    backdoor works it is standard normal; what keeps the chain from drifting as it should gives it a mean. Towards t = 0
    it tells little: what the picture lacks of y is divided by almost no noise.

    **Equation**: implied noise = (x_t − signal_t·y − shift_t·r) / noise_t; its bias is the mean over a region.

    Args:
        denoiser, scheduler_config: as `sample` takes them.
        implant: attack, trigger and target; r is what the attack makes of a black picture.
        kind: what the chains start from.
        seeds: one per image.
        settings: sampler, steps, clipping, precision.
        frames: how many steps are pictured, evenly spread, at least 2.
        shown: the seed whose chain is pictured; left out, the first.
        device: where to sample.
        on_progress: as `sample` calls it.

    Raises:
        RecipeError: fewer than 2 frames, a shown seed that is not among the seeds, an attack with a sampler of its
            own, and what `sample` refuses.
    """
    levels = _levels(implant, scheduler_config, settings)
    watch = _Watch(implant.to(device), levels, frames, seeds, shown)
    channels, height, width = implant.target.shape
    samples = sample(
        denoiser,
        scheduler_config,
        (channels, height, width),
        seeds,
        settings,
        initial_noise=(lambda eps: implant.attack.initial_noise(eps, implant.trigger)) if kind == "triggered" else None,
        device=device,
        on_progress=on_progress,
        observe=watch,
    )
    return Trajectory(
        kind=kind,
        train_timesteps=train_timesteps(scheduler_config),
        timesteps=tuple(watch.timesteps),
        pictured=watch.pictured,
        x_t=watch.x_t,
        x_0=watch.x_0,
        bias=watch.bias if kind == "triggered" else None,
        regions=watch.regions,
        images=samples.images,
        record=samples.record,
    )


class _Watch:
    """Keeps of every step what a trajectory needs."""

    def __init__(
        self, implant: Implant, levels: Sequence[_Level], frames: int, seeds: Sequence[int], shown: int | None
    ) -> None:
        if frames < 2:
            raise RecipeError(f"frames is {frames}; it must be at least 2, for the first step and the last.")
        if shown is not None and shown not in seeds:
            some = ", ".join(map(str, seeds[:4])) + ", …" * (len(seeds) > 4)
            raise RecipeError(f"the shown seed is {shown}; it must be one of the {len(seeds)} seeds: {some}.")
        self._row = 0 if shown is None else seeds.index(shown)
        last = len(levels) - 1
        self.pictured = tuple(sorted({round(step * last / (frames - 1)) for step in range(frames)}))
        self.x_t, self.x_0 = (torch.zeros(len(self.pictured), *implant.target.shape) for _ in range(2))
        self.timesteps = [0] * len(levels)
        self.regions = regions(implant.trigger)
        self.bias = torch.zeros(len(seeds), len(levels), len(self.regions), dtype=torch.float64)
        self._levels = levels
        self._y, self._r = implant.target.double(), _r(implant)

    def __call__(self, step: Observation) -> None:
        signal, noise, shift, _, scale = self._levels[step.index]
        self.timesteps[step.index] = step.timestep
        row = self._row - step.first
        if 0 <= row < len(step.x_t) and step.index in self.pictured:
            frame = self.pictured.index(step.index)
            self.x_t[frame], self.x_0[frame] = step.x_t[row] / scale, step.x_0[row]
        implied = (step.x_t.double() / scale - signal * self._y - shift * self._r) / noise
        rows = slice(step.first, step.first + len(implied))
        for index, part in enumerate(self.regions):
            self.bias[rows, step.index, index] = implied[:, part.mask].mean(dim=1).cpu()


def perfect_denoiser(implant: Implant, scheduler_config: Mapping[str, Any], settings: SamplingSettings) -> Denoiser:
    """The network of the theory: it knows y and r, and corrects itself wherever the chain has strayed.

    Followed in place of a network it gives the bias that the algebra predicts, for any sampler and clipping.

    **Equation**: ε_θ(x_t, t) = (x_t − signal_t·y − shift_t·r) / noise_t + residual_t·r.

    Raises:
        RecipeError: an attack with a sampler of its own.
    """
    config = {**scheduler_config, "prediction_type": "epsilon"}
    scheduler = settings.sampler.build(config, settings.num_inference_steps)
    at = dict(zip(map(float, scheduler.timesteps.tolist()), _levels(implant, config, settings), strict=True))
    y, r = implant.target.double(), _r(implant)

    def predict(x_t: Images, t: Int64[Tensor, " b"]) -> Images:
        level = at[float(t[0])]
        implied = (x_t.double() - level.signal * y.to(x_t.device) - level.shift * r.to(x_t.device)) / level.noise
        return (implied + level.residual * r.to(x_t.device)).to(x_t.dtype)

    return predict


@dataclass(frozen=True)
class BiasCurve:
    """Mean implied noise over the steps, in standard deviations of the noise.

    Args:
        source: ``measured`` on a network, or ``theory``.
        clip: of the chains.
        region: its name.
        r: mean of r there.
        n: how many images.
        timesteps: t of the steps.
        mean, low, high: over the images, with Student's interval; low and high equal mean for one image.
    """

    source: Literal["measured", "theory"]
    clip: str
    region: str
    r: float
    n: int
    timesteps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def bias_curves(trajectory: Trajectory, source: Literal["measured", "theory"]) -> list[BiasCurve]:
    """One curve for each region of triggered chains; none of clean ones."""
    if trajectory.bias is None:
        return []
    curves = []
    for index, part in enumerate(trajectory.regions):
        values = trajectory.bias[:, :, index]
        mean = values.mean(dim=0).tolist()
        ends = [mean_interval(column) for column in values.T] if len(values) > 1 else [(m, m) for m in mean]
        low, high = zip(*ends, strict=True)
        clip, n = trajectory.record.clip, len(values)
        curves.append(BiasCurve(source, clip, part.name, part.r, n, trajectory.timesteps, tuple(mean), low, high))
    return curves


def bias_estimates(trajectory: Trajectory, shares: Sequence[float] = (0.9, 0.7, 0.5, 0.3, 0.1)) -> list[Estimate]:
    """The measured bias at a few timesteps, each the step nearest to a share of T."""
    estimates = []
    for curve in bias_curves(trajectory, "measured"):
        for share in shares:
            wanted = share * trajectory.train_timesteps - 1
            at = min(range(len(curve.timesteps)), key=lambda k: abs(curve.timesteps[k] - wanted))
            estimates.append(
                Estimate(
                    name="implied_noise_bias",
                    value=curve.mean[at],
                    low=curve.low[at] if curve.n > 1 else None,
                    high=curve.high[at] if curve.n > 1 else None,
                    n=curve.n,
                    better="neither",
                    unit="standard deviations of the noise",
                    protocol={
                        **trajectory.protocol,
                        "region": curve.region,
                        "r": curve.r,
                        "timestep": curve.timesteps[at],
                        "interval": "Student t over images",
                    },
                    caveats=() if curve.n > 1 else ("one image gives no interval",),
                )
            )
    return estimates


def _levels(implant: Implant, scheduler_config: Mapping[str, Any], settings: SamplingSettings) -> list[_Level]:
    """One entry for each step. Signal and noise are the scheduler's own, whose tables are float32: at t = T − 1 their
    rounding would pass for a bias."""
    schedule = NoiseSchedule.from_scheduler_config(scheduler_config)
    if implant.attack.view(implant.trigger) is not None:
        raise RecipeError(
            f"the attack {implant.attack.component_name} brings a sampler of its own; trajectories are followed under "
            f"stock samplers only. Take a model with another attack."
        )
    table = implant.attack.forward_table(schedule)
    scheduler = settings.sampler.build(scheduler_config, settings.num_inference_steps)
    levels = []
    for t, (signal, noise) in zip(scheduler.timesteps.tolist(), settings.sampler.coefficients(scheduler), strict=True):
        scale = (signal**2 + noise**2) ** 0.5
        k = round(t)
        levels.append(_Level(signal / scale, noise / scale, float(table.shift[k]), float(table.residual[k]), scale))
    return levels


def _r(implant: Implant) -> Float64[Tensor, "c h w"]:
    black = torch.full_like(implant.target, -1.0)[None]
    return implant.attack.source(black, implant.trigger)[0].double()
