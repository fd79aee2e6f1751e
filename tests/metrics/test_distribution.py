from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from baddiffusion import metrics, rng
from baddiffusion.errors import EvaluationError
from baddiffusion.metrics import distribution


def rows(count: int, width: int, name: str, shift: float = 0.0) -> Tensor:
    # Skewed, correlated and with unequal spreads, so that no swapped axis or argument goes unseen.
    raw = torch.rand(count, width, generator=rng.generator(0, name), dtype=torch.float64) ** 2
    mix = torch.randn(width, width, generator=rng.generator(0, "mix"), dtype=torch.float64) / width**0.5
    return raw @ (torch.diag(torch.linspace(0.5, 2, width, dtype=torch.float64)) + 0.3 * mix) + shift


class PassThrough(nn.Module):
    num_features = 12

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_kernel_distance_equals_its_definition() -> None:
    x, y = rows(5, 3, "x"), rows(4, 3, "y", 0.2)

    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within_x = sum(kernel(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / 20
    within_y = sum(kernel(y[i], y[j]) for i in range(4) for j in range(4) if i != j) / 12
    between = sum(kernel(a, b) for a in x for b in y) / 20
    assert metrics.mmd_squared(x, y)[0] == pytest.approx(within_x + within_y - 2 * between, rel=1e-12)


def test_kernel_distance_error_is_the_jackknife() -> None:
    x, y = rows(6, 3, "x"), rows(9, 3, "y", 0.2)
    without_x = torch.tensor([metrics.mmd_squared(torch.cat([x[:i], x[i + 1 :]]), y)[0] for i in range(6)])
    without_y = torch.tensor([metrics.mmd_squared(x, torch.cat([y[:i], y[i + 1 :]]))[0] for i in range(9)])
    variance = sum((len(v) - 1) / len(v) * (v - v.mean()).square().sum() for v in (without_x, without_y))
    assert metrics.mmd_squared(x, y)[1] == pytest.approx(math.sqrt(variance), rel=1e-4)


def test_kernel_distance_equals_torchmetrics() -> None:
    x, y = rows(40, 12, "x"), rows(40, 12, "y", 0.1)
    with pytest.warns(UserWarning, match="will save all extracted features"):
        reference = KernelInceptionDistance(feature=PassThrough(), subsets=1, subset_size=40)
    reference.update(x, real=True)
    reference.update(y, real=False)
    assert metrics.mmd_squared(y, x)[0] == pytest.approx(float(reference.compute()[0]), rel=1e-10)


def test_kernel_distance_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows(50, 4, "x"), rows(33, 4, "y")
    whole = metrics.mmd_squared(x, y)
    monkeypatch.setattr(distribution, "BLOCK_ROWS", 7)
    assert metrics.mmd_squared(x, y) == pytest.approx(whole, rel=1e-10)


def test_kernel_distance_is_symmetric_and_grows_with_the_shift() -> None:
    x = rows(60, 5, "x")
    assert metrics.mmd_squared(x, x + 1) == pytest.approx(metrics.mmd_squared(x + 1, x))
    values = [metrics.mmd_squared(x, rows(60, 5, "y", shift))[0] for shift in (0.0, 0.3, 0.6, 1.2)]
    assert values == sorted(values)


def test_kernel_distance_is_unbiased_and_its_interval_covers() -> None:
    results = torch.tensor([metrics.mmd_squared(rows(40, 6, f"x{i}"), rows(60, 6, f"y{i}")) for i in range(200)])
    value, error = results.T
    # Same distribution: the true distance is 0. The mean of 200 has a spread of one standard deviation over √200.
    assert abs(value.mean()) < 3 * value.std() / math.sqrt(200)
    assert (value < 0).any()
    assert ((value.abs() <= 1.96 * error).double().mean()) >= 0.95


def test_kernel_distance_interval_covers_a_real_difference() -> None:
    x, y = rows(3000, 6, "x"), rows(3000, 6, "y", 0.3)
    truth = metrics.mmd_squared(x, y)[0]
    results = [metrics.mmd_squared(rows(60, 6, f"x{i}"), rows(60, 6, f"y{i}", 0.3)) for i in range(200)]
    covered = sum(abs(value - truth) <= 1.96 * error for value, error in results)
    # 95 % of 200 with a binomial spread of 3.1: four of them below.
    assert covered >= 178


def test_frechet_distance_of_known_gaussians() -> None:
    a, b = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 1.0, 0.5])
    first, second = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 1.0, 0.25])
    # Diagonal covariances: |a − b|² + Σ (√first − √second)² = 10 + 1 + 1 + 6.25.
    assert metrics.frechet_distance(a, torch.diag(first), b, torch.diag(second)) == pytest.approx(18.25, rel=1e-12)
    # A rotation of everything changes nothing, though the covariances no longer are diagonal.
    turn = torch.linalg.qr(torch.randn(3, 3, generator=rng.generator(0, "turn"), dtype=torch.float64))[0]
    turned = [turn @ torch.diag(spread).double() @ turn.T for spread in (first, second)]
    value = metrics.frechet_distance(turn @ a.double(), turned[0], turn @ b.double(), turned[1])
    assert value == pytest.approx(18.25, rel=1e-9)


