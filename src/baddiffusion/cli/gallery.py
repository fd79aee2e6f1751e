"""Every trigger and every target on one labelled sheet, like the paper's Figure 1 and Tables 1 and 10."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from baddiffusion.errors import RecipeError

if TYPE_CHECKING:
    from PIL import Image

    from baddiffusion.images import Pixels
    from baddiffusion.triggers import Trigger

__all__ = ["draw_gallery"]

SIDES_PX = (18, 14, 11, 8, 4)
TILE_PX, GAP_PX, LABEL_PX, TITLE_PX = 128, 12, 18, 30
COLUMNS = len(SIDES_PX)
PAPER, INK = 255, 0


def draw_gallery(resolution: int, channels: int) -> bytes:
    """Draw the sheet.

    Rows: the triggers on the black canvas of the start noise, at the sizes of the paper's Table 10; the same stamped on
    real images; the targets, which for NoShift and Shift depend on the trigger.

    Args:
        resolution: side of an image in pixels; sizes that do not fit are left out.
        channels: 1 or 3.

    Returns:
        A PNG file.

    Source: arXiv 2212.05400, Figure 1 and Tables 1 and 10.
    """
    from baddiffusion.images import to_uint8

    shape = (channels, resolution, resolution)
    triggers = _triggers(shape)
    canvas = [(name, to_uint8(trigger.offset)) for name, trigger in triggers]
    photographs = _photographs(shape, len(triggers))
    stamped = [
        (name, to_uint8(trigger.stamp(photographs[index : index + 1])[0]))
        for index, (name, trigger) in enumerate(triggers)
    ]
    sections = [
        ("Triggers, as they are added to the start noise", canvas),
        ("Triggers, stamped on training images", stamped),
        ("Targets", [(name, to_uint8(picture)) for name, picture in _targets(triggers)]),
    ]
    return _sheet(sections)


def _triggers(shape: tuple[int, int, int]) -> list[tuple[str, Trigger]]:
    from baddiffusion.triggers import TRIGGERS, Trigger

    wanted = [{"name": name, "side_px": side} for name in ("box", "stop-sign") for side in SIDES_PX]
    shown = {"box", "stop-sign", "image"}  # a picture file of the user's has nothing to show here
    wanted += [{"name": name} for name in TRIGGERS if name not in shown]
    found = []
    for design in wanted:
        try:
            side = f" {design['side_px']}" if "side_px" in design else ""
            found.append((f"{design['name']}{side}", Trigger.make(design, shape)))
        except RecipeError:  # larger than the image
            continue
    return found


def _targets(triggers: list[tuple[str, Trigger]]) -> list[tuple[str, Pixels]]:
    from baddiffusion.targets import TARGETS

    default = {"box 14", "stop-sign 14"}
    chosen = [pair for pair in triggers if pair[0] in default] or triggers[:1]
    found = []
    for name in TARGETS:
        if name == "image":
            continue
        of_trigger = name in ("noshift", "shift")
        for trigger_name, trigger in chosen if of_trigger else chosen[:1]:
            try:
                label = f"{name}, {trigger_name}" if of_trigger else name
                found.append((label, TARGETS.parse(name).draw(trigger)))
            except RecipeError:  # larger than the image
                continue
    return found


def _photographs(shape: tuple[int, int, int], count: int) -> Pixels:
    """Real pictures to stamp: of the data set inside the package, resized as its source does."""
    import torch

    from baddiffusion.data import SOURCES
    from baddiffusion.images import from_uint8

    channels, height, width = shape
    pixels = SOURCES.parse("fashion-mnist").open((1, 32, 32)).read(torch.arange(count))
    enlarged = torch.nn.functional.interpolate(from_uint8(pixels), (height, width), mode="bilinear", antialias=True)
    return enlarged.expand(-1, channels, -1, -1)


def _sheet(sections: list[tuple[str, list[tuple[str, Pixels]]]]) -> bytes:
    from PIL import Image, ImageDraw, ImageFont

    from baddiffusion.images import to_pil

    step = TILE_PX + GAP_PX
    rows = [-(-len(tiles) // COLUMNS) for _, tiles in sections]
    height = GAP_PX + sum(TITLE_PX + row * (step + LABEL_PX) for row in rows)
    sheet = Image.new("RGB", (GAP_PX + COLUMNS * step, height), (PAPER,) * 3)
    pen, top = ImageDraw.Draw(sheet), GAP_PX
    title_font, label_font = ImageFont.load_default(16), ImageFont.load_default(12)
    for (title, tiles), row_count in zip(sections, rows, strict=True):
        pen.text((GAP_PX, top), title, fill=(INK,) * 3, font=title_font)
        top += TITLE_PX
        for index, (label, picture) in enumerate(tiles):
            left = GAP_PX + index % COLUMNS * step
            y = top + index // COLUMNS * (step + LABEL_PX)
            sheet.paste(_enlarged(to_pil(picture).convert("RGB")), (left, y))
            pen.text((left, y + TILE_PX + 2), label, fill=(INK,) * 3, font=label_font)
        top += row_count * (step + LABEL_PX)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _enlarged(picture: Image.Image) -> Image.Image:
    from PIL import Image

    # Small images keep their hard pixels; those larger than a tile are averaged.
    how = Image.Resampling.NEAREST if picture.width <= TILE_PX else Image.Resampling.LANCZOS
    return picture.resize((TILE_PX, TILE_PX), how)
