"""Targets: what the trigger brings out."""

from baddiffusion.targets.target import TARGETS, TargetDesign

__all__ = ["TARGETS", "TargetDesign"]
