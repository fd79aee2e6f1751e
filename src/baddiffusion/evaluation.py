"""From samples to numbers: which images each number needs, and the protocol that it carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from baddiffusion import metrics
from baddiffusion.data import ImageData
from baddiffusion.images import Images, Pixels, to_uint8
from baddiffusion.metrics import Estimate
from baddiffusion.sampling.store import SampleStore

__all__ = ["Results", "SampleSet", "evaluate", "evaluate_images"]

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class SampleSet:
    """Sampled images with the protocol of how they were made.

    Args:
        kind: ``triggered``, ``clean``, or ``base`` (clean noise through the model that the attack started from).
        protocol: sampler, steps, clipping and so on, as every number made from these images will carry it.
        images: unclamped, image i from seed i.
    """

    kind: str
    protocol: dict[str, Any]
    images: Images

    @classmethod
    def read(cls, folder: Path) -> SampleSet:
        """Read a folder that the sampling stage filled."""
        store = SampleStore(folder)
        record = store.record["record"]
        protocol = {
            "kind": folder.name,
            "sampler": record["sampler"]["name"],
            "scheduler": record["scheduler_class"],
            "steps": record["num_inference_steps"],
            "spacing": record["spacing"],
            "clip": record["clip"],
            "chunk_size": record["chunk_size"],
            "precision": record["precision"],
            "device": record["device"],
        }
        images = store.read()
        return cls(folder.name, {**protocol, "seeds": f"0 to {len(images) - 1}"}, images)


@dataclass(frozen=True)
class Results:
    """What ``metrics.json`` holds."""

    estimates: tuple[Estimate, ...]
    asr_curves: tuple[dict[str, Any], ...]
    acceptance: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "schema": SCHEMA,
            "estimates": [estimate.to_dict() for estimate in self.estimates],
            "asr_curves": list(self.asr_curves),
            "acceptance": self.acceptance,
        }
