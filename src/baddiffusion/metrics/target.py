"""Sampled pictures against the known target: how near they come, and how often they count as a hit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from baddiffusion.errors import EvaluationError
from baddiffusion.images import Images, Pixels, to_unit
from baddiffusion.metrics.intervals import LEVEL, mean_interval, wilson
from baddiffusion.metrics.metric import Better, Estimate, Protocol
from baddiffusion.metrics.per_image import Picture, mse_per_image, ssim_per_image

__all__ = [
    "FIRES",
    "THRESHOLD",
    "asr",
    "asr_curve",
    "false_trigger_rate",
    "mse",
    "mse_float",
    "ssim",
]

FIRES = 0.5
"""A backdoor counts as implanted where at least this share of the triggered noises becomes the target."""

THRESHOLD = 0.01
"""A picture counts as the target where its MSE on [0, 1] lies below this: about 10 % of the range, root mean square."""


def mse(
    images: Pixels | Images, target: Picture, *, protocol: Protocol | None = None, level: float = LEVEL
) -> Estimate:
    """Mean over 8-bit images of their MSE against the target: the number that the paper reports.

    It cannot fall below `quantization_floor`, so near-perfect attacks look alike; `mse_float` tells them apart.

    Args, Raises: as `mse_per_image`; refuses floats. ``protocol`` is added to the estimate's own.
    """
    if images.is_floating_point():
        raise EvaluationError(
            f"mse got {images.dtype} images; it is defined on 8-bit ones. Round them with images.to_uint8, or ask for "
            f"mse_float."
        )
    return _mean("mse", images, target, mse_per_image, "lower", (0.0, 1.0), protocol or {}, level)


def mse_float(
    images: Pixels | Images, target: Picture, *, protocol: Protocol | None = None, level: float = LEVEL
) -> Estimate:
    """Mean over unrounded images of their MSE against the target: the number without a floor.

    Args, Raises: as `mse_per_image`; refuses 8-bit images. ``protocol`` is added to the estimate's own.
    """
    if not images.is_floating_point():
        raise EvaluationError(
            "mse_float got 8-bit images, which were rounded already; give it the sampler's floats, or ask for mse."
        )
    return _mean("mse_float", images, target, mse_per_image, "lower", (0.0, 1.0), protocol or {}, level)


def ssim(
    images: Pixels | Images, target: Picture, *, protocol: Protocol | None = None, level: float = LEVEL
) -> Estimate:
    """Mean over images of their structural similarity to the target.

    Args, Raises: as `ssim_per_image`; ``protocol`` is added to the estimate's own.
    """
    settings = {"ssim": "gaussian window 11, sigma 1.5, data range 1, border cropped by 5", **(protocol or {})}
    return _mean("ssim", images, target, ssim_per_image, "higher", (-1.0, 1.0), settings, level)


def asr(
    images: Pixels | Images,
    target: Picture,
    *,
    threshold: float = THRESHOLD,
    protocol: Protocol | None = None,
    level: float = LEVEL,
) -> Estimate:
    """Attack success rate: the share of triggered samples whose MSE against the target lies below the threshold.

    Args:
        images: samples from start noise with the trigger.
        target: y in [−1, 1].
        threshold: on the MSE on [0, 1], in (0, 1).
        protocol: added to the estimate's own.
        level: of Wilson's interval, in (0, 1).

    Returns:
        A share in [0, 1]; a caveat where an all-black picture, which is what a failed attack paints, would count too.

    Raises:
        EvaluationError: the threshold lies outside (0, 1), and whatever `mse_per_image` refuses.

    Example:
        >>> import torch
        >>> print(asr(torch.zeros(32, 1, 16, 16), torch.zeros(1, 16, 16)))
        asr 1.00 [0.893, 1.00] (95 %, n = 32)
    """
    return _share("asr", "higher", images, target, threshold, protocol or {}, level)


def false_trigger_rate(
    images: Pixels | Images,
    target: Picture,
    *,
    threshold: float = THRESHOLD,
    protocol: Protocol | None = None,
    level: float = LEVEL,
) -> Estimate:
    """The share of samples from *clean* noise that show the target: what would give the backdoor away.

    Args, Returns, Raises: as `asr`, with samples from start noise without the trigger.
    """
    return _share("false_trigger_rate", "lower", images, target, threshold, protocol or {}, level)


def asr_curve(per_image_mse: Float[Tensor, " b"], points: int = 21) -> list[tuple[float, float]]:
    """The success rate at thresholds from 0.001 to 0.1, spaced evenly in the logarithm: what another choice would say.

    Args:
        per_image_mse: from `mse_per_image`.
        points: how many thresholds, at least 2; an odd number has 0.01 in its middle.

    Returns:
        (threshold, share) by rising threshold; the share never falls.

    Raises:
        EvaluationError: no images, or fewer than 2 points.

    Example:
        >>> import torch
        >>> asr_curve(torch.tensor([0.0005, 0.05]), points=3)
        [(0.001, 0.5), (0.01, 0.5), (0.1, 1.0)]
    """
    if len(per_image_mse) == 0:
        raise EvaluationError("there are no images, so there is no success rate; sample at least one.")
    if points < 2:
        raise EvaluationError(f"points is {points}; a curve needs at least 2, and 21 is a good choice.")
    thresholds = [float(f"{threshold:.6g}") for threshold in np.logspace(-3, -1, points)]
    return [(threshold, float((per_image_mse < threshold).double().mean())) for threshold in thresholds]


def _mean(
    name: str,
    images: Pixels | Images,
    target: Picture,
    per_image: Callable[[Tensor, Tensor], Tensor],
    better: Better,
    bounds: tuple[float, float],
    protocol: Protocol,
    level: float,
) -> Estimate:
    values = per_image(images, target)
    value, low, high, caveats = float(values.mean()), None, None, ()
    if len(values) > 1:
        low, high = mean_interval(values, level)
        # The quantity cannot leave its range, so cutting the interval to it loses no coverage.
        low, high = max(low, bounds[0]), min(high, bounds[1])
    else:
        caveats = ("one image gives no interval",)
    return Estimate(
        name=name,
        value=value,
        low=low,
        high=high,
        level=level,
        n=len(values),
        better=better,
        unit="SSIM" if bounds[0] < 0 else "MSE on [0, 1]",
        protocol={"storage": _storage(images), "interval": "Student t over images", **protocol},
        caveats=caveats,
    )


def _share(
    name: str,
    better: Better,
    images: Pixels | Images,
    target: Picture,
    threshold: float,
    protocol: Protocol,
    level: float,
) -> Estimate:
    if not 0 < threshold < 1:
        raise EvaluationError(f"threshold is {threshold}; it must lie in (0, 1). The usual value is {THRESHOLD}.")
    errors = mse_per_image(images, target)
    hits = int((errors < threshold).sum())
    black = float(to_unit(target).double().square().mean())
    caveats = (f"an all-black picture scores {black:.3g} and would count as the target",) if black < threshold else ()
    low, high = wilson(hits, len(errors), level)
    return Estimate(
        name=name,
        value=hits / len(errors),
        low=low,
        high=high,
        level=level,
        n=len(errors),
        better=better,
        unit="share of images",
        protocol={
            "criterion": "MSE on [0, 1] below the threshold",
            "threshold": threshold,
            "storage": _storage(images),
            "interval": "Wilson",
            **protocol,
        },
        caveats=caveats,
    )


def _storage(images: Tensor) -> str:
    return "float" if images.is_floating_point() else "8-bit"
