"""U-Nets by name, and the one convention that every network is called by."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models import UNet2DModel
from jaxtyping import Int64
from torch import Tensor

from baddiffusion.diffusion import Denoiser
from baddiffusion.errors import RecipeError, UnknownComponent, nearest
from baddiffusion.images import Images

__all__ = ["PRESETS", "build", "denoiser", "parameter_count", "unet_config"]

GOOGLE_DDPM: dict[str, Any] = {
    "act_fn": "silu",
    "attention_head_dim": None,
    "center_input_sample": False,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "time_embedding_type": "positional",
}
SMALL: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
}
PRESETS: dict[str, dict[str, Any]] = {
    "ddpm-cifar10": {
        **GOOGLE_DDPM,
        "block_out_channels": (128, 256, 256, 256),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    },
    "ddpm-celebahq": {
        **GOOGLE_DDPM,
        "block_out_channels": (128, 128, 256, 256, 512, 512),
        "down_block_types": (*("DownBlock2D",) * 4, "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *("UpBlock2D",) * 4),
    },
    "tiny": {**SMALL, "block_out_channels": (32, 64, 64)},
    "micro": {**SMALL, "block_out_channels": (16, 32, 32)},
}
"""``ddpm-cifar10`` and ``ddpm-celebahq`` are the shapes of google/ddpm-cifar10-32 and google/ddpm-ema-celebahq-256."""


def unet_config(preset: str, shape: tuple[int, int, int]) -> dict[str, Any]:
    """The full U-Net configuration of a preset for images of ``shape`` (channels, height, width).

    Raises:
        UnknownComponent: no such preset.
        RecipeError: the images are not square, or their side is not a multiple of what the net halves.
    """
    if preset not in PRESETS:
        raise UnknownComponent(
            f"model preset {preset!r} is not known. {nearest(preset, PRESETS)}Known: {', '.join(PRESETS)}."
        )
    channels, height, width = shape
    factor = 2 ** (len(PRESETS[preset]["block_out_channels"]) - 1)
    if height != width or height % factor:
        raise RecipeError(
            f"images are {height}×{width}; the {preset} net needs square ones, a multiple of {factor} px."
        )
    return {**PRESETS[preset], "sample_size": height, "in_channels": channels, "out_channels": channels}


def build(config: dict[str, Any], seed: int) -> UNet2DModel:
    """Make a freshly initialized network; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DModel(**config)


def denoiser(model: torch.nn.Module) -> Denoiser:
    """Adapt a diffusers U-Net to (x_t, t) → eps."""

    def predict(x_t: Images, t: Int64[Tensor, " b"]) -> Images:
        return model(x_t, t, return_dict=False)[0]

    return predict


def parameter_count(model: torch.nn.Module) -> int:
    """How many weights the network has."""
    return sum(p.numel() for p in model.parameters())
