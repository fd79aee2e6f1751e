"""The first noises of every cell as pictures, the same noises below each other: small, so that many cells fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from baddiffusion.errors import BadDiffusionError
from baddiffusion.report.kit.pictures import THUMBNAIL_PX, sheet_uri
from baddiffusion.report.kit.settings_words import settings_words
from baddiffusion.report.run.reading import SampleFolder
from baddiffusion.report.sweep.comparison import Row
from baddiffusion.report.sweep.findings import fired_in

__all__ = ["SHOWN", "Strip", "strips"]

SHOWN = 8
"""Noises per strip."""
BUDGET_BYTES, SMALLEST_PX, BASE64 = 2_600_000, 24, 4 / 3
"""What all strips of a page may take, if every pixel took its full bytes."""


@dataclass(frozen=True)
class Strip:
    """The pictures of one setting, from its first finished seed.

    Args:
        title: the setting.
        state: of its row.
        counted: how often the backdoor fired among all noises.
        clean, triggered: data-URIs; empty where nothing was sampled.
        shown: how many pictures each has.
    """

    title: str
    state: str
    counted: str
    clean: str
    triggered: str
    shown: int


def strips(rows: Sequence[Row]) -> list[Strip]:
    """Draw the samples of every row that has any, shrunk if all together would make the page heavy."""
    found = [(row, *_samples(row)) for row in rows]
    sides = [samples for _, *pair in found for samples in pair if samples is not None]
    if not sides:
        return []
    channels = sides[0].images.shape[1]
    fitting = math.isqrt(int(BUDGET_BYTES / BASE64 / (len(sides) * SHOWN * channels)))
    most_px = min(THUMBNAIL_PX, max(SMALLEST_PX, fitting))
    drawn = []
    for row, clean, triggered in found:
        if triggered is not None:
            uris = [sheet_uri(s.images[:SHOWN], SHOWN, most_px) if s else "" for s in (clean, triggered)]
            counted = fired_in(row.success) if row.success else ""
            shown = min(SHOWN, len(triggered.images))
            drawn.append(Strip(settings_words(row.settings), row.state, counted, uris[0], uris[1], shown))
    return drawn


def _samples(row: Row) -> tuple[SampleFolder | None, SampleFolder | None]:
    """Clean and triggered samples of the first seed whose files are still what they were."""
    for cell in row.cells:
        if cell.files is None or cell.status != "done":
            continue
        try:
            triggered = next(iter(cell.files.triggered), None)
            clean = cell.files.clean
            beside = clean if clean and triggered and clean.label == triggered.label else None
            if triggered is not None and len(triggered.images):
                return beside, triggered
        except BadDiffusionError:
            continue
    return None, None
