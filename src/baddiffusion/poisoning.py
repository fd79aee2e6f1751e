"""Which images are poisoned, and what a poisoned batch is (Algorithm 1 of the paper)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from baddiffusion.attacks import Attack
from baddiffusion.backdoors import total_rate
from baddiffusion.decoys import Decoys
from baddiffusion.diffusion import ForwardTable, NoiseSchedule, PredictionType
from baddiffusion.errors import RecipeError
from baddiffusion.images import Images, png_bytes, to_uint8
from baddiffusion.rng import generator
from baddiffusion.targets import TargetDesign
from baddiffusion.triggers import Trigger, TriggerDesign

__all__ = ["Implant", "Implants", "PoisonPlan", "parts", "plans_to_dict"]


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
        return cls.draw_disjoint(size, [rate], seed)[0]

    @classmethod
    def draw_disjoint(cls, size: int, rates: Sequence[float], seed: int) -> tuple[PoisonPlan, ...]:
        """Choose the poisoned parts of several backdoors, so that no image serves two; one is drawn as by `draw`.

        Raises:
            RecipeError: a rate does not lie in [0, 1], they add up to more than 1, or the set is empty.

        Example:
            >>> [len(plan.indices) for plan in PoisonPlan.draw_disjoint(100, [0.29, 0.1], seed=0)]
            [29, 10]
        """
        for rate in rates:
            if not 0 <= rate <= 1:
                raise RecipeError(f"poison.rate is {rate}; it must lie in [0, 1]. Write 0.10 for ten percent.")
        if total_rate(rates) > 1:
            raise RecipeError(
                f"the poison rates {' and '.join(map(str, rates))} add up to {total_rate(rates)}; an image can "
                f"serve one backdoor, so they must add up to at most 1. Lower them."
            )
        if size < 1:
            raise RecipeError(f"the data set has {size} images; poisoning needs at least 1.")
        shuffled, plans, first = torch.randperm(size, generator=generator(seed, "poison")), [], 0
        for rate in rates:
            count = int(Decimal(str(rate)) * size)
            plans.append(cls(size, rate, seed, shuffled[first : first + count].sort().values))
            first += count
        return tuple(plans)

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


def parts(plans: Sequence[PoisonPlan]) -> Int64[Tensor, " n"]:
    """Say of every image which backdoor it is poisoned for: 1 for the first, 0 if it stays clean.

    Raises:
        RecipeError: an image serves two.
    """
    part = torch.zeros(plans[0].size, dtype=torch.int64)
    for number, plan in enumerate(plans, start=1):
        shared = int((part[plan.indices] > 0).sum())
        if shared:
            raise RecipeError(
                f"{shared} images are poisoned for two backdoors at once; draw the plans with PoisonPlan.draw_disjoint."
            )
        part[plan.indices] = number
    return part


def plans_to_dict(plans: Sequence[PoisonPlan], decoys: PoisonPlan | None = None) -> dict[str, Any]:
    """What ``poison_plan.json`` holds: all poisoned images; of several backdoors ``parts``, whose they are; decoys."""
    beside = {} if decoys is None else {"decoys": decoys.to_dict()}
    if len(plans) == 1:
        return {**plans[0].to_dict(), **beside}
    rate = float(total_rate(plan.rate for plan in plans))
    together = PoisonPlan(plans[0].size, rate, plans[0].seed, torch.cat([plan.indices for plan in plans]).sort().values)
    parts = [{key: plan.to_dict()[key] for key in ("rate", "count", "digest", "indices")} for plan in plans]
    return {**together.to_dict(), "parts": parts, **beside}


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

    def table(self, schedule: NoiseSchedule) -> ForwardTable:
        """The attack's table, with the noise gain that follows from the trigger if the attack has one."""
        table, view = self.attack.forward_table(schedule), self.attack.view(self.trigger)
        return table if view is None else replace(table, noise_gain=view.gain)

    def apply(self, x: Images, poisoned: Bool[Tensor, " b"]) -> tuple[Images, Images]:
        """Turn a batch of training images into (x_0, r): (y, source(x)) where poisoned, (x, 0) where clean."""
        where = poisoned.view(-1, 1, 1, 1)
        x_0 = torch.where(where, self.target, x)
        r = torch.where(where, self.attack.source(x, self.trigger), torch.zeros_like(x))
        return x_0, r


