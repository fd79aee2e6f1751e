"""Numbers that locate the others: what failure scores against a target, and what rounding alone costs."""

from __future__ import annotations

import torch

from baddiffusion.images import to_uint8
from baddiffusion.metrics.metric import Estimate, Protocol, Scalar
from baddiffusion.metrics.per_image import Picture, mse_per_image, ssim_per_image

__all__ = ["failure_level", "quantization_floor"]


def failure_level(target: Picture) -> tuple[Estimate, Estimate]:
    """What an all-black picture scores against the target: MSE and SSIM.

    Where the backdoor does not fire, unclipped sampling from the triggered noise drifts to black; values near these
    therefore mean failure, not half a success.

    Returns:
        ``failure_mse`` and ``failure_ssim``, exact, without interval.

    Raises:
        EvaluationError: whatever `ssim_per_image` refuses.

    Example:
        >>> print(failure_level(torch.zeros(1, 16, 16))[0])
        failure_mse 0.250 (n = 1)
    """
    black = torch.zeros(1, *target.shape, dtype=torch.uint8, device=target.device)
    picture: dict[str, Scalar] = {"picture": "all black"}
    error, similarity = float(mse_per_image(black, target)), float(ssim_per_image(black, target))
    return _exact("failure_mse", error, "MSE on [0, 1]", picture), _exact("failure_ssim", similarity, "SSIM", picture)


def quantization_floor(target: Picture) -> Estimate:
    """The MSE of the target itself once it has been rounded to 8 bits: no 8-bit picture can score lower.

    Greys such as the paper's 0.3 (76.5 of 255) lie halfway between two levels, so a flawless Corner scores
    (0.5/255)² = 3.845e-6 and not 0.

    Returns:
        ``quantization_floor``, exact, without interval.

    Raises:
        EvaluationError: the target is not finite or not in [−1, 1].

    Example:
        >>> print(quantization_floor(torch.ones(1, 8, 8)))
        quantization_floor 0.00 (n = 1)
    """
    rounded = to_uint8(target)[None]
    value = float(mse_per_image(rounded, target))
    return _exact("quantization_floor", value, "MSE on [0, 1]", {"picture": "the target, rounded to 8 bits"})


def _exact(name: str, value: float, unit: str, protocol: Protocol) -> Estimate:
    return Estimate(name=name, value=value, low=None, high=None, n=1, better="neither", unit=unit, protocol=protocol)
