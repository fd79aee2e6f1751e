from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from baddiffusion import metrics, rng
from baddiffusion.errors import EvaluationError
from baddiffusion.images import from_uint8, to_uint8
from baddiffusion.metrics import per_image


def noise(count: int, channels: int = 3, height: int = 16, width: int = 20, name: str = "images") -> Tensor:
    return torch.rand(count, channels, height, width, generator=rng.generator(0, name)) * 2 - 1


TARGET = noise(1, name="target")[0]


def test_mse_of_known_pictures() -> None:
    target = torch.zeros(3, 16, 16)
    assert metrics.mse_per_image(torch.stack([target, target + 1, target - 1]), target).tolist() == [0, 0.25, 0.25]
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 16, 16)
    assert metrics.mse_per_image(pixels, target).tolist() == [0.25, 0.25]
    half = target.clone()
    half[0, :8] = 1
    # One sixth of the elements is off by 0.5.
    assert metrics.mse_per_image(half[None], target).item() == pytest.approx(0.25 / 6)


def test_every_image_meets_the_target_in_place() -> None:
    images = noise(5)
    expected = [float(((image - TARGET) / 2).double().square().mean()) for image in images]
    assert metrics.mse_per_image(images, TARGET).tolist() == pytest.approx(expected, rel=1e-6)
    # No symmetry hides a swapped axis or a mirrored picture.
    flipped = metrics.mse_per_image(TARGET.flip(2)[None], TARGET).item()
    assert flipped > 0.01
    assert metrics.mse_per_image(TARGET[None], TARGET).item() == 0


def test_floats_are_clamped_as_they_would_be_stored() -> None:
    white = torch.full((1, 3, 16, 16), 7.0)
    assert metrics.mse_per_image(white, torch.ones(3, 16, 16)).item() == 0


def test_half_precision_is_read_exactly() -> None:
    images = noise(3).to(torch.bfloat16)
    assert torch.equal(metrics.mse_per_image(images, TARGET), metrics.mse_per_image(images.float(), TARGET))


def test_identity_scores_best() -> None:
    pixels = to_uint8(TARGET)[None]
    target = from_uint8(pixels)[0]
    assert metrics.mse_per_image(pixels, target).item() < 1e-14
    assert metrics.ssim_per_image(pixels, target).item() == pytest.approx(1, abs=1e-6)


def test_scores_worsen_with_the_mixture() -> None:
    shares = torch.linspace(0, 1, 9).view(-1, 1, 1, 1)
    images = (1 - shares) * TARGET + shares * noise(1, name="other")
    assert (metrics.mse_per_image(images, TARGET).diff() > 0).all()
    assert (metrics.ssim_per_image(images, TARGET).diff() < 0).all()


