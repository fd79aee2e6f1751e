"""The page of one run: what the files say, put in the order in which a stranger asks."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from baddiffusion.report.figures import Mark, error_scale, loss_curves, success_curves
from baddiffusion.report.pictures import Row, bands, data_uri, sheet_uri
from baddiffusion.report.reading import RunFiles, SampleFolder
from baddiffusion.report.tables import find, groups
from baddiffusion.report.wording import (
    Count,
    clip_words,
    data_words,
    headline,
    number,
    percent,
    target_words,
    trigger_words,
)
from baddiffusion.rundir import write_atomic

__all__ = ["write_report"]

SHOWN, FOLDED = 32, 128
"""Noises shown at once, and at most, the rest behind a fold: a page of 32 stays far below 1.5 MB."""


def write_report(run_path: Path) -> Path:
    """Write ``report.html`` into a run directory, from the run's files alone.

    A stage that is not finished is shown as not done yet, so the report of a run that is under way, or that was
    interrupted, can be written and read at any time.

    Args:
        run_path: a folder that ``baddiffusion run`` made.

    Returns:
        The page's path. It asks for nothing outside itself: no script, no font, no picture.

    Raises:
        RunError: the folder is no run, a file of it is damaged or was changed since, or the page cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("baddiffusion.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent}
    page = Path(run_path) / "report.html"
    write_atomic(page, environment.get_template("page.html").render(run=_Story(RunFiles(Path(run_path)))))
    return page


class _Story:
    """What the template says, each part None or empty where the run has not come so far."""

    def __init__(self, files: RunFiles) -> None:
        self.files = files
        self.recipe = files.recipe
        self.record = files.record
        self.target = target_words(self.recipe["target"])
        self.trigger = trigger_words(self.recipe["trigger"])
        self.data = data_words(self.recipe["data"])
        self.threshold: float = self.recipe["evaluation"]["asr_threshold"]
        self.is_poisoned = self.recipe["poison"]["rate"] > 0 and self.recipe["attack"]["name"] != "clean"

    @cached_property
    def estimates(self) -> list[dict[str, Any]]:
        return self.files.results["estimates"] if self.files.results else []

    @property
    def is_trained(self) -> bool:
        return self.files.is_done("train")

    @property
    def is_measured(self) -> bool:
        return self.files.results is not None

    @cached_property
    def attack(self) -> SampleFolder | None:
        """The triggered samples that the headline is about."""
        return next(iter(self.files.triggered), None)

    @cached_property
    def clipped(self) -> SampleFolder | None:
        """The first triggered set that was sampled with clipping."""
        return next((s for s in self.files.triggered if s.clip != "off"), None)

    def count(self, samples: SampleFolder | None) -> Count | None:
        """How many of these became the target, as measured."""
        if samples is None:
            return None
        name = "false_trigger_rate" if samples.kind == "clean" else "asr"
        estimate = find(self.estimates, name, samples.kind, samples.clip)
        return Count.of(estimate) if estimate else None

    @property
    def title(self) -> str:
        triggered = self.count(self.attack)
        if triggered is not None:
            return headline(triggered, self.count(self.files.clean), self.target, self.is_poisoned)
        if self.files.triggered or self.files.clean:
            return "Pictures have been sampled; nothing has been measured yet."
        if self.is_trained:
            model = "A backdoored model" if self.is_poisoned else "A control model without a backdoor"
            return f"{model} has been trained; nothing has been sampled yet."
        return "This run has begun; its training is not done yet."

    @cached_property
    def network(self) -> str:
        """The network in words, as far as its files are there."""
        config, parameters = self.files.unet_config, self.files.parameters
        if config is None:
            return "a diffusion network"
        size = f"{parameters / 1e6:.3g} M-parameter " if parameters else ""
        color = {1: "grey", 3: "color"}.get(config["in_channels"], f"{config['in_channels']}-channel")
        side = config["sample_size"]
        return f"{_article(size)} {size}diffusion network for {side}×{side} {color} images"

    @cached_property
    def pictures(self) -> dict[str, str]:
        """Trigger and target as data-URIs."""
        drawn = {name: self.files.picture(f"{name}.png") for name in ("trigger", "target")}
        return {name: sheet_uri(picture, 1) for name, picture in drawn.items() if picture is not None}

    @cached_property
    def rows(self) -> list[Row]:
        """The same noises, sampled in every way."""
        rows = []
        if self.files.clean:
            rows.append(self._row("clean", "noise alone", self.files.clean))
        for samples in self.files.triggered:
            if samples.label == self.attack.label or samples.clip != "off":
                key = "triggered" if samples.clip == "off" else "clipped"
                title = "noise + trigger" + ("" if samples.clip == "off" else f", {clip_words(samples.clip)}")
                rows.append(self._row(key, title, samples))
        return rows

    @cached_property
    def bands(self) -> Any:
        """The key picture: bands to show at once, and bands behind a fold."""
        cut = bands(self.rows, FOLDED)
        return {"shown": cut[: SHOWN // 8], "folded": cut[SHOWN // 8 :]}

    @property
    def has_marks(self) -> bool:
        return any(row.hits and any(row.hits) for row in self.rows)

    def _row(self, key: str, title: str, samples: SampleFolder) -> Row:
        return Row(key, title, samples.images, self._hits(samples))

    def _hits(self, samples: SampleFolder) -> list[bool] | None:
        """Which pictures count as the target; None unless they add up to the measured rate."""
        measured, errors = self.count(samples), self.files.squared_errors(samples.images)
        if measured is None or errors is None:
            return None
        hits = (errors < self.threshold).tolist()
        return hits if (sum(hits), len(hits)) == (measured.hits, measured.n) else None

    @cached_property
    def comparison(self) -> list[dict[str, Any]]:
        """The two columns of the section on clipping."""
        if self.attack is None or self.clipped is None:
            return []
        return [
            {
                "key": "triggered" if samples.clip == "off" else "clipped",
                "title": "Without clipping" if samples.clip == "off" else "With clipping",
                "uri": sheet_uri(samples.images[:16], 8),
                "shown": min(16, len(samples.images)),
                "count": self.count(samples),
                "mse": find(self.estimates, "mse", "triggered", samples.clip),
            }
            for samples in (self.attack, self.clipped)
        ]

    @property
    def groups(self) -> Any:
        return groups(self.estimates)

    @property
    def failure(self) -> float | None:
        """What an all-black picture scores against the target."""
        estimate = find(self.estimates, "failure_level")
        return estimate["value"] if estimate else None

    @cached_property
    def scale(self) -> Markup | None:
        """The measured errors on one line."""
        marks = []
        for key, title, samples in (
            ("triggered", "with the trigger", self.attack),
            ("clipped", "with the trigger, clipped", self.clipped),
        ):
            estimate = find(self.estimates, "mse", "triggered", samples.clip) if samples else None
            if estimate:
                marks.append(Mark(key, title, estimate["value"], estimate["low"], estimate["high"]))
        floor = find(self.estimates, "quantization_floor")
        if not marks:
            return None
        return Markup(error_scale(marks, floor["value"] if floor else None, self.threshold, self.failure))

    @cached_property
    def curves(self) -> list[tuple[str, Any]]:
        """(color key, points) of each way of sampling, at most one per color."""
        found: dict[str, Any] = {}
        for curve in self.files.results["asr_curves"] if self.files.results else []:
            key = "clean" if "clean" in curve["label"] else "triggered" if curve["clip"] == "off" else "clipped"
            found.setdefault(key, curve["points"])
        return list(found.items())

    @property
    def success(self) -> Markup | None:
        return Markup(success_curves(self.curves, self.threshold)) if self.curves else None

    @property
    def loss(self) -> Markup | None:
        return Markup(loss_curves(self.files.events)) if len(self.files.events) > 1 else None

    @property
    def acceptance(self) -> str | None:
        return self.files.results["acceptance"]["text"] if self.files.results else None

    @property
    def progress(self) -> str:
        """How far an unfinished training came."""
        if not self.files.events:
            return ""
        last = self.files.events[-1]
        return f" It stands at step {number(last['step'])} of {number(last['total'])}."

    @property
    def command(self) -> str:
        return shlex.join(self.record["argv"])

    @property
    def recipe_uri(self) -> str:
        return "data:application/toml;base64," + base64.b64encode(self.files.recipe_toml.encode()).decode()

    @property
    def circumstances(self) -> list[tuple[str, str]]:
        """Under what the numbers were made."""
        record, protocol = self.record, self.attack.record if self.attack else {}
        entries: Mapping[str, Any] = {
            "started": record["started"],
            "status": record["status"],
            "device": record.get("device"),
            "git commit": record.get("git_commit"),
            "recipe hash": record["identity"],
            "training seed": self.recipe["seed"],
            "noise seeds": f"0 to {len(self.attack.images) - 1}" if self.attack else None,
            "sampler": protocol.get("scheduler_class"),
            "steps": protocol.get("num_inference_steps"),
            "chunk size": protocol.get("chunk_size"),
            "precision": protocol.get("precision"),
        }
        return [(name, str(value)) for name, value in entries.items() if value is not None]

    @property
    def elapsed(self) -> list[tuple[str, str]]:
        stages = self.record["stages"].items()
        return [(name.replace("sample:samples/", "sample "), f"{entry['elapsed_s']:.0f} s") for name, entry in stages]


def _article(text: str) -> str:
    return "an" if text.startswith(("8", "11", "18")) and not text.startswith(("110", "180", "1.")) else "a"
