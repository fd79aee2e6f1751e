"""One number from several trainings that differ in nothing but their seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from baddiffusion.errors import EvaluationError
from baddiffusion.metrics.comparing import comparable
from baddiffusion.metrics.intervals import mean_interval
from baddiffusion.metrics.metric import Estimate

__all__ = ["over_seeds"]

FEW = 3


def over_seeds(estimates: Sequence[Estimate], seeds: Sequence[int] = ()) -> Estimate:
    """Average a number over seeds, with an interval that says how far another training might come out.

    The interval of a single run knows its pictures only: it says what more pictures of the same model would show. Two
    trainings with different seeds differ by more. This interval stands on how the runs differ from each other, which
    has the pictures' part in it already.

    **Equation**: mean ± t(level, k − 1) · sd / √k over k seeds; ends of a share are cut off at 0 and 1.

    Args:
        estimates: one for each seed, made alike: name, n and protocol agree.
        seeds: which they are, in the same order, to be told in the protocol.

    Returns:
        The mean, whose n counts seeds. The protocol is that of the estimates with ``over``, ``seeds``, ``sd`` and
        ``n_each``; what it said of the pictures' seeds stands under ``image_seeds``. Of one seed, or of values that do
        not differ at all, there is no interval: one without width would claim that every seed gives this.

    Raises:
        EvaluationError: there is no estimate, they are not of one name, or they were made in different ways, or there
            are more or fewer seeds than estimates.

    Source: Student, The probable error of a mean, Biometrika 6 (1908).

    Example:
        >>> runs = [
        ...     Estimate(name="asr", value=v, low=None, high=None, n=64, better="higher", unit="share of images")
        ...     for v in (0.8, 0.9, 0.85)
        ... ]
        >>> print(over_seeds(runs, [0, 1, 2]))
        asr 0.850 [0.726, 0.974] (95 %, n = 3)
    """
    _check(estimates, seeds)
    first, k = estimates[0], len(estimates)
    values = torch.tensor([estimate.value for estimate in estimates], dtype=torch.float64)
    low, high = mean_interval(values, first.level) if len(set(values.tolist())) > 1 else (None, None)
    if low is not None and high is not None and first.unit.startswith("share"):
        low, high = max(0.0, low), min(1.0, high)
    images = {"image_seeds": first.protocol["seeds"]} if "seeds" in first.protocol else {}
    counted = ", ".join(map(str, seeds)) if seeds else f"{k}, not named"
    return Estimate(
        name=first.name,
        value=float(values.mean()),
        low=low,
        high=high,
        level=first.level,
        n=k,
        better=first.better,
        unit=first.unit,
        protocol={
            **first.protocol,
            **images,
            "over": "seeds",
            "seeds": counted,
            "sd": float(values.std()) if k > 1 else None,
            "n_each": first.n,
        },
        caveats=(*_caveats(values), *dict.fromkeys(told for estimate in estimates for told in estimate.caveats)),
    )


def _check(estimates: Sequence[Estimate], seeds: Sequence[int]) -> None:
    if not estimates:
        raise EvaluationError("there is no estimate to average over seeds; measure at least one run.")
    names = list(dict.fromkeys(estimate.name for estimate in estimates))
    if len(names) > 1:
        raise EvaluationError(f"{' and '.join(names)} are different numbers; average each of them by itself.")
    if seeds and len(seeds) != len(estimates):
        raise EvaluationError(f"there are {len(seeds)} seeds for {len(estimates)} estimates; name one for each.")
    comparable(estimates)


def _caveats(values: torch.Tensor) -> list[str]:
    k = len(values)
    if k == 1:
        return ["One seed: how far another training would come out is not known."]
    told = [f"{k} seeds: the interval is a guide at most; three or more would make it one."] if k < FEW else []
    if len(set(values.tolist())) == 1:
        told.append(
            "All seeds gave the same value: how far seeds differ cannot be told from that, only from more of them."
        )
    return told
