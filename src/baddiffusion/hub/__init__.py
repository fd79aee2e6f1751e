"""Models by name: from a folder, from this package, from the Hugging Face hub; and pickles turned into safetensors."""

from baddiffusion.hub.conversion import convert
from baddiffusion.hub.names import resolve

__all__ = ["convert", "resolve"]
