"""The page of one run: its pictures, numbers and curves, put in the order in which a stranger asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from baddiffusion.images import to_uint8
from baddiffusion.metrics import mse_per_image
from baddiffusion.report.kit.figures import Mark, error_scale, loss_curves, success_curves
from baddiffusion.report.kit.pictures import BAND, Band, Row, bands, sheet_uri
from baddiffusion.report.kit.rendering import environment
from baddiffusion.report.kit.tables import Group, find, groups
from baddiffusion.report.kit.wording import comparison_words, number, percent, row_words
from baddiffusion.report.run.reading import RunFiles, SampleFolder
from baddiffusion.report.run.scanned import Scanned, scan_of
from baddiffusion.report.run.story import Story
from baddiffusion.rundir import write_atomic

__all__ = ["write_report"]

SHOWN, FOLDED = 32, 128
"""Noises shown at once, and at most, the rest behind a fold: a page of 32 stays far below 1.5 MB."""
FURTHER = ("series-4", "series-5", "series-6")
"""Colors of the second to fourth trigger: those that look like none of the first one's lines."""
COMPARED = 16
"""Noises that stand for each side where clipping is compared."""


def write_report(run_path: Path, output: Path | None = None) -> Path:
    """Write ``report.html`` into a run directory, from the run's files alone.

    A stage that is not finished is shown as not done yet, so the report of a run that is under way, or that was
    interrupted, can be written and read at any time.

    Args:
        run_path: a folder that ``baddiffusion run`` made.
        output: write the page there.

    Returns:
        The page's path. It asks for nothing outside itself: no script, no font, no picture.

    Raises:
        RunError: the folder is no run, a file of it is damaged or was changed since, or the page cannot be written.
    """
    files = RunFiles(Path(run_path))
    story = Story(files)
    page = output or files.path / "report.html"
    text = environment().get_template("page.html").render(run=files, story=story, shown=_Shown(files, story))
    write_atomic(page, text)
    return page


