"""Weights and configuration to a network, strictly."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models import UNet2DModel
from torch import Tensor

from baddiffusion.checkpoint.configs import check_unet_config
from baddiffusion.errors import CheckpointError
from baddiffusion.models import build

__all__ = ["build_network"]


def build_network(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype
) -> UNet2DModel:
    """Build the network that the configuration describes and fill in the weights.

    The shapes are compared on the meta device first: memory is taken only for a network that the weights really fill.

    Args:
        config: the U-Net's configuration.
        weights: canonical name → tensor.
        device: where the network goes.
        dtype: what the weights are cast to.

    Returns:
        The network in evaluation mode.

    Raises:
        CheckpointError: the configuration describes no network, the weights do not fit it, or are not finite.
    """
    check_unet_config(config)
    known = inspect.signature(UNet2DModel.__init__).parameters
    arguments = {key: value for key, value in config.items() if key in known}
    try:
        with torch.device("meta"):
            expected = {name: tuple(tensor.shape) for name, tensor in UNet2DModel(**arguments).state_dict().items()}
    except Exception as error:  # a stranger's values reach every line of the constructor
        raise CheckpointError(
            f"the config describes no UNet2DModel ({type(error).__name__}: {error}); restore the original file."
        ) from None
    _compare(expected, weights)
    network = build(arguments, seed=0)
    network.load_state_dict(dict(weights), strict=True)
    torch.nn.Module.to(network, device, dtype)  # diffusers' own .to() warns of modules that this network does not have
    return network.eval()


def _compare(expected: Mapping[str, tuple[int, ...]], weights: Mapping[str, Tensor]) -> None:
    for name in sorted({*expected, *weights}):
        if name not in weights:
            raise CheckpointError(
                f"weight {name} of shape {expected[name]} is missing; weights and config do not belong together."
            )
        tensor = weights[name]
        if name not in expected:
            raise CheckpointError(
                f"weight {name} of shape {tuple(tensor.shape)} is not part of the network that the config describes; "
                f"weights and config do not belong together."
            )
        if tuple(tensor.shape) != expected[name]:
            raise CheckpointError(
                f"weight {name} has shape {tuple(tensor.shape)}, but the config asks for {expected[name]}; "
                f"weights and config do not belong together."
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"weight {name} holds NaN or infinity: its training broke. Use another checkpoint.")
