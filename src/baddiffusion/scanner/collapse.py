"""When different starts end in one picture: clusters of near-identical samples, and what may explain them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from baddiffusion.images import Images
from baddiffusion.metrics import THRESHOLD

__all__ = [
    "EXPLAINED",
    "FLAT",
    "Cluster",
    "distances",
    "distinct",
    "explained",
    "follows",
    "hits",
    "is_own",
    "largest_cluster",
    "unevenness",
]

FLAT = 2 * THRESHOLD
"""A picture this near to an even color (MSE on [0, 1]) may be where any saturated chain ends; it proves nothing."""

EXPLAINED = 0.02
"""A picture this near to the shift that it came from (MSE on [0, 1]) just follows it."""

NEAREST = 0.25
"""The share of a model's pictures that count as most like a shift."""

Picture = Float[Tensor, "c h w"]


def distances(a: Images, b: Float[Tensor, "m c h w"]) -> Float[Tensor, "b m"]:
    """MSE on [0, 1] of every picture of ``a`` to every one of ``b``; both are clamped to [−1, 1] first."""
    a, b = (x.clamp(-1, 1).flatten(1).double() / 2 for x in (a, b))
    squared = a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * a @ b.T
    return (squared.clamp(min=0) / a.shape[1]).float()


def distinct(images: Images, threshold: float = THRESHOLD) -> int:
    """How many different pictures there are; near-identical ones count once.

    Example:
        >>> distinct(torch.stack([torch.full((1, 4, 4), value) for value in (-1.0, 0.5, 0.51)]))
        2
    """
    near = distances(images, images) < threshold
    kept: list[int] = []
    for index in range(len(images)):
        if not any(bool(near[index, other]) for other in kept):
            kept.append(index)
    return len(kept)


def hits(images: Images, picture: Picture, threshold: float = THRESHOLD) -> Bool[Tensor, " b"]:
    """Which images are this picture."""
    return distances(images, picture[None])[:, 0] < threshold


def unevenness(picture: Picture) -> float:
    """MSE on [0, 1] to the nearest even color (each channel has its own).

    Example:
        >>> unevenness(torch.full((3, 8, 8), -0.4))
        0.0
    """
    unit = (picture.clamp(-1, 1).double() + 1) / 2
    return float((unit - unit.mean(dim=(1, 2), keepdim=True)).square().mean())


def explained(picture: Picture, shifts: Images) -> Bool[Tensor, " b"]:
    """Which shifts explain the picture: it follows them, or is an even color.

    Args:
        picture: what many samples ended in.
        shifts: what their start noise was shifted by.
    """
    if unevenness(picture) < FLAT:
        return torch.ones(len(shifts), dtype=torch.bool)
    return distances(shifts, picture[None])[:, 0] < EXPLAINED


def follows(picture: Picture, shift: Picture, own: Images) -> bool:
    """Whether a picture is what a clean model would make of a shift: one of those of its pictures most like it.

    A model that has learned its pictures by heart answers a shift with the one that resembles it most, every time. So a
    collapse proves something only where the model has pictures that resemble the shift better, and passed them over.

    Args:
        picture: what the noises shifted by ``shift`` became.
        shift: the shift.
        own: ordinary pictures of the model.

    Returns:
        Whether fewer than a quarter of the ordinary pictures are nearer to the shift.
    """
    nearer = distances(own, shift[None])[:, 0] < distances(picture[None], shift[None])[0, 0]
    return float(nearer.float().mean()) < NEAREST


def is_own(picture: Picture, own: Images, quiet: float) -> bool:
    """Whether a model paints a picture without any shift: more than ``quiet`` of its ordinary pictures are that one.

    A backdoor that leaks its target into ordinary samples now and then is not excused by that.
    """
    return float(hits(own, picture).float().mean()) > quiet


@dataclass(frozen=True, eq=False)
class Cluster:
    """Samples that are one picture.

    Args:
        picture: the member with the most neighbors.
        members: which samples lie within the threshold of it.
    """

    picture: Picture
    members: Bool[Tensor, " b"]

    @property
    def share(self) -> float:
        """Of all samples."""
        return float(self.members.float().mean())


def largest_cluster(images: Images, threshold: float = THRESHOLD) -> Cluster:
    """The picture that most of the images are.

    Of several with equally many neighbors the one nearest to its neighbors is taken, so that the order of the images
    does not decide.

    Example:
        >>> images = torch.stack([torch.full((1, 4, 4), value) for value in (-1.0, 0.5, 0.51, 0.52)])
        >>> largest_cluster(images).members.tolist()
        [False, True, True, True]
    """
    apart = distances(images, images)
    near = apart < threshold
    spread = (apart * near).sum(dim=1) / near.sum(dim=1)
    center = int((near.sum(dim=1) - spread / threshold * 0.5).argmax())
    return Cluster(images[center].clamp(-1, 1), near[center])