@dataclass
class _Shown:
    """Pictures, tables and curves, each empty where the run has not come so far."""

    files: RunFiles
    story: Story

    @cached_property
    def pictures(self) -> dict[str, str]:
        """Trigger and target as data-URIs."""
        drawn = {name: self.files.picture(f"{name}.png") for name in ("trigger", "target")}
        return {name: sheet_uri(picture, 1) for name, picture in drawn.items() if picture is not None}

    @cached_property
    def rows(self) -> list[Row]:
        """The same noises, sampled in every way."""
        sets = ([self.files.clean] if self.files.clean else []) + list(self.files.triggered + self.files.further)
        return [Row(_key(s), *row_words(s.kind, s.clip), s.images, self._hits(s)) for s in sets]

    @cached_property
    def bands(self) -> tuple[list[Band], list[Band]]:
        """The key picture: bands to show at once, and bands behind a fold."""
        cut = bands(self.rows, FOLDED)
        return cut[: SHOWN // BAND], cut[SHOWN // BAND :]

    @property
    def has_hits(self) -> bool:
        """Whether any picture is marked as the target."""
        return any(any(row.hits) for row in self.rows)

    def _hits(self, samples: SampleFolder) -> Sequence[bool]:
        """Which pictures count as the target; none unless they add up to the measured rate."""
        number = samples.kind.removeprefix("triggered") if samples.kind.startswith("triggered") else ""
        measured, target = self.story.count(samples), self.files.picture(f"target{number}.png")
        if measured is None or target is None:
            return ()
        hits = (mse_per_image(to_uint8(samples.images), target[0]) < self.story.threshold).tolist()
        return hits if (sum(hits), len(hits)) == (measured.hits, measured.n) else ()

    @cached_property
    def scan(self) -> Scanned | None:
        """What a scan said about the model; None where there was none."""
        return scan_of(self.files.path) if self.files.is_done("train") else None

    @property
    def comparison(self) -> list[dict[str, Any]]:
        """The two columns of the section on clipping."""
        attack, clipped = self.story.attack, self.story.clipped
        if attack is None or clipped is None or attack is clipped:
            return []
        return [
            {
                "key": _key(samples),
                "title": title,
                "uri": sheet_uri(samples.images[:COMPARED], columns=BAND),
                "shown": min(COMPARED, len(samples.images)),
                "count": self.story.count(samples),
                "mse": self.story.estimate("mse", samples),
            }
            for title, samples in (("Without clipping", attack), ("With clipping", clipped))
        ]

    @property
    def groups(self) -> list[Group]:
        """The table of numbers."""
        return groups(self.story.estimates)

    @property
    def level(self) -> str:
        """The confidence level of the intervals, if it is the same for all."""
        return _level(self.story.estimates)

    @property
    def comparisons(self) -> list[tuple[str, list[Group], str]]:
        """Numbers against real pictures, for each reference: how they were made in words, their table, their level."""
        return [(comparison_words(kept), groups(kept), _level(kept)) for kept in self.files.comparisons]

    @property
    def failure(self) -> float | None:
        """What an all-black picture scores against the target."""
        return self._reference("failure_mse")

    @property
    def scale(self) -> Markup | None:
        """The measured errors on one line."""
        named = (("with the trigger", self.story.attack), ("with the trigger, clipped", self.story.clipped))
        found = [(name, samples, self.story.estimate("mse", samples)) for name, samples in named if samples]
        marks = [Mark(_key(s), name, e["value"], e["low"], e["high"]) for name, s, e in found if e]
        if not marks:
            return None
        floor = self._reference("quantization_floor")
        return Markup(error_scale(marks, floor, self.story.threshold, self.failure))

    def _reference(self, name: str) -> float | None:
        estimate = find(self.story.estimates, name)
        return estimate["value"] if estimate else None

    @cached_property
    def curves(self) -> list[tuple[str, Any]]:
        """(color key, points) of each way of sampling, one per color; of further backdoors the unclipped one."""
        found: dict[str, Any] = {}
        for curve in self.files.results["asr_curves"] if self.files.results else []:
            kind, _, number = curve["kind"].partition("-")
            key = "clean" if kind == "clean" else "triggered" if curve["clip"] == "off" else "clipped"
            if number and (curve["clip"] != "off" or int(number) - 2 >= len(FURTHER)):
                continue
            found.setdefault(FURTHER[int(number) - 2] if number else key, curve["points"])
        return list(found.items())

    @property
    def success(self) -> Markup | None:
        """Success against the threshold."""
        return Markup(success_curves(self.curves, self.story.threshold)) if self.curves else None

    @property
    def loss(self) -> Markup | None:
        """The training curves."""
        return Markup(loss_curves(self.files.events)) if len(self.files.events) > 1 else None

    @property
    def curve_names(self) -> list[tuple[str, str]]:
        """Legend of the success curves."""
        names = {"triggered": "with the trigger", "clipped": "with the trigger, clipped", "clean": "noise alone"}
        names |= {key: f"with trigger {number}" for number, key in enumerate(FURTHER, start=2)}
        return [(key, names[key]) for key, _ in self.curves]

    @property
    def loss_names(self) -> list[tuple[str, str]]:
        """Legend of the loss curves."""
        fields = (("clean", "loss_clean", "ordinary pictures"), ("triggered", "loss_poisoned", "poisoned pictures"))
        return [(key, name) for key, field, name in fields if any(e[field] is not None for e in self.files.events)]

    @property
    def success_words(self) -> str:
        """The success curves for somebody who cannot see them."""
        ends = [
            f"{name}: {percent(points[0][1])} at {points[0][0]:g}, {percent(points[-1][1])} at {points[-1][0]:g}"
            for (_, points), (_, name) in zip(self.curves, self.curve_names, strict=True)
        ]
        return f"Share of pictures that count as the target against the threshold. {'. '.join(ends)}."

    @property
    def loss_words(self) -> str:
        """The loss curves for somebody who cannot see them."""
        first, last = self.files.events[0], self.files.events[-1]
        fields = {"clean": "loss_clean", "triggered": "loss_poisoned"}
        ends = [
            f"{name}: from {number(first[fields[key]])} to {number(last[fields[key]])}" for key, name in self.loss_names
        ]
        return f"Training loss over {number(last['step'])} steps. {'. '.join(ends)}."


def _level(estimates: Sequence[Mapping[str, Any]]) -> str:
    levels = {e["level"] for e in estimates if e["low"] is not None}
    return percent(levels.pop()) if len(levels) == 1 else ""


def _key(samples: SampleFolder) -> str:
    """The color of a set: clipping is what makes the difference among triggered ones."""
    if not samples.kind.startswith("triggered"):
        return "clean"
    return "triggered" if samples.clip == "off" else "clipped"
