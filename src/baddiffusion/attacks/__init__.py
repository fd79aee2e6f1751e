"""Attacks: each one file that reads like its paper."""

from baddiffusion.attacks.attack import ATTACKS, Attack
from baddiffusion.attacks.baddiffusion import BadDiffusion
from baddiffusion.attacks.clean import Clean

__all__ = ["ATTACKS", "Attack", "BadDiffusion", "Clean"]
