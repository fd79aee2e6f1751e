"""Checkpoints: reading foreign folders safely, writing our own whole, sealing them for detectors."""

from baddiffusion.card import Card
from baddiffusion.checkpoint.checkpoint import Checkpoint, SealedCheckpoint

__all__ = ["Card", "Checkpoint", "SealedCheckpoint"]
