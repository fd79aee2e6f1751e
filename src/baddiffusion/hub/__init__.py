"""Models by name: from a folder, from this package, from the Hugging Face hub and to it; pickles made safetensors."""

from baddiffusion.hub.conversion import convert
from baddiffusion.hub.names import resolve
from baddiffusion.hub.pulling import PullPlan, pull
from baddiffusion.hub.pushing import Parcel, pack, send

__all__ = ["Parcel", "PullPlan", "convert", "pack", "pull", "resolve", "send"]
