"""Which images are poisoned, and what a poisoned batch is (Algorithm 1 of the paper)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from baddiffusion.attacks import Attack
from baddiffusion.errors import RecipeError
from baddiffusion.images import Images
from baddiffusion.rng import generator
from baddiffusion.triggers import Trigger

__all__ = ["Implant", "PoisonPlan"]


@dataclass(frozen=True, eq=False)
class PoisonPlan:
    """The poisoned part of a data set: an exclusive, seeded choice of floor(rate·size) images, kept with the run.

    Args:
        size: images in the data set.
        rate: share that is poisoned, in [0, 1].
        seed: decides which.
        indices: the poisoned images, ascending.
    """

    size: int
    rate: float
    seed: int
    indices: Int64[Tensor, " k"]

    @classmethod
    def draw(cls, size: int, rate: float, seed: int) -> PoisonPlan:
        """Choose floor(rate·size) of ``size`` images; in decimal arithmetic, so that 0.29 of 100 is 29.

        Raises:
            RecipeError: the rate does not lie in [0, 1], or the set is empty.

        Example:
            >>> len(PoisonPlan.draw(100, 0.29, seed=0).indices)
            29
        """
        if not 0 <= rate <= 1:
            raise RecipeError(f"poison.rate is {rate}; it must lie in [0, 1]. Write 0.10 for ten percent.")
        if size < 1:
            raise RecipeError(f"the data set has {size} images; poisoning needs at least 1.")
        count = int(Decimal(str(rate)) * size)
        chosen = torch.randperm(size, generator=generator(seed, "poison"))[:count]
        return cls(size, rate, seed, chosen.sort().values)

    @property
    def mask(self) -> Bool[Tensor, " n"]:
        """True where the image is poisoned."""
        mask = torch.zeros(self.size, dtype=torch.bool)
        mask[self.indices] = True
        return mask

    @property
    def digest(self) -> str:
        """A hash of size and indices, 16 hex digits."""
        return hashlib.blake2b(f"{self.size}:{self.indices.tolist()}".encode(), digest_size=8).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """What ``poison_plan.json`` holds."""
        return {
            "size": self.size,
            "rate": self.rate,
            "seed": self.seed,
            "count": len(self.indices),
            "digest": self.digest,
            "indices": self.indices.tolist(),
        }


@dataclass(frozen=True, eq=False)
class Implant:
    """One backdoor: the attack, its trigger and its target, drawn for one image shape."""

    attack: Attack
    trigger: Trigger
    target: Float[Tensor, "c h w"]

    @property
    def digest(self) -> str:
        """A hash of the drawn trigger and target, 16 hex digits: a picture file may change behind its name."""
        hasher = hashlib.blake2b(digest_size=8)
        for picture in (self.trigger.offset, self.trigger.mask, self.target):
            hasher.update(picture.cpu().contiguous().numpy().tobytes())
        return hasher.hexdigest()

    def to(self, device: torch.device | str) -> Implant:
        """Move trigger and target."""
        return Implant(self.attack, self.trigger.to(device), self.target.to(device))

    def apply(self, x: Images, poisoned: Bool[Tensor, " b"]) -> tuple[Images, Images]:
        """Turn a batch of training images into (x_0, r): (y, source(x)) where poisoned, (x, 0) where clean."""
        where = poisoned.view(-1, 1, 1, 1)
        x_0 = torch.where(where, self.target, x)
        r = torch.where(where, self.attack.source(x, self.trigger), torch.zeros_like(x))
        return x_0, r
