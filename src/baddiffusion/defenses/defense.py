"""What a defense is: a detector answers with evidence, a repair with another network, and neither sees the card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from baddiffusion.checkpoint import SealedCheckpoint
from baddiffusion.defenses.subject import Spent, Subject
from baddiffusion.errors import EvaluationError, RecipeError
from baddiffusion.images import Images
from baddiffusion.metrics import Estimate
from baddiffusion.registry import Component, Registry
from baddiffusion.watching import Nobody, Watcher

__all__ = ["DETECTORS", "REPAIRS", "Detection", "Detector", "Method", "Repair", "Repaired"]

CleanData = UInt8[Tensor, "n c h w"]
"""Clean pictures that a defense may use, 8-bit."""


@dataclass(frozen=True, eq=False)
class Detection:
    """What a detector found in one model. It accuses nobody: whether a score is high is said beside other models'.

    Args:
        method: the detector's `Method.label`: ``terd``, or ``terd-short`` below the published budget.
        settings: the detector as a recipe names it.
        outcome: ``measured``, or ``inconclusive`` where the method could not come to a number (it diverged, say).
        scores: statistics by name; each is written so that *larger* is more suspicious. Empty if inconclusive.
        estimates: the same and more, with interval and n where there is one.
        trigger: the recovered mean shift of the start noise, (c, h, w), where the method recovers one.
        gain: the recovered noise gain, (c, h, w), for methods that recover one.
        pictures: what a person should look at, by name: samples under the recovered trigger, say; in [−1, 1].
        curves: numbers over the course of the method, by name: a loss, the distance per epoch.
        spent: network calls and seconds.
        seed: decides everything random.
        notes: sentences about what weakens or explains the outcome.

    Raises:
        EvaluationError: a score is not finite, or outcome and scores contradict each other: what came to no number is
            inconclusive, and nothing else is.
    """

    method: str
    settings: dict[str, Any]
    outcome: Literal["measured", "inconclusive"]
    scores: Mapping[str, float]
    spent: Spent
    seed: int
    estimates: tuple[Estimate, ...] = ()
    trigger: Float[Tensor, "c h w"] | None = None
    gain: Float[Tensor, "c h w"] | None = None
    pictures: Mapping[str, Images] = field(default_factory=dict)
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        broken = [f"{name} = {value}" for name, value in self.scores.items() if not math.isfinite(value)]
        if broken:
            raise EvaluationError(
                f"{self.method} answers with {', '.join(broken)}; every score must be finite. A method that comes to "
                f"no number answers with the outcome 'inconclusive', no scores, and the reason in its notes."
            )
        if (self.outcome == "measured") != bool(self.scores):
            raise EvaluationError(
                f"{self.method} answers {self.outcome!r} with {len(self.scores)} scores; 'measured' has at least one, "
                f"'inconclusive' has none. Leave the scores out, or say 'measured'."
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; tensors are left out, and what is not finite in a curve is None."""
        return {
            "method": self.method,
            "settings": self.settings,
            "outcome": self.outcome,
            "scores": dict(self.scores),
            "estimates": [estimate.to_dict() for estimate in self.estimates],
            "curves": _curves(self.curves),
            "spent": self.spent.to_dict(),
            "seed": self.seed,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, eq=False)
