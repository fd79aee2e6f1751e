"""A checkpoint on disk, and the same without anything that could give the answer away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.models import UNet2DModel
from torch import Tensor

from baddiffusion.card import Card
from baddiffusion.checkpoint.configs import (
    check_unet_config,
    config_bytes,
    image_shape,
    noise_schedule,
    prediction_type,
)
from baddiffusion.checkpoint.files import find_file, read_json
from baddiffusion.checkpoint.layout import CONFIG, Layout
from baddiffusion.checkpoint.network import build_network
from baddiffusion.checkpoint.released import ARGUMENTS, released_card
from baddiffusion.checkpoint.weights import StoredWeights, content_digest
from baddiffusion.checkpoint.writing import write_folder
from baddiffusion.diffusion import NoiseSchedule
from baddiffusion.errors import CheckpointError, RecipeError

__all__ = ["Checkpoint", "Parts", "SealedCheckpoint", "read_parts"]

CARD = "card.json"


class Parts(NamedTuple):
    """What a checkpoint folder holds besides weights; ``refused`` names a card that could not be read."""

    unet_config: dict[str, Any]
    scheduler_config: dict[str, Any]
    card: Card | None
    refused: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SealedCheckpoint:
    """Weights, network and schedule: no path, no card.

    Detectors take nothing else, so that the answer cannot reach them: by type, not by discipline.

    Args:
        unet_config: the U-Net's configuration.
        scheduler_config: the scheduler's.
        weights: name → tensor, as stored.
    """

    unet_config: dict[str, Any]
    scheduler_config: dict[str, Any]
    weights: Mapping[str, Tensor] = field(repr=False)

    @cached_property
    def digest(self) -> str:
        """sha256 over weights, U-Net and scheduler configuration; equal to that of the checkpoint that was sealed."""
        configs = (config_bytes(self.unet_config), config_bytes(self.scheduler_config))
        return content_digest(sorted(self.weights.items()), *configs)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images."""
        return image_shape(self.unet_config)

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule of the training."""
        return noise_schedule(self.scheduler_config)

    @property
    def prediction_type(self) -> str:
        """What the network answers: ``epsilon``, ``sample`` or ``v_prediction``."""
        return prediction_type(self.scheduler_config)

    def load_model(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> UNet2DModel:
        """Build the network; it shares no memory with the sealed weights.

        Raises:
            CheckpointError: weights and configuration do not belong together, or a weight is not finite.
        """
        return build_network(self.unet_config, self.weights, device, dtype)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A diffusers folder: flat, as google/ddpm-cifar10-32 is, or with ``unet/`` and ``scheduler/``.

    Opening reads JSON and the headers of safetensors files. Nothing is unpickled and no code of the folder runs, ever.

    Args:
        path: the folder, as it was given.
        unet_config: the U-Net's configuration, as stored.
        scheduler_config: the scheduler's, as stored.
        card: what it says about itself, if ``baddiffusion`` wrote it; of a run folder that the reference authors
            released, what its ``args.json`` says.
        not_loaded: weights, code and archives in the folder that were seen and not loaded; a ``card.json`` that is not
            a card of ours, or an ``args.json`` that names what is unknown here, is among them.
        weights: the weight files, of which only the headers were read.
    """

    path: Path
    unet_config: dict[str, Any]
    scheduler_config: dict[str, Any]
    card: Card | None
    not_loaded: tuple[str, ...]
    weights: StoredWeights = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """Open a folder.

        Raises:
            UnsafeFile: its weights are only there as a pickle.
            CheckpointError: a part is missing, damaged, of another kind, or not to be read; the message names the file.
        """
        path = Path(path)
        layout = Layout.find(path)
        parts = read_parts(layout)
        weights = StoredWeights.scan(layout.weight_files())
        not_loaded = (*parts.refused, *layout.not_loaded(weights.files))
        return cls(path, parts.unet_config, parts.scheduler_config, parts.card, not_loaded, weights)

    @classmethod
    def write(
        cls,
        path: str | Path,
        model: UNet2DModel,
        scheduler_config: Mapping[str, Any],
        card: Card | None = None,
        pictures: Mapping[str, bytes] | None = None,
        half: bool = False,
    ) -> Checkpoint:
        """Write a plain diffusers folder, which ``DDPMPipeline.from_pretrained`` opens; whole or not at all.

        Args:
            path: a folder that does not exist yet.
            model: the network.
            scheduler_config: the base's, written as it is, so that nothing but the weights tells poisoned from clean.
            card: goes to ``card.json`` and ``README.md``.
            pictures: file name → PNG bytes, shown by the card.
            half: store float16; ``load_model`` casts back.

        Returns:
            The checkpoint, opened.

        Raises:
            CheckpointError: the path exists or cannot be written, or a weight is not finite.
        """
        path = Path(path)
        write_folder(path, model, scheduler_config, card, pictures or {}, half)
        return cls.open(path)

    @cached_property
    def digest(self) -> str:
        """sha256 over weights, U-Net and scheduler configuration, not over the card; independent of the layout."""
        configs = (config_bytes(self.unet_config), config_bytes(self.scheduler_config))
        return content_digest(self.weights.tensors(), *configs)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images."""
        return image_shape(self.unet_config)

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule of the training."""
        return noise_schedule(self.scheduler_config)

    @property
    def prediction_type(self) -> str:
        """What the network answers: ``epsilon``, ``sample`` or ``v_prediction``."""
        return prediction_type(self.scheduler_config)

    def load_model(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> UNet2DModel:
        """Build the network with its weights, in evaluation mode.

        Raises:
            CheckpointError: weights and configuration do not belong together, or a weight is not finite.
        """
        try:
            return self.sealed().load_model(device, dtype)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from None

    def sealed(self) -> SealedCheckpoint:
        """The same without path and card, with the weights in memory."""
        return SealedCheckpoint(dict(self.unet_config), dict(self.scheduler_config), dict(self.weights.tensors()))


def read_parts(layout: Layout) -> Parts:
    """Read all of a folder but its weights.

    Raises:
        CheckpointError: a configuration is missing, damaged, or of another kind; the message names the file.
    """
    unet_config = _checked(layout.root, layout.unet + CONFIG, check_unet_config)
    scheduler_config = _checked(layout.root, layout.scheduler, noise_schedule, prediction_type)
    card, refused = _card(layout)
    return Parts(unet_config, scheduler_config, card, refused)


def _card(layout: Layout) -> tuple[Card | None, tuple[str, ...]]:
    """The card, or what stands for one; what is damaged or foreign must keep nobody from examining the weights."""
    source = CARD
    try:
        if find_file(layout.root, CARD) is not None:
            return Card(**read_json(layout.root, CARD)), ()
        source = ARGUMENTS
        return released_card(layout), ()
    except (CheckpointError, RecipeError):
        return None, (source,)


def _checked(root: Path, name: str, *checks: Callable[[Mapping[str, Any]], object]) -> dict[str, Any]:
    config = read_json(root, name)
    try:
        for check in checks:
            check(config)
    except CheckpointError as error:
        raise CheckpointError(f"{root / name}: {error}") from None
    return config
