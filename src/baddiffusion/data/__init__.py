"""Data: sources of 8-bit images."""

from baddiffusion.data.fashion_mnist import FashionMnist
from baddiffusion.data.source import SOURCES, DataSource, ImageData, ResidentImages, StreamedImages

__all__ = ["SOURCES", "DataSource", "FashionMnist", "ImageData", "ResidentImages", "StreamedImages"]
