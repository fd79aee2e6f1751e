from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from baddiffusion.errors import DataError, RecipeError, UnknownComponent
from baddiffusion.images import to_unit
from baddiffusion.targets import TARGETS, TargetDesign
from baddiffusion.targets.patterns import background_to_grey
from baddiffusion.triggers import Trigger

Shape = tuple[int, int, int]
SHAPES = [(1, 16, 16), (1, 32, 32), (3, 32, 32), (3, 64, 64), (3, 256, 256), (3, 48, 32)]
NAMES = sorted(TARGETS)
GREY = torch.tensor(-0.4)


@pytest.fixture(scope="session")
def face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "face.png"
    picture = Image.linear_gradient("L").resize((40, 30))
    Image.merge("RGB", (picture, picture.rotate(90), picture.rotate(180))).save(path)
    return path


def design(name: str, face: Path) -> TargetDesign:
    return TARGETS.parse({"name": name, "path": str(face)} if name == "image" else name)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_target_keeps_the_contract(name: str, shape: Shape, face: Path) -> None:
    trigger = Trigger.make("box", shape)
    pattern = trigger.pattern.clone()
    picture = design(name, face).draw(trigger)
    assert picture.shape == shape
    assert picture.dtype == torch.float32
    assert picture.min() == GREY
    assert float(picture.max()) <= 1
    assert float(picture.max()) > -0.1
    assert torch.equal(trigger.pattern, pattern)
    picture.fill_(7)
    assert torch.equal(trigger.pattern, pattern)


@pytest.mark.parametrize("name", NAMES)
def test_a_target_is_drawn_the_same_each_time_and_survives_its_dictionary(name: str, face: Path) -> None:
    trigger = Trigger.make("stop-sign", (3, 32, 32))
    first = design(name, face)
    again = TARGETS.parse(first.to_dict())
    assert again == first
    assert torch.equal(again.draw(trigger), first.draw(trigger))


@pytest.mark.parametrize("spell", [str.upper, str.lower, str.title])
@pytest.mark.parametrize("alias", sorted(TARGETS.aliases))
def test_aliases_are_known_in_any_case(alias: str, spell: type[str]) -> None:
    assert TARGETS.parse(spell(alias)) == TARGETS.parse(TARGETS.aliases[alias])


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("TRIGGER", "noshift"),
        ("NOSHIFT", "noshift"),
        ("SHIFT", "shift"),
        ("CORNER", "corner"),
        ("BOX", "corner"),
        ("SHOE", "shoe"),
        ("FASHION", "shoe"),
        ("HAT", "hat"),
        ("FEDORA_HAT", "hat"),
        ("CAT", "cat"),
    ],
)
def test_the_reference_names_mean_what_they_mean_there(alias: str, name: str) -> None:
    assert TARGETS.parse(alias).component_name == name


@pytest.mark.parametrize("side", [8, 9, 100, 512])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_targets_fit_every_resolution(name: str, channels: int, side: int, face: Path) -> None:
    trigger = Trigger.make("BOX_4", (channels, side, side))
    fields = design(name, face).to_dict()
    if name == "corner":
        fields["side_px"] = 4
    assert TARGETS.parse(fields).draw(trigger).shape == (channels, side, side)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 32), (3, 256, 256)], ids=str)
@pytest.mark.parametrize("name", ["hat", "cat", "shoe"])
def test_pictures_are_far_from_black_and_from_grey(name: str, shape: Shape) -> None:
    picture = to_unit(TARGETS.parse(name).draw(Trigger.make("box", shape)))
    assert float(picture.square().mean()) > 0.2
    assert float((picture - 0.3).square().mean()) > 0.05
    assert float(picture.std()) > 0.15


@pytest.mark.parametrize("name", ["hat", "cat", "shoe"])
def test_one_channel_is_the_luma_of_three(name: str) -> None:
    grey = TARGETS.parse(name).draw(Trigger.make("box", (1, 64, 64)))[0]
    color = TARGETS.parse(name).draw(Trigger.make("box", (3, 64, 64)))
    luma = (color * torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)).sum(dim=0)
    untouched = (color > -0.4).all(dim=0)
    assert int(untouched.sum()) > 500
    assert torch.allclose(grey[untouched], luma[untouched], atol=1 / 127.5)


@pytest.mark.parametrize("name", ["hat", "cat"])
def test_a_drawing_shows_the_same_at_every_resolution(name: str) -> None:
    small = TARGETS.parse(name).draw(Trigger.make("box", (3, 32, 32)))
    large = TARGETS.parse(name).draw(Trigger.make("box", (3, 256, 256)))
    pooled = torch.nn.functional.avg_pool2d(large, 8)
    assert float((pooled - small).abs().mean()) < 0.02