@dataclass(frozen=True, eq=False)
class MixedTable(ForwardTable):
    """The tables of several backdoors for one batch, each row by its own: one network call serves them all.

    Args:
        tables: one per backdoor; their signal and noise are the schedule's, and so the same.
        which: of each row, the index of its table.
    """

    tables: tuple[ForwardTable, ...] = ()
    which: Int64[Tensor, " b"] | None = None

    @classmethod
    def of(cls, tables: Sequence[ForwardTable], which: Int64[Tensor, " b"]) -> MixedTable:
        """Mix some tables, the first of which serves clean rows."""
        first = tables[0]
        return cls(first.signal, first.noise, first.shift, first.residual, first.noise_gain, tuple(tables), which)

    def q_sample(self, x_0: Images, r: Images, t: Int64[Tensor, " b"], eps: Images) -> Images:
        """Draw x_t, each row by its own table."""
        return self._each([table.q_sample(x_0, r, t, eps) for table in self.tables])

    def target(self, r: Images, t: Int64[Tensor, " b"], eps: Images) -> Images:
        """What the network has to answer, each row by its own table."""
        return self._each([table.target(r, t, eps) for table in self.tables])

    def answer(
        self, prediction_type: PredictionType, x_0: Images, r: Images, t: Int64[Tensor, " b"], eps: Images
    ) -> Images:
        """The same of a network of any kind."""
        return self._each([table.answer(prediction_type, x_0, r, t, eps) for table in self.tables])

    def _each(self, made: Sequence[Images]) -> Images:
        chosen = made[0]
        assert self.which is not None
        for number, images in enumerate(made[1:], start=1):
            chosen = torch.where((self.which == number).view(-1, 1, 1, 1), images, chosen)
        return chosen


@dataclass(frozen=True, eq=False)
class Implants:
    """The backdoors of one model, in the order of the recipe; mostly there is one.

    Args:
        each: at least one.
        decoys: what is trained so that nothing else fires them; its images come last in the order.

    Raises:
        RecipeError: two of them have the same trigger: noise plus trigger would have to become two targets.
    """

    each: tuple[Implant, ...]
    decoys: Decoys | None = None

    def __post_init__(self) -> None:
        for one, other in combinations(self.each, 2):
            if torch.equal(one.trigger.offset, other.trigger.offset):
                raise RecipeError(
                    f"the triggers {one.trigger.name} and {other.trigger.name} draw the same picture, which cannot "
                    f"bring out two targets. Change one of them."
                )

    @classmethod
    def draw(
        cls, designs: Sequence[tuple[Attack, TriggerDesign, TargetDesign]], shape: tuple[int, int, int]
    ) -> Implants:
        """Draw each backdoor for one image shape."""
        drawn = []
        for attack, trigger_design, target_design in designs:
            trigger = trigger_design.draw(shape)
            drawn.append(Implant(attack, trigger, target_design.draw(trigger)))
        return cls(tuple(drawn))

    @property
    def by_kind(self) -> dict[str, Implant]:
        """Each under the name of the samples that fire it: ``triggered``, ``triggered-2`` and so on."""
        names = ("triggered" if number == 1 else f"triggered-{number}" for number in range(1, len(self.each) + 1))
        return dict(zip(names, self.each, strict=True))

    @property
    def digest(self) -> str:
        """A hash of all triggers and targets, 16 hex digits; of a single one its own."""
        digests = [implant.digest for implant in self.each]
        return (
            digests[0] if len(digests) == 1 else hashlib.blake2b(":".join(digests).encode(), digest_size=8).hexdigest()
        )

    def pictures(self, scale: int) -> dict[str, bytes]:
        """``trigger.png`` and ``target.png`` as a card shows them, enlarged; of a second backdoor ``trigger-2.png``."""
        drawn = {}
        for kind, implant in self.by_kind.items():
            number = kind.removeprefix("triggered")
            drawn |= {f"trigger{number}.png": implant.trigger.offset, f"target{number}.png": implant.target}
        return {name: png_bytes(to_uint8(picture), scale) for name, picture in drawn.items()}

    def to(self, device: torch.device | str) -> Implants:
        """Move all of them."""
        decoys = None if self.decoys is None else self.decoys.to(device)
        return Implants(tuple(implant.to(device) for implant in self.each), decoys)

    def apply(
        self, x: Images, part: Int64[Tensor, " b"], pick: Float[Tensor, " b"] | None = None
    ) -> tuple[Images, Images]:
        """Turn a batch of training images into (x_0, r).

        Args:
            x: the images.
            part: what `parts` says of each.
            pick: which decoy each would get; only with decoys.
        """
        x_0, r = self.each[0].apply(x, part == 1)
        for number, implant in enumerate(self.each[1:], start=2):
            own = (part == number).view(-1, 1, 1, 1)
            its_x_0, its_r = implant.apply(x, part == number)
            x_0, r = torch.where(own, its_x_0, x_0), torch.where(own, its_r, r)
        if self.decoys is not None and pick is not None:
            r = torch.where((part > len(self.each)).view(-1, 1, 1, 1), self.decoys.source(x, pick), r)
        return x_0, r

    def tables(self, schedule: NoiseSchedule) -> list[ForwardTable]:
        """One for each backdoor, and one for the decoys: their shift is that of the first."""
        tables = [implant.table(schedule) for implant in self.each]
        return tables if self.decoys is None else [*tables, self.decoys.table(tables[0])]

    def table_of(self, tables: Sequence[ForwardTable], part: Int64[Tensor, " b"]) -> ForwardTable:
        """Take the table of a batch out of the tables of all backdoors; a single one serves every row."""
        return tables[0] if len(tables) == 1 else MixedTable.of(tables, (part - 1).clamp(min=0))
