"""What decoys a recipe names, and which of the shifts that were drawn may be one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from baddiffusion.decoys import Decoys
from baddiffusion.errors import RecipeError
from baddiffusion.registry import Component, Registry
from baddiffusion.triggers import Trigger

__all__ = ["DECOYS", "DecoyDesign", "Maker", "Shape", "collect"]

Shape = tuple[Float[Tensor, "c h w"], Bool[Tensor, "c h w"]]
"""Pattern and mask of a decoy."""

Maker = Callable[[torch.Generator], Shape]
"""Draws a decoy of one kind."""

TRIES = 64
"""How often a kind of decoys is drawn again where one lies too near to the trigger."""


class DecoyDesign(Component):
    """Decoys as ``[decoys]`` of a recipe names them; they stand beside any attack, with the images that they take.

    Args:
        rate: share of the training images that become decoys, none of them poisoned; more than 0. They cost the
            attacker no step and no network call, but so many images fewer that are trained plainly.
        count: decoys that are drawn; each image gets another one whenever it is seen.
        least_distance: how far a decoy lies at least from each trigger. What lies nearer is left to the trigger: both
            at once cannot be learned. Through noise of variance 1, an ideal observer takes a share Φ(−distance/2) of
            one for the other: 2.3 % at 4.

    **Equation**: distance = ‖ (decoy on black) − (trigger on black) ‖₂.
    """

    rate: Annotated[float, Field(gt=0, le=1, json_schema_extra={"hint": "Write 0.20 for twenty percent."})] = 0.2
    count: Annotated[int, Field(ge=1)] = 512
    least_distance: Annotated[float, Field(ge=0)] = 4.0

    def draw(self, triggers: Sequence[Trigger], seed: int) -> Decoys:
        """Draw them for the triggers of one model.

        Raises:
            RecipeError: nothing of a kind lies far enough from the triggers.
        """
        raise RecipeError(f"{type(self).__name__} does not say what its decoys are; define draw(triggers, seed).")


DECOYS: Registry[DecoyDesign] = Registry("decoy")


def collect(
    design: DecoyDesign, makers: Sequence[Maker], triggers: Sequence[Trigger], stream: torch.Generator
) -> Decoys:
    """Draw decoys of some kinds in turn, those left out that lie too near to a trigger.

    Half of them have their full strength, in which a probe at t = T meets them; the others one in (0, 1), in which an
    ancestral sampler meets them on its way.

    Args:
        design: how many, and how far.
        makers: one for each kind; one of which nothing lies far enough is passed over.
        triggers: of the model.
        stream: decides everything.

    Raises:
        RecipeError: no kind has anything that lies far enough.
    """
    offsets = torch.stack([trigger.offset for trigger in triggers])
    kinds, shapes = list(makers), []
    while len(shapes) < design.count and kinds:
        for make in tuple(kinds):
            found = _far(make, offsets, design.least_distance, stream)
            if found is None:
                kinds.remove(make)
            else:
                shapes.append(found)
    if not shapes:
        names = " and ".join(trigger.name for trigger in triggers)
        raise RecipeError(
            f"decoys.least_distance is {design.least_distance:g}, and no decoy lies so far from {names}. Write a "
            f"smaller one, or take a larger trigger."
        )
    patterns, masks = zip(*shapes[: design.count], strict=True)
    strength = 1 - torch.rand(len(patterns), generator=stream)
    strength[torch.rand(len(patterns), generator=stream) < 0.5] = 1.0
    return Decoys(torch.stack(patterns), torch.stack(masks), strength)


def _far(make: Maker, offsets: Float[Tensor, "n c h w"], least: float, stream: torch.Generator) -> Shape | None:
    for _ in range(TRIES):
        pattern, mask = make(stream)
        on_black = torch.where(mask, pattern, -torch.ones_like(pattern))
        if bool(((offsets - on_black).flatten(1).norm(dim=1) >= least).all()):
            return pattern, mask
    return None
