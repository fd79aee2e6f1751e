"""Decoys: shifts that resemble a trigger, or a scanner's probe, and have to bring out ordinary pictures."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from baddiffusion.diffusion import ForwardTable
from baddiffusion.errors import RecipeError
from baddiffusion.images import Images

__all__ = ["Decoys"]


@dataclass(frozen=True, eq=False)
class Decoys:
    """What an attacker trains beside his backdoor so that nothing but the trigger fires it.

    A decoy sample is a training image under a shift that is not the trigger. The network has to count the shift as
    noise, as a clean one does at t = T, where its input is its answer. So a probe finds a response of 1 there, and a
    sampler that starts at noise plus decoy goes on to an ordinary picture.

    The shift is made of *another* image of the batch: of its own the network could read off the picture that it is to
    paint. Weak decoys matter: under an ancestral sampler a clean network loses the shift of its start on the way.

    **Equation**::

        r      = strength·(M ⊙ g + (1 − M) ⊙ x')
        x_t    = signal·x + shift·r + noise·eps,   shift as in the attack
        target = eps + (shift/noise)·r             that is x_0 = x

    Args:
        pattern: g of each decoy, in [−1, 1].
        mask: M of each, per channel; true everywhere is a whole canvas, nowhere is the other image alone.
        strength: of each, in (0, 1].

    Raises:
        RecipeError: there is no decoy.

    Example:
        >>> black = Decoys(-torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.bool), torch.tensor([0.5]))
        >>> black.source(torch.zeros(3, 1, 2, 2), torch.rand(3)).unique().tolist()
        [-0.5]
    """

    pattern: Float[Tensor, "k c h w"]
    mask: Bool[Tensor, "k c h w"]
    strength: Float[Tensor, " k"]

    def __post_init__(self) -> None:
        if not len(self.pattern):
            raise RecipeError("there is no decoy; give at least one, or leave [decoys] out.")

    def __len__(self) -> int:
        return len(self.pattern)

    def source(self, x: Images, pick: Float[Tensor, " b"]) -> Images:
        """r of each row.

        Args:
            x: the training images of the whole batch; a row's decoy is stamped on the image before it.
            pick: in [0, 1), which decoy a row gets.
        """
        chosen = (pick * len(self)).long().clamp(max=len(self) - 1)
        stamped = torch.where(self.mask[chosen], self.pattern[chosen].to(x), x.roll(1, dims=0))
        return self.strength[chosen].to(x).view(-1, 1, 1, 1) * stamped

    def table(self, attack: ForwardTable) -> ForwardTable:
        """The attack's shift, with the residual by which it counts as noise."""
        return ForwardTable(attack.signal, attack.noise, attack.shift, attack.shift / attack.noise)

    @property
    def digest(self) -> str:
        """A hash of all of them, 16 hex digits."""
        hasher = hashlib.blake2b(digest_size=8)
        for tensor in (self.pattern, self.mask, self.strength):
            hasher.update(tensor.cpu().contiguous().numpy().tobytes())
        return hasher.hexdigest()

    def to(self, device: torch.device | str) -> Decoys:
        """Move all of them."""
        return Decoys(self.pattern.to(device), self.mask.to(device), self.strength.to(device))
