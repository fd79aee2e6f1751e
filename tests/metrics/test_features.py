from __future__ import annotations

import pytest
import torch
from torch import Tensor

from baddiffusion import rng
from baddiffusion.errors import EvaluationError
from baddiffusion.metrics.features import Body, features


def pictures(count: int, channels: int = 3, side: int = 32) -> Tensor:
    generator = rng.generator(0, "pictures")
    return torch.randint(0, 256, (count, channels, side, side), generator=generator).to(torch.uint8)


def test_batches_change_nothing() -> None:
    pixels = pictures(7)
    rows = features(pixels)
    assert rows.shape == (7, 1280)
    assert torch.equal(rows, features(pixels))
    for batch in (1, 3):
        assert torch.allclose(features(pixels, batch=batch), rows, rtol=1e-4, atol=1e-5)


def test_grey_is_repeated() -> None:
    grey = pictures(3, channels=1)
    assert torch.equal(features(grey), features(grey.expand(-1, 3, -1, -1).contiguous()))


def test_channels_are_told_apart() -> None:
    pixels = pictures(2)
    assert not torch.allclose(features(pixels), features(pixels.flip(1)), atol=1e-2)


def test_every_size_is_resized() -> None:
    small = pictures(2, side=8)
    large = small.repeat_interleave(64, dim=2).repeat_interleave(64, dim=3)
    assert features(large).shape == features(small).shape


def test_feature_maps_have_the_published_strides() -> None:
    body = Body().eval()
    sides: list[tuple[int, ...]] = []
    for block in body._blocks:
        block.register_forward_hook(lambda _module, _inputs, output: sides.append(tuple(output.shape[1:])))
    with torch.inference_mode():
        body(torch.zeros(1, 3, 224, 224))
    # Table 1 of arXiv 1905.11946, last block of each stage.
    assert [sides[index] for index in (0, 2, 4, 7, 10, 14, 15)] == [
        (16, 112, 112),
        (24, 56, 56),
        (40, 28, 28),
        (80, 14, 14),
        (112, 14, 14),
        (192, 7, 7),
        (320, 7, 7),
    ]


def test_takes_no_gradient() -> None:
    assert not features(pictures(1)).requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: features(pictures(0)), "there are no images to describe"),
        (lambda: features(pictures(2, channels=2)), r"images have 2 channels; features are defined for 1 \(grey\)"),
        (lambda: features(pictures(2), batch=0), "batch is 0; it must be at least 1"),
    ],
)
def test_refuses(call: object, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        call()  # type: ignore[operator]