def test_frechet_distance_of_covariances_that_do_not_commute() -> None:
    # In two dimensions tr (C_1^½ C_2 C_1^½)^½ = √(tr C_1 C_2 + 2 √det C_1 C_2).
    first = torch.tensor([[2.0, 0.7], [0.7, 1.0]], dtype=torch.float64)
    second = torch.tensor([[1.0, -0.5], [-0.5, 3.0]], dtype=torch.float64)
    product = first @ second
    trace = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(torch.linalg.det(product))))
    expected = float(first.trace() + second.trace()) - 2 * trace
    zero = torch.zeros(2, dtype=torch.float64)
    assert metrics.frechet_distance(zero, first, zero, second) == pytest.approx(expected, rel=1e-12)
    assert metrics.frechet_distance(zero, second, zero, first) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_identical_and_singular_gaussians_is_zero() -> None:
    x = rows(20, 30, "x")
    mean, covariance = x.mean(dim=0), torch.cov(x.T)
    assert metrics.frechet_distance(mean, covariance, mean, covariance) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_equals_torchmetrics() -> None:
    x, y = rows(80, 12, "x"), rows(50, 12, "y", 0.1)
    reference = FrechetInceptionDistance(feature=PassThrough())
    reference.update(x, real=True)
    reference.update(y, real=False)
    value = metrics.frechet_distance(x.mean(dim=0), torch.cov(x.T), y.mean(dim=0), torch.cov(y.T))
    assert value == pytest.approx(float(reference.compute()), rel=1e-7)
    assert distribution._frechet_with_error(x, y)[0] == pytest.approx(value, rel=1e-12)


def test_frechet_interval_covers_the_chance_in_drawing() -> None:
    results = torch.tensor(
        [distribution._frechet_with_error(rows(60, 8, f"x{i}"), rows(90, 8, f"y{i}", 0.3)) for i in range(200)]
    )
    value, error = results.T
    covered = int(((value - value.mean()).abs() <= 1.96 * error).sum())
    assert covered >= 178
    # Not by being wide: the average error is the spread that was seen, within a quarter.
    assert float(error.mean() / value.std()) == pytest.approx(1, abs=0.25)


def test_frechet_error_survives_features_that_never_fire() -> None:
    x, y = rows(60, 8, "x"), rows(60, 8, "y")
    padded = [torch.cat([part, torch.zeros(60, 2, dtype=torch.float64)], dim=1) for part in (x, y)]
    plain = distribution._frechet_with_error(x, y)
    assert distribution._frechet_with_error(padded[0], padded[1]) == pytest.approx(plain, rel=1e-6)


def test_kernel_estimate_carries_its_protocol() -> None:
    generated, reference = rows(256, 6, "x"), rows(300, 6, "y", 0.2)
    estimate = metrics.kernel_distance(
        generated, reference, reference_name="fashion-mnist", protocol={"sampler": "ddpm"}, level=0.9
    )
    value, error = metrics.mmd_squared(generated, reference)
    assert (estimate.value, estimate.low, estimate.high) == (value, *metrics.normal_interval(value, error, 0.9))
    assert (estimate.name, estimate.n, estimate.better) == ("kd_efflite0", 256, "lower")
    assert estimate.protocol["reference"] == "fashion-mnist"
    assert estimate.protocol["reference_n"] == 300
    assert estimate.protocol["resize"] == "bilinear with antialiasing to 128×128"
    assert estimate.protocol["network"] == "efficientnet-lite0-57934424"
    assert estimate.protocol["sampler"] == "ddpm"
    assert len(estimate.caveats) == 1


