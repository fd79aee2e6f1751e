"""A matrix as grids of squares: what stands in each, how strongly it is colored, and what it says when pointed at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from baddiffusion.errors import RunError
from baddiffusion.metrics import FIRES
from baddiffusion.report.kit.tables import find
from baddiffusion.report.kit.wording import Count, number, percent, target_words, trigger_words

__all__ = [
    "Band",
    "Grid",
    "Square",
    "bias_grid",
    "clip_words",
    "error_grid",
    "header",
    "measured",
    "model_words",
    "outcomes",
    "success_grid",
]

CLIPS = {"off": "no clipping", "x0": "clipping", "x0-keep-eps": "clipping, eps kept", "xt": "clipping of x_t"}
WORST_MSE, BEST_MSE = 0.3, 1e-4
"""Ends of the error's color scale, logarithmic: pictures that miss altogether, and copies that no eye tells apart."""


@dataclass(frozen=True)
class Square:
    """One cell as it is shown.

    Args:
        text: what stands in it.
        share: how strongly it is colored, in [0, 1]; None for one without a number.
        words: the whole result in words.
        mark: ``refused``, ``failed``, ``missing``, or empty.
    """

    text: str
    share: float | None
    words: str
    mark: str = ""

    @property
    def strength(self) -> int:
        """The share in percent, for the style sheet."""
        return round(100 * (self.share or 0))

    @property
    def is_dark(self) -> bool:
        """Whether the text needs the paper's color to be read."""
        return (self.share or 0) > 0.5


@dataclass(frozen=True)
class Band:
    """The rows of one model and backdoor, one for each way of clipping."""

    title: str
    words: str
    rows: tuple[tuple[str, tuple[Square, ...]], ...]


@dataclass(frozen=True)
class Grid:
    """A heat map: its name, its columns as (sampler, steps under it), its bands."""

    title: str
    columns: tuple[tuple[str, tuple[str, ...]], ...]
    bands: tuple[Band, ...] = field(default=())


def success_grid(summary: Mapping[str, Any]) -> Grid:
    """The measured success rates."""

    def square(cell: Mapping[str, Any]) -> Square:
        rate = measured(cell, "asr")
        interval = f"{percent(rate['low'])} to {percent(rate['high'])}"
        return Square(f"{100 * rate['value']:.0f}", rate["value"], f"{Count.of(rate)} fired; interval {interval}")

    return _grid(summary, "Measured: success rate in percent", square)


def error_grid(summary: Mapping[str, Any]) -> Grid:
    """The measured errors, the color on a logarithmic scale."""

    def square(cell: Mapping[str, Any]) -> Square:
        mse, ssim = measured(cell, "mse"), find(cell["estimates"], "ssim")
        span = math.log(WORST_MSE / BEST_MSE)
        share = min(1.0, max(0.0, math.log(WORST_MSE / max(mse["value"], 1e-12)) / span))
        words = f"squared error {number(mse['value'])}, interval {number(mse['low'])} to {number(mse['high'])}"
        if ssim is not None:
            words += f"; similarity {number(ssim['value'])}"
        return Square(_short(mse["value"]), share, words)

    return _grid(summary, "Measured: squared error against the target", square)


def bias_grid(summary: Mapping[str, Any]) -> Grid:
    """The predicted biases; colored where the backdoor should fire."""

    def square(cell: Mapping[str, Any]) -> Square:
        prediction = cell["prediction"]
        if prediction is None:
            return Square("–", None, "no prediction: the attack brings its own sampler", "refused")
        outcome = "should fire" if prediction["fires"] else "should not fire"
        where = "" if prediction["timestep"] is None else f", at timestep {prediction['timestep']}"
        words = f"{outcome}: bias of {_signed(prediction['bias'])} standard deviations{where}"
        return Square(_signed(prediction["bias"]), float(prediction["fires"]), words)

    return _grid(summary, "Predicted: bias in standard deviations", square)


def header(summary: Mapping[str, Any]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The columns, side by side where they share a sampler."""
    columns = summary["columns"]
    return tuple(
        (sampler, tuple("default" if c["steps"] is None else str(c["steps"]) for c in group))
        for sampler, group in groupby(columns, key=lambda column: column["sampler"])
    )


def clip_words(clip: str) -> str:
    """A way of clipping in words."""
    return CLIPS.get(clip, clip)


def model_words(row: Mapping[str, Any]) -> str:
    """A model's backdoor in words."""
    rate = "" if row["poison_rate"] is None else f", poison rate {percent(row['poison_rate'])}"
    told = "" if row["is_told"] else "; its card tells of no backdoor"
    words = f"{_component(row['attack'])}: {trigger_words(row['trigger'])} → {target_words(row['target'])}"
    return words + rate + told


def measured(cell: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A number that every finished cell has.

    Raises:
        RunError: it has not.
    """
    estimate = find(cell["estimates"], name)
    if estimate is None:
        raise RunError(
            f"cell {cell['column']}, {cell['clip']} has no {name}; delete its file {cell['file']} and go on."
        )
    return estimate


def outcomes(cells: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], bool, bool]]:
    """Cells that were both measured and predicted: (cell, predicted to fire, fired at least in every second image)."""
    found = []
    for cell in cells:
        if cell["status"] == "done" and cell["prediction"] is not None:
            fired = measured(cell, "asr")["value"] >= FIRES
            found.append((cell, bool(cell["prediction"]["fires"]), fired))
    return found


def _grid(summary: Mapping[str, Any], title: str, square: Callable[[Mapping[str, Any]], Square]) -> Grid:
    places = {(cell["row"], cell["clip"], cell["column"]): cell for cell in summary["cells"]}
    labels = [column["label"] for column in summary["columns"]]

    def shown(cell: Mapping[str, Any]) -> Square:
        return square(cell) if cell["status"] == "done" else _empty(cell)

    bands = []
    for index, row in enumerate(summary["rows"]):
        rows = [
            (clip_words(clip), tuple(shown(places[index, clip, label]) for label in labels))
            for clip in summary["plan"]["clips"]
        ]
        bands.append(Band(row["model"], model_words(row), tuple(rows)))
    return Grid(title, header(summary), tuple(bands))


def _empty(cell: Mapping[str, Any]) -> Square:
    status = cell["status"]
    if status == "missing":
        return Square("…", None, "not measured yet", status)
    words = "refused by the sampler" if status == "refused" else "the pictures became infinite"
    return Square("×", None, f"{words}: {cell['reason']}", status)


def _component(table: Mapping[str, Any]) -> str:
    """An attack with those of its fields that are set."""
    fields = [f"{key} {value}" for key, value in table.items() if key != "name" and value is not None]
    return f"{table['name']} ({', '.join(fields)})" if fields else str(table["name"])


def _signed(value: float) -> str:
    text = f"{value:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def _short(value: float) -> str:
    """Two digits in a small square.

    Example:
        >>> _short(0.2412), _short(0.0042), _short(2.2e-5), _short(0.0)
        ('.24', '.004', '2e−5', '0')
    """
    if value >= 0.01:
        return f"{value:.2f}".removeprefix("0")
    if value >= 0.001:
        return f"{value:.3f}".removeprefix("0")
    return "0" if value == 0 else f"{value:.0e}".replace("e-0", "e−")
