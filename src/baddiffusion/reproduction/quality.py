"""FID as the paper takes it: 10 000 clean images against the training part of the data."""

from __future__ import annotations

from functools import cache

from baddiffusion.data import DataSource, ResidentImages
from baddiffusion.errors import EvaluationError
from baddiffusion.images import Images, to_uint8
from baddiffusion.metrics import Estimate, Inception, Protocol, reference_metrics
from baddiffusion.precision import default_device
from baddiffusion.recipe import Recipe

__all__ = ["fid_of", "missing_inception", "reference_of"]


def reference_of(recipe: Recipe) -> tuple[DataSource, str]:
    """The real pictures of a recipe's FID, and the name of their part.

    The reference code trains on CIFAR-10's 60 000 images and compares with the 50 000 of the training part.

    Example:
        >>> recipe = Recipe.load("paper-cifar10")
        >>> source, split = reference_of(recipe)
        >>> split, source == recipe.data
        ('train', False)
    """
    split = str(getattr(recipe.data, "split", "all"))
    if split == "train+test":
        return recipe.data.model_copy(update={"split": "train"}), "train"
    return recipe.data, split


def missing_inception() -> str:
    """Why no FID can be measured here; empty where one can."""
    try:
        _inception()
    except EvaluationError as error:
        return str(error)
    return ""


def fid_of(images: Images, recipe: Recipe, protocol: Protocol) -> list[Estimate]:
    """Measure the FID of clean images.

    Args:
        images: unclamped.
        recipe: whose data is the reference.
        protocol: how the images were made.

    Raises:
        EvaluationError: the extra ``fid`` or its weights are not there.
        DataError: the reference cannot be read.
    """
    source, split = reference_of(recipe)
    _, channels, height, width = images.shape
    reference = source.open((channels, height, width))
    generated = ResidentImages("clean", to_uint8(images))
    return reference_metrics(
        generated, reference, _inception(), reference_split=split, protocol=protocol, measures=("fid",)
    )


@cache
def _inception() -> Inception:
    return Inception.load(None, None, default_device().type)