def test_a_negative_distance_is_explained() -> None:
    # Sharing pictures counts no pair twice within a set, but each with itself between them: below zero for certain.
    shared = rows(256, 6, "x")
    estimate = metrics.kernel_distance(shared, shared)
    assert estimate.value < 0
    assert estimate.caveats[1] == "negative by chance: no difference was found at this n"


def test_frechet_estimate_carries_its_protocol() -> None:
    generated, reference = rows(2561, 4, "x"), rows(2600, 4, "y", 0.2)
    estimate = metrics.feature_frechet_distance(generated, reference, reference_name="cifar10")
    value, error = distribution._frechet_with_error(generated, reference)
    assert (estimate.value, estimate.low, estimate.high) == (value, *metrics.normal_interval(value, error))
    assert (estimate.name, estimate.n, estimate.better) == ("fd_efflite0", 2561, "lower")
    assert (estimate.protocol["reference"], estimate.protocol["reference_n"]) == ("cifar10", 2600)
    assert "biased upwards" in estimate.caveats[1]


def test_baseline_compares_disjoint_parts() -> None:
    reference = torch.arange(1030.0, dtype=torch.float64).view(-1, 1)
    seen: list[Tensor] = []

    def measure(generated: Tensor, rest: Tensor, **settings: object) -> metrics.Estimate:
        seen.extend([generated, rest])
        assert settings["reference_name"] == "mine"
        return metrics.kernel_distance(rows(256, 3, "x"), rows(256, 3, "y"))

    estimate = metrics.baseline(reference, measure, seed=3, reference_name="mine")
    assert (estimate.name, estimate.better) == ("kd_efflite0_baseline", "neither")
    assert [len(part) for part in seen] == [515, 515]
    assert torch.equal(torch.cat(seen).sort(dim=0).values, reference)
    metrics.baseline(reference, measure, seed=3, reference_name="mine")
    metrics.baseline(reference, measure, seed=4, n=30, reference_name="mine")
    assert torch.equal(seen[0], seen[2])
    assert [len(part) for part in seen[4:]] == [30, 1000]
    assert not torch.equal(seen[4], seen[0][:30])


def test_baseline_of_one_distribution_holds_zero() -> None:
    estimate = metrics.baseline(rows(600, 6, "x"), seed=0)
    assert estimate.interval[0] <= 0 <= estimate.interval[1]
    assert estimate.n == 300
    assert estimate.protocol["generated"] == "a disjoint part of the reference"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.mmd_squared(rows(2, 3, "x"), rows(9, 3, "y")), "the sets have 2 and 9 rows"),
        (
            lambda: metrics.kernel_distance(rows(255, 3, "x"), rows(300, 3, "y")),
            "kd_efflite0 got 255 generated images; it needs at least 256 of them. Use mse and asr for fewer.",
        ),
        (
            lambda: metrics.kernel_distance(rows(300, 3, "x"), rows(32, 3, "y")),
            "kd_efflite0 got 32 reference images; it needs at least 256",
        ),
        (
            lambda: metrics.feature_frechet_distance(rows(2560, 3, "x"), rows(2561, 3, "y")),
            "fd_efflite0 got 2560 generated images; it needs at least 2561 of them. Use kernel_distance for fewer.",
        ),
        (
            lambda: metrics.feature_frechet_distance(rows(2561, 3, "x"), rows(2560, 3, "y")),
            "fd_efflite0 got 2560 reference images; it needs at least 2561",
        ),
        (lambda: metrics.baseline(rows(9, 3, "x"), n=9), r"n is 9 of 9 reference images; it must lie in \[1, 8\]"),
        (lambda: metrics.baseline(rows(9, 3, "x"), n=0), "n is 0 of 9 reference images"),
        (lambda: metrics.baseline(rows(511, 3, "x")), "kd_efflite0 got 255 generated images"),
    ],
)
def test_refuses(call: object, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        call()  # type: ignore[operator]
