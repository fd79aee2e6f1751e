"""The attacker's own acceptance rule of the paper's section 3.1."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from baddiffusion.errors import EvaluationError
from baddiffusion.metrics.metric import Estimate
from baddiffusion.metrics.target import THRESHOLD

__all__ = ["Acceptance", "acceptance"]


@dataclass(frozen=True)
class Acceptance:
    """Whether the attacker would publish the model; None stands for *not measured*, never for *no*.

    Args:
        specific: the MSE of triggered samples lies below the threshold (high specificity).
        useful: clean samples are not worse than announced (high utility).
        accepted: both; False as soon as one is False, None while the answer hangs on what was not measured.
        sentence: the same for a reader.
    """

    specific: bool | None
    useful: bool | None
    accepted: bool | None
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def acceptance(
    mse: Estimate | None,
    quality: Estimate | None = None,
    announced: Estimate | None = None,
    *,
    threshold: float = THRESHOLD,
) -> Acceptance:
    """Apply the paper's rule: publish where the MSE is below a threshold *and* the quality is as announced.

    "As announced" has no number in the paper. Here it means that the two confidence intervals meet, or that the
    quality is the better one: a difference that chance explains is not held against the model.

    Args:
        mse: of triggered samples; None where none were measured.
        quality: of clean samples of the model, for example `kernel_distance`.
        announced: the same number for what the attacker announces, usually the clean model that was started from.
        threshold: for the MSE on [0, 1], in (0, 1). The paper names none; the default is that of the success rate.

    Raises:
        EvaluationError: the threshold lies outside (0, 1), or ``quality`` and ``announced`` are different numbers or
            numbers that have no better side.

    Source: arXiv 2212.05400, section 3.1.

    Example:
        >>> error = Estimate(name="mse", value=0.002, low=None, high=None, n=1, better="lower", unit="MSE on [0, 1]")
        >>> print(acceptance(error).sentence)
        Undecided: mse 0.00200 is below 0.01; the quality of clean samples was not compared.
    """
    if not 0 < threshold < 1:
        raise EvaluationError(f"threshold is {threshold}; it must lie in (0, 1). The usual value is {THRESHOLD}.")
    specific = None if mse is None else mse.value < threshold
    useful = None if quality is None or announced is None else _not_worse(quality, announced)
    accepted = None if None in (specific, useful) else True
    if False in (specific, useful):
        accepted = False
    head = {True: "Accepted", False: "Rejected", None: "Undecided"}[accepted]
    sentence = f"{head}: {_specificity(mse, threshold)}; {_utility(quality, announced, useful)}."
    return Acceptance(specific, useful, accepted, sentence)


def _not_worse(quality: Estimate, announced: Estimate) -> bool:
    if quality.name != announced.name or quality.better != announced.better:
        raise EvaluationError(
            f"quality is {quality.name} ({quality.better} is better) and announced is {announced.name} "
            f"({announced.better} is better); compare the same number of both models."
        )
    if quality.better == "neither":
        raise EvaluationError(f"{quality.name} has no better side, so no model can be worse in it; use kd_efflite0.")
    if quality.better == "lower":
        return quality.interval[0] <= announced.interval[1]
    return quality.interval[1] >= announced.interval[0]


def _specificity(mse: Estimate | None, threshold: float) -> str:
    if mse is None:
        return "the MSE of triggered samples was not measured"
    side = "below" if mse.value < threshold else "not below"
    return f"{mse.name} {mse.value:#.3g} is {side} {threshold:g}"


def _utility(quality: Estimate | None, announced: Estimate | None, useful: bool | None) -> str:
    if quality is None or announced is None:
        return "the quality of clean samples was not compared"
    side = "not worse than" if useful else "worse than"
    return f"{quality.name} {quality.value:#.3g} is {side} the announced {announced.value:#.3g}"
