"""How near a detector came to what was implanted, where it recovers something. Only the benchmark sees both."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from baddiffusion import metrics
from baddiffusion.defenses import Detection
from baddiffusion.metrics import SSIM_WINDOW_PX, Estimate
from baddiffusion.poisoning import Implant
from baddiffusion.scanner.collapse import largest_cluster

__all__ = ["farthest", "recovered", "target_of"]

Picture = Float[Tensor, "c h w"]


def recovered(detection: Detection, implant: Implant) -> list[Estimate]:
    """Compare what was recovered with what was implanted.

    **Equation**, with r the recovered shift, g the trigger on black, M its mask, and y, ŷ true and recovered target::

        mask_iou     = |M ∩ M̂| / |M ∪ M̂|, M̂ the method's own mask, or the |M| pixels farthest from the median of r
        value_error  = √ mean over M of (r − g)²
        shift_l2     = ‖r − g‖₂, as papers report it
        target_ssim, target_mse of ŷ against y

    A trigger that covers the whole canvas has no mask to find. ``shift_l2`` says little alone: its protocol has what
    the best even picture scores.

    Returns:
        Estimates of n = 1; empty where nothing was recovered.
    """
    made: list[Estimate] = []
    trigger, offset = implant.trigger, implant.trigger.offset
    mask = trigger.mask.any(dim=0)
    shift = detection.trigger
    own = detection.pictures.get("mask")
    if not bool(mask.all()) and (own is not None or shift is not None):
        found = own[0, 0] > 0.5 if own is not None else farthest(shift, int(mask.sum()))  # type: ignore[arg-type]
        how = "the method's own" if own is not None else "as many pixels as the trigger has, farthest from the median"
        made.append(
            _one("mask_iou", float((mask & found).sum() / (mask | found).sum()), "share", "higher", {"mask": how})
        )
    if shift is not None:
        apart = (shift - offset).double()
        best = (offset - offset.mean()).double().norm()
        made.append(_one("value_error", float(apart[:, mask].square().mean().sqrt()), "noise std", "lower", {}))
        made.append(_one("shift_l2", float(apart.norm()), "L2", "lower", {"best even picture": round(float(best), 4)}))
    target = target_of(detection)
    if target is not None:
        pictures = target[None].clamp(-1, 1)
        if min(target.shape[1:]) >= SSIM_WINDOW_PX:
            made.append(
                _one("target_ssim", float(metrics.ssim_per_image(pictures, implant.target)), "SSIM", "higher", {})
            )
        error = float(metrics.mse_per_image(pictures, implant.target))
        made.append(_one("target_mse", error, "MSE on [0, 1]", "lower", {}))
    return made


def farthest(shift: Picture, count: int) -> Bool[Tensor, "h w"]:
    """The pixels whose value lies farthest from the median of the shift: where a patch on an even ground is.

    Example:
        >>> shift = torch.full((1, 2, 2), -0.9)
        >>> shift[0, 0, 1] = 0.4
        >>> farthest(shift, 1).tolist()
        [[False, True], [False, False]]
    """
    apart = (shift - shift.flatten(1).median(dim=1).values[:, None, None]).square().sum(dim=0)
    chosen = apart.flatten().topk(count).indices
    return torch.zeros(apart.numel(), dtype=torch.bool).index_fill(0, chosen, True).view(apart.shape)


def target_of(detection: Detection) -> Picture | None:
    """The recovered target: as the method gives it, or what most samples under its recovered shift became."""
    if "target" in detection.pictures:
        return detection.pictures["target"][0]
    for name, shift in detection.pictures.items():
        samples = detection.pictures.get(name.removesuffix("-shift"))
        is_best = detection.trigger is not None and torch.equal(shift[0], detection.trigger)
        if name.endswith("-shift") and samples is not None and is_best:
            return largest_cluster(samples.clamp(-1, 1)).picture
    return None


def _one(name: str, value: float, unit: str, better: Any, protocol: dict[str, Any]) -> Estimate:
    return Estimate(name=name, value=value, low=None, high=None, n=1, better=better, unit=unit, protocol=protocol)
