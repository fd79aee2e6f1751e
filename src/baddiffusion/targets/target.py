"""The kind of component that draws a backdoor target."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from baddiffusion.errors import RecipeError
from baddiffusion.registry import Component, Registry
from baddiffusion.triggers import Trigger

__all__ = ["TARGETS", "TargetDesign"]


class TargetDesign(Component):
    """A target as a recipe names it; ``draw`` renders the picture y that the trigger is to bring out."""

    def draw(self, trigger: Trigger) -> Float[Tensor, "c h w"]:
        """Render y in [−1, 1], in the shape of the trigger (``noshift`` and ``shift`` are made from it)."""
        raise RecipeError(f"{type(self).__name__} does not say how it is drawn; define draw(trigger).")


TARGETS: Registry[TargetDesign] = Registry("target")
