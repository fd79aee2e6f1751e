from __future__ import annotations

import math
import re

import pytest
import torch
from scipy import stats

from baddiffusion.errors import EvaluationError
from baddiffusion.metrics.metric import Estimate
from baddiffusion.metrics.seeds import over_seeds

PROTOCOL = {"sampler": "ddpm", "steps": 250, "seeds": "0 to 63"}


def made(value: float, **changed: object) -> Estimate:
    whole = {"name": "mse", "low": None, "high": None, "n": 64, "better": "lower", "unit": "squared error"}
    return Estimate(**{**whole, "value": value, "protocol": PROTOCOL, **changed})


def test_mean_sd_and_students_interval():
    values = [0.2, 0.1, 0.4, 0.15]
    combined = over_seeds([made(value) for value in values], [3, 0, 7, 1])
    mean = math.fsum(values) / 4
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / 3)
    low, high = stats.t.interval(0.95, 3, loc=mean, scale=sd / 2)
    assert combined.value == pytest.approx(mean, rel=1e-15)
    assert (combined.low, combined.high) == pytest.approx((low, high), rel=1e-12)
    assert (combined.name, combined.n, combined.unit, combined.better) == ("mse", 4, "squared error", "lower")
    assert combined.protocol["sd"] == pytest.approx(sd, rel=1e-12)
    assert {key: value for key, value in combined.protocol.items() if key != "sd"} == {
        **PROTOCOL,
        "image_seeds": "0 to 63",
        "over": "seeds",
        "seeds": "3, 0, 7, 1",
        "n_each": 64,
    }
    assert combined.caveats == ()


def test_the_interval_holds_the_mean_of_all_seeds_as_often_as_it_says():
    stream = torch.Generator().manual_seed(0)
    draws = (5 + 2 * torch.randn(400, 3, generator=stream)).tolist()
    held = sum(low <= 5 <= high for low, high in (over_seeds([made(v) for v in row]).interval for row in draws))
    assert 0.92 <= held / 400 <= 0.98


def test_a_share_stays_a_share():
    combined = over_seeds([made(v, unit="share of images") for v in (1.0, 0.9, 1.0)])
    assert combined.high == 1.0
    assert combined.low == pytest.approx(0.9667 - stats.t.ppf(0.975, 2) * 0.057735 / math.sqrt(3), abs=1e-4)
    assert over_seeds([made(v) for v in (1.0, 0.9, 1.0)]).high > 1.0
    assert over_seeds([made(v, unit="share of images") for v in (0.0, 0.1, 0.0)]).low == 0.0


def test_one_seed_has_no_interval_and_says_so():
    single = over_seeds([made(0.3)])
    assert (single.value, single.low, single.high, single.n) == (0.3, None, None, 1)
    assert single.protocol["sd"] is None
    assert single.protocol["seeds"] == "1, not named"
    assert single.caveats == ("One seed: how far another training would come out is not known.",)


def test_two_seeds_carry_a_caveat_and_keep_those_of_their_runs():
    pair = over_seeds([made(0.3, caveats=("few",)), made(0.4, caveats=("few", "odd"))])
    assert pair.caveats == ("2 seeds: the interval is a guide at most; three or more would make it one.", "few", "odd")


def test_equal_values_do_not_claim_certainty():
    combined = over_seeds([made(1.0, unit="share of images")] * 3)
    assert (combined.value, combined.low, combined.high, combined.protocol["sd"]) == (1.0, None, None, 0.0)
    assert combined.caveats[0].startswith("All seeds gave the same value")


def test_it_survives_json():
    combined = over_seeds([made(v) for v in (0.1, 0.2, 0.3)], [0, 1, 2])
    assert Estimate.from_dict(combined.to_dict()) == combined


@pytest.mark.parametrize(
    ("estimates", "seeds", "message"),
    [
        ([], [], "there is no estimate to average over seeds"),
        ([made(0.1), made(0.1, name="ssim")], [], "mse and ssim are different numbers"),
        ([made(0.1), made(0.1)], [0], "there are 1 seeds for 2 estimates"),
        ([made(0.1), made(0.1, n=32)], [], "n is 64 and 32"),
        ([made(0.1), made(0.1, protocol={**PROTOCOL, "steps": 20})], [], "steps is 250 and 20"),
    ],
)
def test_what_cannot_be_averaged(estimates: list[Estimate], seeds: list[int], message: str):
    with pytest.raises(EvaluationError, match=re.escape(message)):
        over_seeds(estimates, seeds)
