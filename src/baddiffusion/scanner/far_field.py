"""The far-field response: where a patch changes what the network says about the rest of the picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from baddiffusion.defenses import Subject
from baddiffusion.images import Images
from baddiffusion.rng import generator
from baddiffusion.scanner.collapse import distinct
from baddiffusion.scanner.shifts import Patch

__all__ = ["FLOOR", "FarField", "Ground", "away_from", "far_field", "judged", "peaks", "positions"]

Ground = Literal["black", "pictures"]
"""What the patch is laid on: an even canvas of −1, as in the start noise, or pictures of the model itself."""

MARGIN_PX = 3
FLOOR = 0.3
"""Energies below this are taken for this: a patch that changes nothing would divide by nothing."""


@dataclass(frozen=True, eq=False)
class FarField:
    """The response to one kind of patch at one timestep, over its places.

    Args:
        t: the timestep.
        response: patch → far-field response.
        ground: what the patch was laid on.
    """

    t: int
    response: Mapping[Patch, float]
    ground: Ground = "pictures"

    @property
    def peak(self) -> Patch:
        """Where the response is largest."""
        return max(self.response, key=lambda patch: (self.response[patch], patch))

    @property
    def ratio(self) -> float:
        """Largest response over the median one."""
        values = self._values
        return float(values.max() / values.median().clamp(min=1e-12))

    @property
    def z(self) -> float:
        """Largest response in robust standard deviations (1.4826 MAD) above the median."""
        values, median = self._values, self._values.median()
        return float((values.max() - median) / ((values - median).abs().median() * 1.4826).clamp(min=1e-12))

    @property
    def _values(self) -> Float[Tensor, " p"]:
        return torch.tensor(list(self.response.values()), dtype=torch.float64)


def judged(maps: Sequence[FarField], own: Images) -> list[FarField]:
    """The maps that may count as evidence: those on the model's own pictures, where these are many.

    Those on black only show where to look: there, clean networks stand out nearly as much.
    And a model of few pictures lets any part of the noise decide which of them it paints.
    """
    return [m for m in maps if m.ground == "pictures"] if distinct(own) >= len(own) / 2 else []


def positions(shape: tuple[int, int, int], side_px: int, value: float, stride_px: int) -> list[Patch]:
    """A patch at every place of a grid."""
    _, height, width = shape
    rows, columns = (range(0, extent - side_px + 1, stride_px) for extent in (height, width))
    return [Patch(row, column, side_px, value) for row in rows for column in columns]


def far_field(
    subject: Subject,
    base: Images,
    t: int,
    patches: list[Patch],
    seed: int,
    on_call: Callable[[int], None] = lambda done: None,
    ground: Ground = "pictures",
) -> FarField:
    """Put a patch on noisy pictures and look away from it.

    On a clean network a patch acts where it is. A network with a backdoor decides for the whole picture between its
    clean and its poisoned answer, so the right patch changes the answer everywhere. Forwards only; no sampler, no
    schedule constant, nothing about the attack.

    **Equation**: with v the base, v′ the base with the patch and x = shift_t·v + noise_t·eps, shift_t = 1 − √ᾱ_t::

        response = RMS over pixels further than 3 from the patch of mean_b [ε_θ(x′, t) − ε_θ(x, t)]
                   / max(shift_t · mean_b ‖v′ − v‖, 0.3)

    Args:
        subject: the network.
        base: pictures v, such as the model's own.
        t: a middle timestep.
        patches: of one kind, at different places.
        seed: decides eps, which all places share.
        on_call: is told after each place how many are done.
        ground: what ``base`` is, for the record.
    """
    shift = 1 - float(subject.schedule.signal[t])
    noise = float(subject.schedule.noise[t])
    eps = torch.randn(base.shape, generator=generator(seed, "far-field", t))
    x = (shift * base + noise * eps).to(subject.device)
    base = base.to(subject.device)
    plain = subject.eps_chunked(x, t)
    response = {}
    for done, patch in enumerate(patches, start=1):
        moved = shift * (patch.on(base) - base)
        change = (subject.eps_chunked(x + moved, t) - plain).mean(dim=0)
        far = away_from(patch, base.shape[-2], base.shape[-1]).to(change.device)
        energy = max(float(moved.flatten(1).norm(dim=1).mean()), FLOOR)
        response[patch] = float(change[:, far].square().mean().sqrt()) / energy
        on_call(done)
    return FarField(t, response, ground)


def peaks(maps: list[FarField], count: int) -> list[Patch]:
    """The places to try first, each with the value that stood out most there.

    A place is judged by its robust z summed over all maps of its size, that is, over timesteps and values: the backdoor
    answers to a patch of another value too, and noise does not peak at one place twice.

    Args:
        maps: of any sizes, values and timesteps.
        count: how many places, no two of one size close together.
    """
    total: dict[tuple[int, int, int], float] = {}
    standing: dict[tuple[int, int, int], tuple[float, float]] = {}
    for m in maps:
        center, spread = _median(m), max(_deviation(m), 1e-12)
        for patch, value in m.response.items():
            place, z = (patch.side_px, patch.row, patch.column), (value - center) / spread
            total[place] = total.get(place, 0.0) + z
            standing[place] = max(standing.get(place, (z, patch.value)), (z, patch.value))
    chosen: list[Patch] = []
    for side_px, row, column in sorted(total, key=lambda place: (-total[place], place)):
        patch = Patch(row, column, side_px, standing[side_px, row, column][1])
        if not any(patch.is_near(other) for other in chosen):
            chosen.append(patch)
        if len(chosen) == count:
            break
    return chosen


def away_from(patch: Patch, height: int, width: int) -> Bool[Tensor, "h w"]:
    """The pixels further than 3 from a patch."""
    far = torch.ones(height, width, dtype=torch.bool)
    top, left = max(patch.row - MARGIN_PX, 0), max(patch.column - MARGIN_PX, 0)
    far[top : patch.row + patch.side_px + MARGIN_PX, left : patch.column + patch.side_px + MARGIN_PX] = False
    return far


def _median(field: FarField) -> float:
    return float(field._values.median())


def _deviation(field: FarField) -> float:
    return float((field._values - _median(field)).abs().median()) * 1.4826
