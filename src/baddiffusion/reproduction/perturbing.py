"""The question of the paper's Tables 8 and 9: how near does perturbing a model bring it to the target?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from baddiffusion.defenses import Detection
from baddiffusion.defenses.anp import Anp, collapse
from baddiffusion.matrix import Subject
from baddiffusion.matrix.store import Entry
from baddiffusion.metrics import Estimate, Picture, Scalar
from baddiffusion.metrics.reference import QUOTABLE_N
from baddiffusion.recipe import Recipe
from baddiffusion.reproduction.asking import Answer, Ask, OnProgress

__all__ = ["BUDGETS", "FAR", "Perturbation", "perturbations"]

BUDGETS = (1.0, 2.0, 4.0)
SHORT = Anp(epochs=2, steps_per_epoch=32, batch_size=32, samples=32, num_inference_steps=50)
AS_FAR = {1.5e-3: 1e-4}
"""Of the short method → of the paper: Adam gets as far in 32 steps of the first as in 469 of the second."""
FAR = 0.1
"""At which the short method reaches the largest budget within its two epochs. The paper has no such rate."""
PUBLISHED = (5e-5, 1e-4, 2e-4)
STAGE = 1000


def perturbations(recipe: Recipe) -> list[tuple[Anp, float]]:
    """The settings that are tried on each model, and the learning rate that the paper has for them.

    At the paper's size those of its tables. Below, the method is cut short, which its name says everywhere, at two
    learning rates: one that takes a perturbation as far in an epoch as the paper's, and one that reaches the budgets.

    Example:
        >>> [(one.label, one.perturbation_budget, one.learning_rate, rate) for one, rate in
        ...     perturbations(Recipe.load("demo"))][2:4]
        [('anp-short', 4.0, 0.0015, 0.0001), ('anp-short', 1.0, 0.1, 0.1)]
    """
    is_whole = recipe.sampling.n >= QUOTABLE_N
    method = Anp() if is_whole else SHORT
    rates = {rate: rate for rate in PUBLISHED} if is_whole else {**AS_FAR, FAR: FAR}
    return [
        (method.model_copy(update={"learning_rate": own, "perturbation_budget": budget}), published)
        for own, published in rates.items()
        for budget in BUDGETS
    ]


@dataclass(frozen=True)
class Perturbation(Ask):
    """Perturb the channels of a model against the clean loss, and measure what it paints against the target.

    The method sees neither trigger nor target; the measuring comes afterwards.

    Args:
        method: with its settings.
    """

    method: Anp

    @property
    def calls(self) -> int:
        """Forwards and backwards of the ascent, and the pictures of each epoch."""
        return self.method.cost((0, 0, 0))

    def entry(self, subject: Subject) -> Entry:
        """By weights, target, pictures and settings."""
        method = self.method
        identity = {
            "kind": method.label,
            "checkpoint": subject.digest,
            "backdoor": subject.backdoor.to_dict(),
            "pictures": subject.implant.digest,
            "data": subject.reference.digest,
            "settings": method.to_dict(),
            "seed": self.source.recipe.seed,
        }
        rate, budget = method.learning_rate, method.perturbation_budget
        return Entry(f"{subject.model} {method.label} rate {rate:g} budget {budget:g}", identity)

    def answer(self, subject: Subject, model: torch.nn.Module, device: torch.device, told: OnProgress) -> Answer:
        """Perturb and measure; where the ascent broke off there is no number, and the reason stands in its place."""
        data = subject.reference.read(torch.arange(len(subject.reference)))
        stages = 2 * self.method.epochs + 1
        found = self.method.inspect(
            subject.checkpoint.sealed(), self.source.recipe.seed, data, device=device, watcher=_Told(told, stages)
        )
        if found.outcome != "measured":
            return Answer({"status": "failed", "reason": "; ".join(found.notes)})
        estimates = _estimates(self.method, found, subject.implant.target)
        shown = torch.cat([pictures[:2] for pictures in found.pictures.values()])
        return Answer({"status": "done", "estimates": [one.to_dict() for one in estimates]}, pictures=shown)


def _estimates(method: Anp, found: Detection, target: Picture) -> list[Estimate]:
    """The distance from the target at each epoch and at the best, what black scores, and how far it all went."""
    made: dict[str, Scalar] = {
        "method": found.method,
        "sampler": method.sampler.component_name,
        "steps": method.num_inference_steps,
        "clip": method.clip,
    }
    seen = collapse(found.pictures, target)
    each = {f"epoch {number}": one for number, one in enumerate(seen.epochs, start=1)}
    if seen.before is not None:
        each = {"before": seen.before, **each}
    each["best"] = seen.best
    errors = [replace(one, protocol={**one.protocol, **made, "epoch": name}) for name, one in each.items()]
    scores = {"collapse": found.scores["collapse"], "reached": max(found.curves["reached"])}
    units = {"collapse": "share of the spread of the pictures that is gone", "reached": "largest |δ| or |ξ|"}
    told = [
        Estimate(name=n, value=v, low=None, high=None, n=method.samples, better="neither", unit=units[n], protocol=made)
        for n, v in scores.items()
    ]
    return [*errors, seen.black, *told]


class _Told:
    """One count for all stages of the method, each as long as another."""

    def __init__(self, told: OnProgress, stages: int) -> None:
        self._told, self._stages, self._begun, self._total = told, stages, 0, 1

    def stage(self, title: str, total: int, unit: str) -> None:
        self._begun, self._total = self._begun + 1, max(total, 1)

    def advance(self, done: int, note: str = "") -> None:
        self._told(STAGE * (self._begun - 1) + STAGE * done // self._total, STAGE * self._stages)
