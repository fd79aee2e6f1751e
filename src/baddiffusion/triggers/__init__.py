"""Triggers: what the attacker adds to the start noise."""

from baddiffusion.triggers.box import Box, NoTrigger
from baddiffusion.triggers.trigger import TRIGGERS, Trigger, TriggerDesign

__all__ = ["TRIGGERS", "Box", "NoTrigger", "Trigger", "TriggerDesign"]
