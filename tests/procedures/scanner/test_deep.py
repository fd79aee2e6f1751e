"""The search by gradients finds what no forward pass pointed to, and a search that breaks off proves nothing."""

from __future__ import annotations

import pytest
import torch
from analytic import SHAPE, Analytic
from torch import Tensor

from baddiffusion.attacks.sampler_matched import SamplerMatched
from baddiffusion.metrics import mse_per_image
from baddiffusion.scanner.dynamic import DynamicScan, examine_subject
from baddiffusion.scanner.inversion import METHODS, DeepMethod
from baddiffusion.scanner.settings import ScanSettings
from baddiffusion.scanner.verdict import shortfall
from baddiffusion.triggers import Trigger

BOX = Trigger.make({"name": "box", "side_px": 6}, SHAPE)
BLIND = ScanSettings(
    ancestral_steps=30, ode_steps=10, own=32, bank=8, confirmations=16, patches=2, refinements=0, patch_sides=(0.125,),
    stride=0.5, far_field_times=(0.4,),
)  # fmt: skip
"""Squares of 2 px at four places: no such square is the trigger."""


class Hidden(Analytic):
    """A dark trigger, bright pictures, and a target that is one of neither.

    The pictures of the model do not lead to such a trigger. Of squares on black, those elsewhere do as well as those at
    its place, so that they prove nothing.
    """

    def __init__(self) -> None:
        super().__init__(SamplerMatched(sampler="sde", trigger_only=True), 0.1, BOX)
        self.x_0 = -self.x_0
        self.x_0[len(self.x_0) // 2 :] = bright()


def bright() -> Tensor:
    """A black corner on white."""
    y = torch.full(SHAPE, 1.0)
    y[0, 13:, 13:] = -1.0
    return y


def scan(subject: Analytic, deep: DeepMethod | None = None, deep_budget: int = 30_000) -> DynamicScan:
    return examine_subject(subject, 0, 13_000, BLIND, deep=deep, deep_budget=deep_budget)


class Diverging(Analytic):
    """Answers what is asked with gradients by NaN."""

    def eps(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        answer = super().eps(x_t, t)
        return answer * float("nan") if x_t.requires_grad else answer


def test_gradients_find_what_forwards_miss() -> None:
    forwards = scan(Hidden())
    assert forwards.verdict.outcome in ("no evidence", "suspicious"), forwards.verdict.reasons
    assert forwards.deep is None
    found = scan(Hidden(), "elijah")
    assert found.verdict.outcome == "backdoored", found.verdict.reasons
    best = found.confirmations[-1]
    assert shortfall(best, best.p_value * len(found.confirmations), BLIND) is None
    assert best.candidate.shift is not None
    assert float(mse_per_image(best.candidate.target[None], bright())) < 0.01
    assert [arm.name for arm in best.arms][:2] == ["shifted", "no shift"]
    assert "a shift found by gradients (elijah, " in found.verdict.reasons[0]


@pytest.mark.parametrize("method", METHODS)
def test_a_clean_network_is_not_accused_of_what_gradients_make_it_do(method: DeepMethod) -> None:
    found = scan(Analytic(), method)
    assert found.verdict.outcome == "no evidence", found.verdict.reasons
    assert found.deep is not None
    assert 0 < found.deep.network_calls <= found.deep.budget
    assert found.deep.searches


@pytest.mark.parametrize("method", METHODS)
def test_a_search_that_diverges_is_never_no_evidence(method: DeepMethod) -> None:
    found = scan(Diverging(), method)
    assert found.verdict.outcome == "inconclusive"
    assert "diverged" in found.verdict.reasons[0]
    assert found.deep is not None
    assert found.deep.failures == len(found.deep.searches) > 0
    assert any("it diverged after step" in line for line in found.not_searched)
    assert all(one.shift is None for one in found.deep.searches)


class Fragile(Analytic):
    """Answers whoever asks without gradients by NaN, once it was asked with them."""

    is_asked = False

    def eps(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        self.is_asked = self.is_asked or x_t.requires_grad
        return super().eps(x_t, t)

    def _answer(self, x_t: Tensor, t: Tensor) -> Tensor:
        answer = super()._answer(x_t, t)
        return answer * float("nan") if self.is_asked and not x_t.requires_grad else answer


def test_samples_that_become_nan_are_a_failure_too() -> None:
    found = scan(Fragile(), "elijah")
    assert found.verdict.outcome == "inconclusive"
    assert found.deep is not None
    assert found.deep.failures == len(found.deep.searches) > 0
    assert all(one.losses for one in found.deep.searches)


def test_a_deep_budget_for_nothing_is_inconclusive() -> None:
    found = scan(Analytic(), "elijah", 100)
    assert found.verdict.outcome == "inconclusive"
    assert found.verdict.reasons[0].startswith("No search by gradients was run: the budget did not suffice")
    assert found.deep is not None
    assert found.deep.network_calls == 0


def test_the_same_seed_gives_the_same_search() -> None:
    first, again = (scan(Analytic(), "collapse", 9000) for _ in range(2))
    assert first.deep is not None
    assert again.deep is not None
    assert first.deep.to_dict() == again.deep.to_dict()
    for one, other in zip(first.deep.searches, again.deep.searches, strict=True):
        assert one.shift is not None
        assert other.shift is not None
        assert torch.equal(one.shift, other.shift)
