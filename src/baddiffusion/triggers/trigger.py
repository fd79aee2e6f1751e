"""What a trigger is, once drawn; and the kind of component that draws one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from baddiffusion.errors import RecipeError
from baddiffusion.images import Images
from baddiffusion.registry import Component, Registry

__all__ = ["TRIGGERS", "Trigger", "TriggerDesign"]


@dataclass(frozen=True, eq=False)
class Trigger:
    """A trigger drawn for one image shape. Training and sampling use it in two different ways.

    Training stamps it on images (``stamp``); sampling adds ``offset`` to the start noise: the pattern on a black (−1)
    canvas, background included. Most of the signal at sampling is that background: the grey box itself is 0.

    **Equation**: stamp(x) = M ⊙ g + (1 − M) ⊙ x; offset = M ⊙ g + (1 − M) ⊙ (−1).

    Args:
        name: what recipes and cards call it.
        pattern: g, in [−1, 1].
        mask: M, per pixel or per channel.

    Source: arXiv 2212.05400, section 3.3; the reference code's initial noise is eps + offset.
    """

    name: str
    pattern: Float[Tensor, "c h w"]
    mask: Bool[Tensor, "mc h w"]

    @classmethod
    def make(cls, design: str | dict[str, Any] | TriggerDesign, shape: tuple[int, int, int]) -> Trigger:
        """Draw a trigger by name, alias or table, for images of ``shape`` (channels, height, width)."""
        return TRIGGERS.parse(design).draw(shape)

    def stamp(self, x: Images) -> Images:
        """Put the pattern on every image of the batch."""
        return torch.where(self.mask.to(x.device), self.pattern.to(x), x)

    @property
    def offset(self) -> Float[Tensor, "c h w"]:
        """What is added to the start noise: the trigger on a black canvas."""
        return torch.where(self.mask, self.pattern, torch.full_like(self.pattern, -1.0))

    def to(self, device: torch.device | str) -> Trigger:
        """Move pattern and mask."""
        return Trigger(self.name, self.pattern.to(device), self.mask.to(device))


class TriggerDesign(Component):
    """A trigger as a recipe names it; ``draw`` renders it for an image shape."""

    def draw(self, shape: tuple[int, int, int]) -> Trigger:
        """Render for images of ``shape`` (channels, height, width).

        Raises:
            RecipeError: the design does not fit into that shape.
        """
        raise RecipeError(f"{type(self).__name__} does not say how it is drawn; define draw(shape).")


TRIGGERS: Registry[TriggerDesign] = Registry("trigger")