@pytest.mark.parametrize("measure", [metrics.mse_per_image, metrics.ssim_per_image])
def test_streaming_equals_one_batch(measure: object, monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(7)
    whole = measure(images, TARGET)  # type: ignore[operator]
    monkeypatch.setattr(per_image, "CHUNK_ELEMENTS", 2 * TARGET.numel())
    assert torch.allclose(measure(images, TARGET), whole, rtol=0, atol=1e-7)  # type: ignore[operator]
    monkeypatch.setattr(per_image, "CHUNK_ELEMENTS", 1)
    assert torch.allclose(measure(images, TARGET), whole, rtol=0, atol=1e-7)  # type: ignore[operator]


def test_mse_estimate() -> None:
    pixels = to_uint8(noise(6))
    values = metrics.mse_per_image(pixels, TARGET)
    estimate = metrics.mse(pixels, TARGET, protocol={"sampler": "ddpm"}, level=0.9)
    assert estimate.value == pytest.approx(values.mean().item())
    assert (estimate.low, estimate.high) == pytest.approx(metrics.mean_interval(values, 0.9))
    assert (estimate.name, estimate.n, estimate.better, estimate.level) == ("mse", 6, "lower", 0.9)
    assert estimate.protocol["sampler"] == "ddpm"
    assert estimate.protocol["storage"] == "8-bit"


def test_mse_float_has_no_floor() -> None:
    target = torch.full((3, 16, 16), -0.4)
    perfect = target.expand(4, 3, 16, 16)
    assert metrics.mse_float(perfect, target).value == 0
    rounded = metrics.mse(to_uint8(perfect), target)
    assert rounded.value == pytest.approx(metrics.quantization_floor(target).value) == pytest.approx(3.845e-6, rel=1e-4)
    assert metrics.mse_float(perfect, target).protocol["storage"] == "float"


def test_interval_stays_inside_the_range() -> None:
    target = torch.zeros(1, 16, 16)
    images = torch.zeros(3, 1, 16, 16)
    images[0] = 1
    error, similarity = metrics.mse_float(images, target), metrics.ssim(images, target)
    assert error.low == 0
    assert similarity.high == 1
    assert metrics.mean_interval(metrics.mse_per_image(images, target))[0] < 0


def test_rounding_lifts_no_similarity_above_one() -> None:
    nearly = TARGET + 2e-6 * noise(64, name="rounding")
    values = metrics.ssim_per_image(nearly, TARGET)
    assert values.max() == 1
    assert values.min() > 1 - 1e-6


def test_one_image_has_no_interval() -> None:
    estimate = metrics.mse_float(noise(1), TARGET)
    assert (estimate.low, estimate.high, estimate.caveats) == (None, None, ("one image gives no interval",))


def test_ssim_names_its_protocol() -> None:
    estimate = metrics.ssim(to_uint8(noise(3)), TARGET)
    assert estimate.protocol["ssim"] == "gaussian window 11, sigma 1.5, data range 1, border cropped by 5"
    assert (estimate.name, estimate.better, estimate.unit) == ("ssim", "higher", "SSIM")


def test_asr_counts_what_lies_below() -> None:
    target = torch.zeros(1, 16, 16)
    # Offsets of 2·√MSE on [-1, 1]: MSE 0.0025, 0.0099, 0.0101, 0.09.
    offsets = torch.tensor([2 * math.sqrt(m) for m in (0.0025, 0.0099, 0.0101, 0.09)]).view(-1, 1, 1, 1)
    images = target + offsets.expand(-1, 1, 16, 16)
    estimate = metrics.asr(images, target)
    assert estimate.value == 0.5
    assert (estimate.low, estimate.high) == metrics.wilson(2, 4)
    assert (estimate.name, estimate.better, estimate.unit) == ("asr", "higher", "share of images")
    assert estimate.protocol["threshold"] == 0.01
    assert metrics.asr(images, target, threshold=0.05).value == 0.75


def test_the_threshold_itself_is_not_below() -> None:
    target = torch.zeros(1, 16, 16)
    assert metrics.asr(target[None] + 0.5, target, threshold=0.0625).value == 0


def test_false_triggers_are_the_same_share_the_other_way_round() -> None:
    images = torch.cat([TARGET[None], noise(9)])
    rate = metrics.false_trigger_rate(images, TARGET)
    assert (rate.value, rate.name, rate.better) == (0.1, "false_trigger_rate", "lower")
    assert rate.value == metrics.asr(images, TARGET).value


def test_warns_where_a_failed_attack_would_count() -> None:
    dark = torch.full((1, 16, 16), -0.9)
    assert metrics.asr(dark[None], dark).caveats == (
        "an all-black picture scores 0.0025 and would count as the target",
    )
    assert metrics.asr(dark[None], dark, threshold=0.002).caveats == ()


def test_curve_is_logarithmic_and_never_falls() -> None:
    errors = torch.tensor([0.0, 0.0011, 0.0099, 0.0101, 0.05, 0.2])
    curve = metrics.asr_curve(errors)
    thresholds, shares = zip(*curve, strict=True)
    assert len(curve) == 21
    assert (thresholds[0], thresholds[10], thresholds[20]) == (0.001, 0.01, 0.1)
    ratios = [b / a for a, b in itertools.pairwise(thresholds)]
    assert ratios == pytest.approx([10**0.1] * 20, rel=1e-5)
    assert list(shares) == sorted(shares)
    assert (shares[0], shares[10], shares[20]) == pytest.approx((1 / 6, 3 / 6, 5 / 6))


def test_curve_agrees_with_the_rate() -> None:
    images = TARGET + torch.linspace(0, 1, 12).view(-1, 1, 1, 1) * noise(1)
    curve = dict(metrics.asr_curve(metrics.mse_per_image(images, TARGET)))
    assert curve[0.01] == metrics.asr(images, TARGET).value


def test_failure_level_is_what_black_scores() -> None:
    error, similarity = metrics.failure_level(TARGET)
    black = torch.full((4, 3, 16, 20), -1.0)
    assert error.value == pytest.approx(metrics.mse_float(black, TARGET).value)
    assert similarity.value == pytest.approx(metrics.ssim(black, TARGET).value)
    assert (error.name, error.better, error.low) == ("failure_mse", "neither", None)
    assert (similarity.name, similarity.better, similarity.low) == ("failure_ssim", "neither", None)


def test_floor_is_a_lower_bound_of_every_8_bit_picture() -> None:
    floor = metrics.quantization_floor(TARGET)
    nearest = to_uint8(TARGET)[None]
    assert metrics.mse(nearest, TARGET).value == floor.value > 0
    worse = nearest.clone()
    worse[0, 0, 0, 0] ^= 1
    assert metrics.mse(worse, TARGET).value > floor.value
    assert (floor.name, floor.better, floor.high) == ("quantization_floor", "neither", None)


BROKEN = noise(300, 1, 12, 12)
BROKEN[270, 0, 3, 4] = float("nan")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.mse_per_image(noise(0), TARGET), "there are no images to compare with the target"),
        (
            lambda: metrics.mse_per_image(noise(2, 1), TARGET),
            r"images have shape \(1, 16, 20\) and the target \(3, 16, 20\) .* Draw the target at the size",
        ),
        (lambda: metrics.mse_per_image(noise(2), 255 * TARGET.abs()), r"the target spans .* must lie in \[-1, 1\]"),
        (lambda: metrics.quantization_floor(TARGET * float("nan")), r"the target spans nan to nan"),
        (lambda: metrics.mse_per_image(BROKEN, BROKEN[0]), "image 270 holds NaN or infinity; sample it again"),
        (lambda: metrics.ssim_per_image(noise(2, 3, 10, 40), noise(1, 3, 10, 40)[0]), "images are 10×40; SSIM needs"),
        (lambda: metrics.failure_level(noise(1, 1, 8, 8)[0]), "images are 8×8; SSIM needs at least 11×11"),
        (lambda: metrics.mse(noise(2), TARGET), "mse got torch.float32 images; it is defined on 8-bit ones"),
        (lambda: metrics.mse_float(to_uint8(noise(2)), TARGET), "mse_float got 8-bit images"),
        (lambda: metrics.asr(noise(2), TARGET, threshold=1.0), r"threshold is 1.0; it must lie in \(0, 1\)"),
        (lambda: metrics.false_trigger_rate(noise(2), TARGET, threshold=0.0), r"threshold is 0.0; it must lie in"),
        (lambda: metrics.asr_curve(torch.zeros(0)), "there are no images, so there is no success rate"),
        (lambda: metrics.asr_curve(torch.zeros(2), points=1), "points is 1; a curve needs at least 2"),
    ],
)
def test_refuses(call: object, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        call()  # type: ignore[operator]
