"""The zoo as a benchmark takes it: sealed models on one side, the truth about them on the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baddiffusion.checkpoint import Checkpoint, SealedCheckpoint
from baddiffusion.data import ImageData
from baddiffusion.errors import CheckpointError, RunError
from baddiffusion.poisoning import Implant, Implants
from baddiffusion.recipe import Recipe
from baddiffusion.zoo.entry import Kind, Split
from baddiffusion.zoo.manifest import CountedAs, read_manifest

__all__ = ["Specimen", "Truth", "open_zoo"]


@dataclass(frozen=True, eq=False)
class Truth:
    """What a detector must not know, and a benchmark has to.

    Args:
        name: of the entry; it tells what the model is.
        counted_as: ``clean``, ``backdoored`` or ``failed implant``.
        kind, split, pair: as in the plan; no pair is the empty string.
        told: the model's whole table in the manifest.
        recipe: how it was made.
    """

    name: str
    counted_as: CountedAs
    kind: Kind
    split: Split
    pair: str
    told: dict[str, Any] = field(repr=False)
    recipe: Recipe = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of its images."""
        channels, height, width = self.told["network"]["shape"]
        return channels, height, width

    @property
    def implant(self) -> Implant:
        """Attack, trigger and target, drawn; of a twin those of its pair, whose control it is."""
        return Implants.draw(self.recipe.designs, self.shape).each[0]

    def data(self) -> ImageData:
        """Open what it was trained on.

        Raises:
            DataError: the data set is not on this machine.
        """
        return self.recipe.data.open(self.shape)


@dataclass(frozen=True, eq=False)
class Specimen:
    """A model of the zoo in two halves; hand a detector ``sealed`` and nothing else.

    Args:
        digest: what results call the model: it says nothing about it.
        path: the checkpoint's folder, where its card lies too.
        truth: what it is.
    """

    digest: str
    truth: Truth = field(repr=False)
    path: Path = field(repr=False)

    @property
    def sealed(self) -> SealedCheckpoint:
        """Weights, network and schedule, read now.

        Raises:
            CheckpointError: the folder is missing or damaged, or holds other weights than the manifest says.
        """
        checkpoint = Checkpoint.open(self.path)
        if checkpoint.digest != self.digest:
            raise CheckpointError(
                f"{self.path} has digest {checkpoint.digest}, the manifest says {self.digest}; the weights were "
                f"changed, or the manifest is of another zoo. Make it again with: baddiffusion zoo manifest"
            )
        return checkpoint.sealed()


def open_zoo(folder: str | Path, split: Split | None = None) -> list[Specimen]:
    """Open the models of a zoo, failed implants among them.

    Args:
        folder: that of ``baddiffusion zoo build``.
        split: only this one; None for both.

    Returns:
        One specimen for each model, ordered by digest: the order of the plan would tell which are pairs.

    Raises:
        RunError: the folder has no manifest, or a damaged one.
        RecipeError: a model's recipe is damaged.
    """
    folder = Path(folder)
    found = [_specimen(folder, told) for told in read_manifest(folder)["models"]]
    return sorted((s for s in found if split in (None, s.truth.split)), key=lambda specimen: specimen.digest)


def _specimen(folder: Path, told: dict[str, Any]) -> Specimen:
    try:
        path = folder / told["folder"]
        if not (path / "recipe.toml").is_file():
            raise RunError(
                f"the manifest of {folder} lists {told['name']}, and {told['folder']} is not there or not whole; make "
                f"the manifest again with: baddiffusion zoo manifest"
            )
        recipe = Recipe.load(path / "recipe.toml")
        about = (told["name"], told["counted_as"], told["kind"], told["split"], told["pair"] or "")
        return Specimen(told["digest"], Truth(*about, told=told, recipe=recipe), path / "checkpoint")
    except KeyError as error:
        raise RunError(
            f"the manifest of {folder} lacks {error} of a model; make it again with: baddiffusion zoo manifest"
        ) from None
