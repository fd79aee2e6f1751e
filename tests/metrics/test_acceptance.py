from __future__ import annotations

import json
from typing import Any

import pytest

from baddiffusion.errors import EvaluationError
from baddiffusion.metrics import Acceptance, Estimate, acceptance


def number(name: str, value: float, half: float = 0.0, better: Any = "lower") -> Estimate:
    return Estimate(name=name, value=value, low=value - half, high=value + half, n=300, better=better, unit="unit")


GOOD, BAD = number("mse", 0.002), number("mse", 0.02)
BASE = number("kd", 0.10, 0.02)
SAME, WORSE = number("kd", 0.13, 0.02), number("kd", 0.16, 0.02)


@pytest.mark.parametrize(
    ("mse", "quality", "announced", "answers"),
    [
        (GOOD, SAME, BASE, (True, True, True)),
        (GOOD, WORSE, BASE, (True, False, False)),
        (BAD, SAME, BASE, (False, True, False)),
        (BAD, WORSE, BASE, (False, False, False)),
        (GOOD, None, BASE, (True, None, None)),
        (GOOD, SAME, None, (True, None, None)),
        (BAD, None, None, (False, None, False)),
        (None, SAME, BASE, (None, True, None)),
        (None, WORSE, BASE, (None, False, False)),
        (None, None, None, (None, None, None)),
    ],
)
def test_rule(mse: Estimate, quality: Estimate, announced: Estimate, answers: tuple[bool | None, ...]) -> None:
    verdict = acceptance(mse, quality, announced)
    assert (verdict.specific, verdict.useful, verdict.accepted) == answers
    assert verdict.sentence.startswith({True: "Accepted: ", False: "Rejected: ", None: "Undecided: "}[answers[2]])


def test_better_than_announced_is_accepted_on_either_scale() -> None:
    assert acceptance(GOOD, number("kd", 0.01, 0.001), BASE).useful
    high, low = number("is", 9.0, 0.1, "higher"), number("is", 5.0, 0.1, "higher")
    assert acceptance(GOOD, high, low).useful
    assert acceptance(GOOD, low, high).useful is False


def test_threshold_is_exclusive_and_can_be_chosen() -> None:
    assert acceptance(GOOD, threshold=0.002).specific is False
    assert acceptance(BAD, threshold=0.03).specific is True


def test_sentences() -> None:
    assert acceptance(GOOD, SAME, BASE).sentence == (
        "Accepted: mse 0.00200 is below 0.01; kd 0.130 is not worse than the announced 0.100."
    )
    assert acceptance(BAD, WORSE, BASE).sentence == (
        "Rejected: mse 0.0200 is not below 0.01; kd 0.160 is worse than the announced 0.100."
    )
    assert acceptance(None).sentence == (
        "Undecided: the MSE of triggered samples was not measured; the quality of clean samples was not compared."
    )


def test_is_plain_json() -> None:
    verdict = acceptance(GOOD, SAME, BASE)
    assert Acceptance(**json.loads(json.dumps(verdict.to_dict()))) == verdict


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: acceptance(GOOD, threshold=1.5), r"threshold is 1.5; it must lie in \(0, 1\)"),
        (lambda: acceptance(GOOD, SAME, number("fd", 3.0)), r"quality is kd \(lower is better\) and announced is fd"),
        (
            lambda: acceptance(GOOD, number("kd", 1.0, 0.0, "neither"), number("kd", 1.0, 0.0, "neither")),
            "kd has no better side",
        ),
    ],
)
def test_refuses(call: object, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        call()  # type: ignore[operator]