class Repaired:
    """What a repair made of a model.

    Args:
        method: the repair's `Method.label`.
        settings: the repair as a recipe names it.
        model: the same network with other weights; configurations are kept.
        spent: network calls and seconds.
        seed: decides everything random.
        curves: numbers over the course of the repair, by name.
        changed: weights changed, by layer: relative change ‖w′ − w‖ / ‖w‖; layers left as they were are absent.
        notes: sentences about what weakens or explains the outcome.
    """

    method: str
    settings: dict[str, Any]
    model: SealedCheckpoint
    spent: Spent
    seed: int
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    changed: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; the weights are left out, and what is not finite in a curve is None."""
        return {
            "method": self.method,
            "settings": self.settings,
            "curves": _curves(self.curves),
            "changed": dict(self.changed),
            "spent": self.spent.to_dict(),
            "seed": self.seed,
            "notes": list(self.notes),
        }


def _curves(curves: Mapping[str, tuple[float, ...]]) -> dict[str, list[float | None]]:
    return {name: [value if math.isfinite(value) else None for value in values] for name, values in curves.items()}


class Method(Component):
    """A defense as a component: its fields are its settings, its defaults the published budget."""

    budget: ClassVar[tuple[str, ...]] = ()
    """The fields that make up the published budget; with any of them below its default, the method is ``…-short``."""

    needs_data: ClassVar[bool] = False
    """Whether the method works on clean pictures."""

    precision: ClassVar[str] = "auto"
    """In which format the network computes, as for `resolve_precision`; float32 where rounding would show."""

    @property
    def label(self) -> str:
        """The name under which results stand: nothing shorter than what was published carries the published name."""
        fields = type(self).model_fields
        short = any(getattr(self, name) < fields[name].default for name in self.budget)
        return f"{self.component_name}-short" if short else self.component_name

    def cost(self, shape: tuple[int, int, int]) -> int:
        """Network calls that the method will make on a model of images of ``shape``; a backward pass counts as two."""
        raise RecipeError(f"{type(self).__name__} does not say what it costs; define cost(shape).")

    def check(self, model: SealedCheckpoint, data: CleanData | None) -> None:
        """Refuse what the method cannot work on, before anything is computed.

        Raises:
            RecipeError: it needs clean pictures and got none, or pictures of another shape.
        """
        if data is None:
            if self.needs_data:
                raise RecipeError(
                    f"{self.component_name} works on clean pictures, and none were given. Give some of the kind that "
                    f"the model paints, for example --data fashion-mnist."
                )
            return
        if tuple(data.shape[1:]) != model.shape:
            raise RecipeError(
                f"the clean pictures are {tuple(data.shape[1:])} (channels, height, width); the model paints "
                f"{model.shape}. Give pictures of that shape."
            )


class Detector(Method):
    """Looks into a sealed checkpoint for signs of a backdoor. It changes nothing and never sees a card or a path."""

    def inspect(
        self,
        model: SealedCheckpoint,
        seed: int = 0,
        data: CleanData | None = None,
        *,
        device: torch.device | str | None = None,
        watcher: Watcher | None = None,
    ) -> Detection:
        """Examine a model; the same seed gives the same answer.

        Args:
            model: weights, network and schedule; left as they are.
            seed: decides everything random.
            data: clean pictures, for methods that work on some.
            device: where to compute; None picks a GPU if there is one.
            watcher: is told how far the work is.

        Raises:
            RecipeError: as `Method.check`.
            CheckpointError: a network or a schedule that the method does not work on.
        """
        self.check(model, data)
        subject = Subject(model, device, self.precision)
        return self.examine(subject, seed, data, watcher or Nobody())

    def examine(self, subject: Subject, seed: int, data: CleanData | None, watcher: Watcher) -> Detection:
        """What `inspect` does once the model is loaded; this is what a detector defines."""
        raise RecipeError(f"{type(self).__name__} does not examine anything; define examine(...).")


class Repair(Method):
    """Makes another network of a sealed checkpoint, meant to be free of the backdoor; it never sees card or path."""

    def repair(
        self,
        model: SealedCheckpoint,
        data: CleanData | None = None,
        seed: int = 0,
        *,
        device: torch.device | str | None = None,
        watcher: Watcher | None = None,
    ) -> Repaired:
        """Repair a copy of a model; the same seed gives the same weights on one machine.

        Args:
            model: weights, network and schedule; left as they are.
            data: clean pictures, for methods that work on some.
            seed: decides everything random.
            device: where to compute; None picks a GPU if there is one.
            watcher: is told how far the work is.

        Raises:
            RecipeError: as `Method.check`.
            CheckpointError: a network or a schedule that the method does not work on.
        """
        self.check(model, data)
        subject = Subject(model, device, self.precision)
        return self.mend(subject, data, seed, watcher or Nobody())

    def mend(self, subject: Subject, data: CleanData | None, seed: int, watcher: Watcher) -> Repaired:
        """What `repair` does once the model is loaded; this is what a repair defines.

        It may change ``subject.network`` in place: the subject owns a copy.
        """
        raise RecipeError(f"{type(self).__name__} does not repair anything; define mend(...).")

    def repaired(
        self,
        subject: Subject,
        seed: int,
        *,
        curves: Mapping[str, tuple[float, ...]] | None = None,
        notes: tuple[str, ...] = (),
    ) -> Repaired:
        """The subject as it is now, with what was asked, spent and changed.

        Args:
            subject: whose network was repaired in place.
            seed: that decided everything random.
            curves: what was watched on the way.
            notes: what a reader of the numbers must know.
        """
        return Repaired(
            method=self.label,
            settings=self.to_dict(),
            model=subject.sealed_again(),
            spent=subject.spent,
            seed=seed,
            curves=curves or {},
            changed=subject.changes(),
            notes=notes,
        )


DETECTORS: Registry[Detector] = Registry("detector")
REPAIRS: Registry[Repair] = Registry("repair")
