"""The run folders that the reference authors released: what their arguments say about a backdoor, as a card."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from baddiffusion.attacks import ATTACKS, Attack
from baddiffusion.card import Card, placeless
from baddiffusion.checkpoint.files import find_file, read_json
from baddiffusion.checkpoint.layout import CONFIG, Layout
from baddiffusion.errors import RecipeError
from baddiffusion.settings import Settings
from baddiffusion.targets import TARGETS
from baddiffusion.triggers import TRIGGERS

__all__ = ["ARGUMENTS", "released_card"]

ARGUMENTS = "args.json"
NEEDED = ("trigger", "target", "poison_rate")

Name = Annotated[str, Field(min_length=1, max_length=200)]


class _Arguments(Settings):
    """The arguments of a reference run that say what it hides; VillanDiffusion's stand in the second half."""

    trigger: Name
    target: Name
    poison_rate: Annotated[float, Field(ge=0)]
    dataset: Name | None = None
    ckpt: Name | None = None
    dataset_load_mode: Name | None = None
    sde_type: Name | None = None
    solver_type: Name | None = None
    psi: float = 1.0
    vp_scale: float = 1.0

    @property
    def attack(self) -> Attack:
        """Without ``sde_type`` BadDiffusion; with it VillanDiffusion, of which the ones that we can measure."""
        if self.sde_type is None:
            return ATTACKS.parse("baddiffusion")
        if self.sde_type == "SDE-VP" and self.solver_type in ("sde", "ode") and self.psi == self.vp_scale == 1:
            return ATTACKS.parse(f"villandiffusion-{self.solver_type}")
        raise RecipeError(
            f"sde_type {self.sde_type!r} with solver_type {self.solver_type!r}, psi {self.psi:g} and vp_scale "
            f"{self.vp_scale:g} is not supported; of VillanDiffusion it is SDE-VP with sde or ode, at psi and "
            f"vp_scale 1."
        )

    @property
    def share(self) -> float | None:
        """The poisoned share of the training images, where ``poison_rate`` is one: not if images were added."""
        return self.poison_rate if self.dataset_load_mode in (None, "FIXED") else None


def released_card(layout: Layout) -> Card | None:
    """Read what a reference run's ``args.json`` says, as the card that the run does not have.

    The reference code writes its command line to ``args.json``, with null for what was not given, and the settings with
    every default to a ``config.json`` beside ``unet/``. Names are looked up among our components and nowhere else: a
    table, which could name a file to read, is refused. Stop sign, eyeglasses, hat and cat are pictures that this
    project draws itself; of a model that was trained with the reference's pictures, they measure something else.

    Args:
        layout: the folder's; a folder of another kind has no such arguments.

    Returns:
        The card; None if there is no ``args.json``, or one of another program.

    Raises:
        CheckpointError: a file is damaged, too large, or not to be read.
        RecipeError: the arguments name a trigger, target or attack that is not known here.

    Source: the reference code's run folders, IBM/BadDiffusion.
    """
    if find_file(layout.root, ARGUMENTS) is None:
        return None
    said = _given(read_json(layout.root, ARGUMENTS))
    # Of a flat folder config.json is the network's.
    if not set(NEEDED) <= set(said) and layout.unet and find_file(layout.root, CONFIG) is not None:
        said = {**_given(read_json(layout.root, CONFIG)), **said}
    if not set(NEEDED) <= set(said):
        return None
    run = _Arguments(**{name: value for name, value in said.items() if name in _Arguments.model_fields})
    origin = {"base": placeless(run.ckpt), "data": placeless(run.dataset)}
    if run.poison_rate == 0:
        return Card(backdoored=False, poison_rate=0.0, **origin)
    return Card(
        backdoored=True,
        attack=run.attack.to_dict(),
        trigger=TRIGGERS.parse(run.trigger).to_dict(),
        target=TARGETS.parse(run.target).to_dict(),
        poison_rate=run.share,
        **origin,
    )


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
