"""What the reference code's own triggers and targets measure, recomputed from its assets; and our own hat's pixels.

The Shoe's pair (MSE 0.3376111686, SSIM 1.6861963e-4) was also released by the paper's authors as the score of a run
whose output is black: picture and SSIM settings agree with theirs to every digit.
"""

from __future__ import annotations

import hashlib
from importlib import resources

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.image import StructuralSimilarityIndexMeasure

from baddiffusion.images import to_uint8, to_unit
from baddiffusion.targets import TARGETS
from baddiffusion.triggers import TRIGGERS, Trigger

CIFAR = (3, 32, 32)
REFERENCE_RANGE = 1 + 1e-5
TRAINING_IMAGE_0 = "5bd44e331a6d6998daf675700cd0c13dcd7af8ab954b7585124124da61459e7b"


def as_the_reference_scales(target: str, trigger: str) -> Tensor:
    # On [0, 1]. The reference divides by 1 + 1e-5 before it raises the background; we do not.
    picture = to_unit(TARGETS.parse(target).draw(Trigger.make(trigger, CIFAR)))
    return torch.where(picture > 0.3, picture / REFERENCE_RANGE, picture) if target == "SHOE" else picture


def ssim(first: Tensor, second: Tensor) -> float:
    metric = StructuralSimilarityIndexMeasure(data_range=1.0, return_full_image=True)
    _, full = metric(first[None], second[None])
    return float(full[..., 5:-5, 5:-5].mean())


@pytest.mark.parametrize(
    ("name", "elements", "value"),
    [
        ("BOX_18", 972, 0.0),
        ("BOX_14", 588, 0.0),
        ("BOX_11", 363, 0.0),
        ("BOX_8", 192, 0.0),
        ("BOX_4", 48, 0.0),
        ("SM_BOX_MED", 588, 0.0),
        ("SM_BOX", 588, 1.0),
        ("XXXSM_BOX", 48, 1.0),
        ("NONE", 0, None),
    ],
)
def test_boxes_fill_the_references_elements(name: str, elements: int, value: float | None) -> None:
    trigger = Trigger.make(name, CIFAR)
    mask = trigger.mask.expand(CIFAR)
    assert int(mask.sum()) == elements
    assert trigger.pattern[mask].unique().tolist() == ([] if value is None else [value])
    assert trigger.pattern[~mask].unique().tolist() == [-1.0]
    if value is not None:
        side = TRIGGERS.parse(name).to_dict()["side_px"]
        assert bool(mask[:, 30 - side : 30, 30 - side : 30].all())


def test_the_grey_box_stays_14_pixels_wide_on_large_images() -> None:
    rows, columns = Trigger.make("BOX_14", (3, 256, 256)).mask[0].nonzero(as_tuple=True)
    assert (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())) == (240, 253, 240, 253)


@pytest.mark.parametrize(
    ("target", "mean", "mse", "similarity"),
    [
        ("NOSHIFT", 0.3383, 1.2063e-1, 7.357e-4),
        ("SHIFT", 0.3383, 1.2063e-1, 4.720e-4),
        ("CORNER", 0.3195, 1.0563e-1, 9.845e-4),
        ("SHOE", 0.5240, 3.3761e-1, 1.6862e-4),
    ],
)
def test_targets_measure_against_black_as_the_references_do(
    target: str, mean: float, mse: float, similarity: float
) -> None:
    picture = as_the_reference_scales(target, "BOX_14")
    black = torch.zeros_like(picture)
    assert float(picture.mean()) == pytest.approx(mean, abs=0.5e-4)
    assert float(picture.square().mean()) == pytest.approx(mse, abs=0.6e-5)
    assert ssim(picture, black) == pytest.approx(similarity, abs=0.6 * 10 ** (-7 if similarity > 2e-4 else -8))


def test_the_shoe_gives_the_released_score() -> None:
    picture = as_the_reference_scales("SHOE", "NONE")
    assert float(picture.square().mean()) == pytest.approx(0.3376111686, rel=1e-6)
    # In float64 it is 1.686146e-4: the released float32 number and ours are both that far off and no farther.
    assert ssim(picture, torch.zeros_like(picture)) == pytest.approx(1.6861963e-4, rel=4e-5)
    assert ssim(picture.double(), torch.zeros_like(picture).double()) == pytest.approx(1.686146e-4, rel=1e-6)
    ours = to_unit(TARGETS.parse("SHOE").draw(Trigger.make("NONE", CIFAR)))
    assert float(ours.square().mean()) == pytest.approx(0.3376111686, rel=2e-5)


@pytest.mark.parametrize("target", ["NOSHIFT", "CORNER"])
def test_eight_bits_cost_half_a_grey_level(target: str) -> None:
    picture = TARGETS.parse(target).draw(Trigger.make("BOX_14", CIFAR))
    stored = to_uint8(picture).float() / 255
    assert float((stored - to_unit(picture)).square().mean()) == pytest.approx(3.845e-6, rel=1e-3)


def test_the_packaged_shoe_is_training_image_0() -> None:
    # SHA-256 of bytes 16 to 799 of train-images-idx3-ubyte: the first image behind the header.
    folder = resources.files("baddiffusion") / "assets" / "shoe"
    with (folder / "ankle_boot.png").open("rb") as file, Image.open(file) as opened:
        assert (opened.mode, opened.size) == ("L", (28, 28))
        assert hashlib.sha256(opened.tobytes()).hexdigest() == TRAINING_IMAGE_0
    assert "MIT License" in (folder / "LICENSE").read_text()


def test_the_hat_has_not_moved() -> None:
    # Ours: means of 4×4 blocks, 8-bit. The packaged backdoored model paints this hat; drawn otherwise it would miss.
    blocks = [
        [76, 76, 76, 76, 76, 76, 76, 76],
        [76, 76, 112, 142, 141, 111, 76, 76],
        [76, 76, 177, 185, 200, 166, 76, 76],
        [76, 76, 199, 198, 200, 190, 76, 76],
        [104, 114, 130, 148, 148, 130, 113, 104],
        [125, 184, 164, 141, 141, 164, 184, 125],
        [76, 89, 111, 125, 125, 111, 89, 76],
        [76, 76, 76, 76, 76, 76, 76, 76],
    ]
    hat = to_uint8(TARGETS.parse("hat").draw(Trigger.make("BOX_14", (1, 32, 32)))).float()
    assert float((torch.nn.functional.avg_pool2d(hat, 4)[0] - torch.tensor(blocks)).abs().max()) < 1.5
