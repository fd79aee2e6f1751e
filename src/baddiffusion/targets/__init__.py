"""Targets: what the trigger brings out."""

from baddiffusion.targets.image import ImageTarget
from baddiffusion.targets.patterns import Corner, NoShift, Shift
from baddiffusion.targets.pictures import Cat, Hat, Shoe
from baddiffusion.targets.target import TARGETS, TargetDesign

__all__ = ["TARGETS", "Cat", "Corner", "Hat", "ImageTarget", "NoShift", "Shift", "Shoe", "TargetDesign"]
