"""Sheets of pictures with named rows and columns, as PNG files for the docs and for people."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from baddiffusion.errors import EvaluationError
from baddiffusion.images import grid, to_uint8
from baddiffusion.report.kit.pictures import thumbnails

__all__ = ["DPI", "Block", "Strip", "png_of", "sheet"]

DPI = 150
CELL_IN, LABEL_IN, TITLE_IN, COLUMN_TITLE_IN, GAP_IN, EDGE_IN = 0.62, 1.55, 0.28, 0.2, 0.14, 0.08
Pictures = Float[Tensor, "_ c h w"]
"""Of one size; how many is left to each row, so that a strip can say what is wrong."""

STYLE = {"font.family": "DejaVu Sans", "font.size": 9.0}


@dataclass(frozen=True, eq=False)
class Block:
    """Rows of equally many pictures under one title.

    Args:
        title: what stands above.
        rows: each row's pictures, in [−1, 1]; what lies outside is shown clamped.
        columns: what stands above each column; empty for nothing.
    """

    title: str
    rows: Sequence[Pictures]
    columns: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Strip:
    """Blocks side by side whose rows mean the same.

    Args:
        rows: what stands to the left of each row.
        blocks: at least one, each with as many rows.

    Raises:
        EvaluationError: a block has another number of rows, or a row another number of pictures.
    """

    rows: Sequence[str]
    blocks: Sequence[Block]

    def __post_init__(self) -> None:
        for block in self.blocks:
            lengths = {len(row) for row in block.rows} | ({len(block.columns)} if block.columns else set())
            if len(block.rows) != len(self.rows) or len(lengths) != 1:
                raise EvaluationError(
                    f"block {block.title!r} has {len(block.rows)} rows of {sorted(lengths)} pictures; it needs "
                    f"{len(self.rows)} rows of one length."
                )

    @property
    def width_in(self) -> float:
        """Of the whole strip."""
        pictures = sum(len(block.rows[0]) for block in self.blocks)
        return LABEL_IN + pictures * CELL_IN + (len(self.blocks) - 1) * GAP_IN + EDGE_IN

    @property
    def head_in(self) -> float:
        """Of the titles above the pictures."""
        return TITLE_IN + (COLUMN_TITLE_IN if any(block.columns for block in self.blocks) else 0)

    @property
    def height_in(self) -> float:
        """Of the whole strip."""
        return self.head_in + len(self.rows) * CELL_IN + EDGE_IN


def sheet(strips: Sequence[Strip]) -> bytes:
    """Draw strips one below the other.

    Returns:
        A PNG, the same bytes for the same pictures.
    """
    width, height = max(strip.width_in for strip in strips), sum(strip.height_in for strip in strips)
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), facecolor="white")
        top = height
        for strip in strips:
            _draw(figure, strip, top)
            top -= strip.height_in
        return png_of(figure)


def png_of(figure: Figure) -> bytes:
    """Encode a figure, without date and program name."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _draw(figure: Figure, strip: Strip, top: float) -> None:
    width, height = figure.get_size_inches()
    first_row = top - strip.head_in
    for index, title in enumerate(strip.rows):
        middle = first_row - (index + 0.5) * CELL_IN
        figure.text((LABEL_IN - 0.1) / width, middle / height, title, ha="right", va="center")
    left = LABEL_IN
    for block in strip.blocks:
        columns = len(block.rows[0])
        across, down = columns * CELL_IN, len(block.rows) * CELL_IN
        axes = figure.add_axes((left / width, (first_row - down) / height, across / width, down / height))
        axes.set_axis_off()
        pictures = to_uint8(torch.cat([thumbnails(row.float().cpu()) for row in block.rows]))
        drawn = grid(pictures, columns, gap_px=1).expand(3, -1, -1).permute(1, 2, 0)
        axes.imshow(drawn.numpy(), interpolation="nearest", aspect="auto")
        figure.text(left / width, (top - 0.06) / height, block.title, ha="left", va="top", weight="bold")
        for index, title in enumerate(block.columns):
            place = (left + (index + 0.5) * CELL_IN) / width
            figure.text(place, (first_row + 0.04) / height, title, ha="center", va="bottom", size=8)
        left += across + GAP_IN
