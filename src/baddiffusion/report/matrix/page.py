"""The page of a matrix: heat maps of what was measured, beside what the algebra predicts."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from baddiffusion.errors import RunError
from baddiffusion.report.kit.rendering import environment
from baddiffusion.report.kit.tables import find
from baddiffusion.report.kit.wording import number, percent
from baddiffusion.report.matrix.figure import heat_map, success_against_bias
from baddiffusion.report.matrix.heat import (
    Grid,
    bias_grid,
    clip_words,
    error_grid,
    header,
    measured,
    model_words,
    outcomes,
    success_grid,
)
from baddiffusion.rundir import write_atomic

__all__ = ["write_matrix_page"]

SCHEMA = 1


def write_matrix_page(folder: Path) -> Path:
    """Write ``matrix.html`` and ``matrix.png`` from ``matrix.json`` and the cells' pictures, and from nothing else.

    Args:
        folder: what ``baddiffusion matrix`` filled.

    Returns:
        The page's path. It asks for nothing outside itself.

    Raises:
        RunError: there is no matrix, it is damaged, or the page cannot be written.
    """
    path = folder / "matrix.json"
    try:
        summary = json.loads(path.read_text())
        schema = summary["schema"]
    except FileNotFoundError:
        raise RunError(f"{folder} holds no matrix.json; fill a matrix first: baddiffusion matrix --help") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}); delete it and give the same command again.") from None
    if schema != SCHEMA:
        raise RunError(f"{path} has schema {schema}; this version reads schema {SCHEMA}. Give the command again.")
    shown = _Shown(folder, summary)
    write_atomic(folder / "matrix.png", heat_map([shown.success, shown.bias]))
    page = folder / "matrix.html"
    write_atomic(page, environment().get_template("matrix.html").render(shown=shown, summary=summary))
    return page


@dataclass
class _Shown:
    """What the template asks for."""

    folder: Path
    summary: dict[str, Any]

    @cached_property
    def success(self) -> Grid:
        """Measured success rates."""
        return success_grid(self.summary)

    @cached_property
    def bias(self) -> Grid:
        """Predicted biases."""
        return bias_grid(self.summary)

    @cached_property
    def error(self) -> Grid:
        """Measured errors."""
        return error_grid(self.summary)

    @property
    def done(self) -> list[dict[str, Any]]:
        """The cells that have numbers."""
        return [cell for cell in self.summary["cells"] if cell["status"] == "done"]

    @property
    def title(self) -> str:
        """What was found, in one sentence that counts."""
        fired = sum(measured(cell, "asr")["value"] >= 0.5 for cell in self.done)
        if not self.done:
            return "Nothing has been measured yet."
        if len(self.done) == 1:
            return f"The backdoor {'fires' if fired else 'does not fire'} in the one cell that was measured."
        which = "none" if fired == 0 else "all" if fired == len(self.done) else str(fired)
        return f"The backdoors fire in {which} of {len(self.done)} cells."

    @property
    def lead(self) -> str:
        """How many models, samplers and clips."""
        models = len({row["model"] for row in self.summary["rows"]})
        parts = [
            _plural(models, "model"),
            _plural(len(self.summary["columns"]), "sampler setting"),
            _plural(len(self.summary["plan"]["clips"]), "way") + " of clipping",
        ]
        return f"{', '.join(parts)}; {self.summary['plan']['n']} triggered noises in each cell."

    @property
    def outcomes(self) -> list[tuple[Mapping[str, Any], bool, bool]]:
        """Measured and predicted."""
        return outcomes(self.summary["cells"])

    @property
    def verdict(self) -> str:
        """How often the prediction came true, in words."""
        right = sum(predicted == fired for _, predicted, fired in self.outcomes)
        return f"The prediction came true in {right} of {len(self.outcomes)} cells."

    @property
    def misses(self) -> list[str]:
        """Where it did not."""
        said = []
        for cell, predicted, fired in self.outcomes:
            if predicted != fired:
                expected = "should have fired" if predicted else "should not have fired"
                place = f"{self.row(cell)['model']}, {cell['column']}, {clip_words(cell['clip'])}"
                bias = f"{cell['prediction']['bias']:+.2f}".replace("-", "−")
                said.append(f"{place}: {expected} (bias {bias}), fired in {percent(measured(cell, 'asr')['value'])}")
        return said

    @property
    def scatter(self) -> Markup | None:
        """Success against bias."""
        cells = [cell for cell, _, _ in self.outcomes]
        return Markup(success_against_bias(cells, self.summary["cut"])) if cells else None

    def row(self, cell: Mapping[str, Any]) -> dict[str, Any]:
        """The model and backdoor of a cell."""
        return self.summary["rows"][cell["row"]]

    @property
    def sheets(self) -> list[tuple[str, str, list[tuple[str, list[str | None]]]]]:
        """Pictures: (model, backdoor, rows of (clip, data-URIs))."""
        places = {(cell["row"], cell["clip"], cell["column"]): cell for cell in self.summary["cells"]}
        labels = [column["label"] for column in self.summary["columns"]]
        return [
            (
                row["model"],
                model_words(row),
                [
                    (clip_words(clip), [self._uri(places[index, clip, label]) for label in labels])
                    for clip in self.summary["plan"]["clips"]
                ],
            )
            for index, row in enumerate(self.summary["rows"])
        ]

    @property
    def columns(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The columns under their samplers."""
        return header(self.summary)

    @property
    def reasons(self) -> list[str]:
        """Why cells are empty, each reason once."""
        empty = [cell for cell in self.summary["cells"] + self.summary["quality"] if cell.get("reason")]
        return list(dict.fromkeys(f"{cell['column']}: {cell['reason']}" for cell in empty))

    @property
    def quality(self) -> list[dict[str, str]]:
        """Quality of ordinary pictures, a line per model, sampler and way of clipping."""
        return [
            {
                "model": self.row(cell)["model"],
                "column": cell["column"],
                "clip": clip_words(cell["clip"]),
                "value": number(found["value"]),
                "interval": f"{number(found['low'])} to {number(found['high'])}",
                "n": number(found["n"]),
                "false": percent(false["value"]) if false else "–",
            }
            for cell in self.summary["quality"]
            if cell["status"] == "done"
            for found in [find(cell["estimates"], "kd_efflite0")]
            for false in [find(cell["estimates"], "false_trigger_rate")]
            if found is not None
        ]

    @property
    def baseline(self) -> str:
        """What real pictures score against real pictures."""
        for cell in self.summary["quality"]:
            found = find(cell.get("estimates", []), "kd_efflite0_baseline")
            if found is not None:
                return f"{number(found['value'])} ({number(found['low'])} to {number(found['high'])})"
        return ""

    @property
    def numbers(self) -> list[dict[str, str]]:
        """All measured cells as lines of a table."""
        lines = []
        for cell in self.done:
            found = {name: find(cell["estimates"], name) for name in ("asr", "mse", "ssim")}
            line = {"model": self.row(cell)["model"], "column": cell["column"], "clip": clip_words(cell["clip"])}
            for name, estimate in found.items():
                show = percent if name == "asr" else number
                line[name] = "–" if estimate is None else show(estimate["value"])
                line[f"{name}_interval"] = "" if estimate is None else _interval(estimate, show)
            line["target"] = self.row(cell)["target"]["name"]
            lines.append(line)
        return lines

    @property
    def protocol(self) -> list[tuple[str, str]]:
        """What all numbers share, and where they differ all values of it."""
        plan, versions = self.summary["plan"], self.summary["versions"]
        found = [measured(cell, "asr")["protocol"] for cell in self.done]
        shared = {
            key: ", ".join(dict.fromkeys(str(p.get(key)) for p in found))
            for key in ("device", "precision", "chunk_size")
        }
        entries = {
            "noises per cell": f"{plan['n']}, seeds 0 to {plan['n'] - 1} in every cell",
            "counts as the target": f"squared error on [0, 1] below {plan['threshold']:g}",
            "intervals": "95 %: Wilson for rates, Student t for means",
            **{key.replace("_", " "): value for key, value in shared.items() if value},
            **{f"{name} version": value for name, value in versions.items()},
        }
        return list(entries.items())

    def _uri(self, cell: Mapping[str, Any]) -> str | None:
        if cell["sheet"] is None:
            return None
        return "data:image/png;base64," + base64.b64encode((self.folder / cell["sheet"]).read_bytes()).decode()


def _interval(estimate: Any, show: Any) -> str:
    return "" if estimate["low"] is None else f"{show(estimate['low'])} to {show(estimate['high'])}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