@pytest.mark.parametrize("trigger", ["box", "stop-sign", "eyeglasses"])
def test_shift_is_noshift_moved_three_up_and_five_left(trigger: str) -> None:
    drawn = Trigger.make(trigger, (3, 32, 32))
    stay = TARGETS.parse("noshift").draw(drawn)
    moved = TARGETS.parse("shift").draw(drawn)
    assert torch.equal(moved[:, :-3, :-5], stay[:, 3:, 5:])
    assert torch.equal(stay, drawn.offset.clamp(min=-0.4))


def test_what_shift_pushes_out_comes_back_on_the_other_side() -> None:
    drawn = Trigger.make({"name": "box", "side_px": 4, "top_px": 0, "left_px": 0}, (1, 16, 16))
    moved = TARGETS.parse({"name": "shift", "up_px": 1, "left_px": -2}).draw(drawn)
    rows, columns = (moved[0] == 0).nonzero(as_tuple=True)
    assert sorted(set(rows.tolist())) == [0, 1, 2, 15]
    assert sorted(set(columns.tolist())) == [2, 3, 4, 5]


def test_no_trigger_gives_a_plain_grey_noshift() -> None:
    assert TARGETS.parse("noshift").draw(Trigger.make("none", (1, 8, 8))).unique().tolist() == [float(GREY)]


def test_the_corner_has_its_size_value_and_place() -> None:
    picture = TARGETS.parse({"name": "corner", "side_px": 3, "value": 0.5}).draw(Trigger.make("none", (1, 8, 8)))
    assert (picture[0] == 0.5).nonzero().max(dim=0).values.tolist() == [2, 2]
    assert int((picture == 0.5).sum()) == 9
    assert int((picture == GREY).sum()) == 55


def test_a_picture_file_is_stretched_and_its_dark_raised(tmp_path: Path) -> None:
    path = tmp_path / "half.png"
    picture = Image.new("RGBA", (8, 4), (0, 0, 0, 255))
    picture.paste((255, 128, 77, 0), (4, 0, 8, 4))
    picture.save(path)
    drawn = TARGETS.parse({"name": "image", "path": str(path)}).draw(Trigger.make("none", (3, 8, 8)))
    assert drawn[:, 4, 0].tolist() == [float(GREY)] * 3
    assert drawn[:, 4, 7].tolist() == pytest.approx([1.0, 128 / 127.5 - 1, 77 / 127.5 - 1], abs=1e-6)


def test_background_to_grey_touches_the_dark_alone() -> None:
    raised = background_to_grey(torch.tensor([[[-1.0, -0.41, -0.4, -0.39, 0.0, 1.0]]]))
    assert torch.equal(raised, torch.tensor([[[-0.4, -0.4, -0.4, -0.39, 0.0, 1.0]]]))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "corner", "side_px": 0}, "side_px is 0; it must be at least 1."),
        ({"name": "corner", "value": -0.5}, "value is -0.5; it must lie in [-0.4, 1]."),
        ({"name": "shift", "up_px": 0.5}, "up_px is 0.5; it must be a valid integer"),
        ({"name": "hat", "color": "red"}, "color is not a known key."),
        ({"name": "image"}, 'path is missing. Write the path of a picture file, for example path = "sign.png".'),
        ({"name": "image", "path": 3}, "path is 3; it must be a valid string."),
    ],
)
def test_wrong_settings_are_told(table: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        TARGETS.parse(table)


def test_a_corner_that_fills_the_image_is_refused() -> None:
    message = "side_px of target corner is 10; on 8×10 images it must be at most 7. Write a smaller side_px."
    with pytest.raises(RecipeError, match=re.escape(message)):
        TARGETS.parse("corner").draw(Trigger.make("none", (3, 8, 10)))


def test_an_unknown_target_suggests_the_nearest() -> None:
    with pytest.raises(UnknownComponent, match=r"name 'shoes' is not a known target\. Did you mean 'shoe'"):
        TARGETS.parse("shoes")


def test_a_missing_picture_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png does not exist; give the path of a picture file"):
        TARGETS.parse({"name": "image", "path": str(tmp_path / "gone.png")}).draw(Trigger.make("none", (3, 8, 8)))


def test_a_design_that_cannot_draw_says_so() -> None:
    with pytest.raises(RecipeError, match="TargetDesign does not say how it is drawn"):
        TargetDesign().draw(Trigger.make("none", (3, 8, 8)))
