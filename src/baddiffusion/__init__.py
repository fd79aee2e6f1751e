"""Backdoors in diffusion models: implant, sample, measure."""

__version__ = "0.1.0"
