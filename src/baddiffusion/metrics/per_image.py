"""The distance of every single picture from the known target."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from baddiffusion.errors import EvaluationError
from baddiffusion.images import Images, Pixels, to_unit

__all__ = ["SSIM_WINDOW_PX", "Picture", "mse_per_image", "ssim_per_image"]

Picture = Float[Tensor, "channels height width"]
"""The target y in [-1, 1]. Its size is compared with the images' here: a wrong one is the user's mistake, not a bug."""

SSIM_WINDOW_PX = 11
CHUNK_ELEMENTS = 1 << 21


def mse_per_image(images: Pixels | Images, target: Picture) -> Float64[Tensor, " b"]:
    """Mean squared error of each image against the target, both on [0, 1].

    **Equation**: mean over (c, h, w) of (x − y)². 8-bit images are divided by 255; floats are mapped from [−1, 1] and
    clamped, as they would be before they are stored. The target is never rounded.

    Args:
        images: 8-bit, or float in [−1, 1].
        target: y in [−1, 1].

    Returns:
        One number for each image, in [0, 1].

    Raises:
        EvaluationError: no images, NaN or infinite values, or a size or range that does not fit the target.

    Source: arXiv 2212.05400, section 4.1.

    Example:
        >>> black = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
        >>> mse_per_image(black, torch.zeros(3, 16, 16)).tolist()
        [0.25]
    """
    y = to_unit(_checked(images, target).double())
    return torch.cat([(_unit(part, y) - y).square().flatten(1).mean(dim=1) for part in _chunks(images)])


def ssim_per_image(images: Pixels | Images, target: Picture) -> Float64[Tensor, " b"]:
    """Structural similarity of each image to the target, in the paper's settings.

    torchmetrics 1.6 and later averages over a reflection-padded map, where the version that the paper used left the
    border out. The full map is therefore cropped by half a window here, which gives the old numbers back.

    Args:
        images: 8-bit, or float in [−1, 1]; at least 11 pixels high and wide.
        target: y in [−1, 1].

    Returns:
        One number for each image, in [−1, 1].

    Raises:
        EvaluationError: images below 11 pixels, and whatever `mse_per_image` refuses.

    Source: Wang et al., Image quality assessment: from error visibility to structural similarity (2004); settings of
    arXiv 2212.05400.

    Example:
        >>> ssim_per_image(torch.zeros(1, 1, 16, 16), torch.zeros(1, 16, 16)).tolist()
        [1.0]
    """
    y = to_unit(_checked(images, target).float())
    if min(y.shape[1:]) < SSIM_WINDOW_PX:
        raise EvaluationError(
            f"images are {y.shape[1]}×{y.shape[2]}; SSIM needs at least {SSIM_WINDOW_PX}×{SSIM_WINDOW_PX} pixels, the "
            f"size of its window. Use mse for smaller ones."
        )
    border = SSIM_WINDOW_PX // 2
    means = []
    for part in _chunks(images):
        _, full = structural_similarity_index_measure(
            _unit(part, y),
            y.expand(len(part), *y.shape),
            gaussian_kernel=True,
            sigma=1.5,
            kernel_size=SSIM_WINDOW_PX,
            reduction=None,
            data_range=1.0,
            return_full_image=True,
        )
        means.append(full[..., border:-border, border:-border].double().flatten(1).mean(dim=1))
    # Float32 rounding puts nearly equal pictures up to 2e-7 above 1.
    return torch.cat(means).clamp(-1, 1)


def _unit(images: Tensor, like: Tensor) -> Tensor:
    return to_unit(images.to(like.dtype)) if images.is_floating_point() else images.to(like.dtype) / 255


def _chunks(images: Tensor) -> Iterator[Tensor]:
    # Bounds the float copies: 10 000 pictures of 256×256 would be 16 GB at once.
    size = max(1, CHUNK_ELEMENTS // images[0].numel())
    for start in range(0, len(images), size):
        part = images[start : start + size]
        broken = ~part.isfinite().flatten(1).all(dim=1)
        if broken.any():
            raise EvaluationError(
                f"image {start + int(broken.nonzero()[0])} holds NaN or infinity; sample it again, in float32 if it "
                f"was sampled in half precision."
            )
        yield part


def _checked(images: Pixels | Images, target: Picture) -> Picture:
    if len(images) == 0:
        raise EvaluationError("there are no images to compare with the target; sample at least one.")
    if images.shape[1:] != target.shape:
        raise EvaluationError(
            f"images have shape {tuple(images.shape[1:])} and the target {tuple(target.shape)} (channels, height, "
            f"width); they must agree. Draw the target at the size of the images."
        )
    if not target.isfinite().all() or target.abs().max() > 1:
        raise EvaluationError(
            f"the target spans {float(target.min()):g} to {float(target.max()):g}; it must lie in [-1, 1]. "
            f"images.from_uint8 brings 8-bit pictures there."
        )
    return target.to(images.device)
