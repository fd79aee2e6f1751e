"""What happened in a run, in words that are built from its files; nothing is claimed that was not measured."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from baddiffusion.report.kit.tables import find
from baddiffusion.report.kit.wording import (
    Count,
    clipping_effect,
    data_words,
    headline,
    network_words,
    number,
    percent,
    target_words,
    trigger_words,
)
from baddiffusion.report.run.reading import RunFiles, SampleFolder

__all__ = ["Story"]


class Story:
    """A run told to a stranger; each part is empty where the run has not come so far."""

    def __init__(self, files: RunFiles) -> None:
        self.files = files
        recipe = files.recipe
        first = files.backdoors[0]
        self.target = target_words(first["target"])
        self.trigger = trigger_words(first["trigger"])
        self.data = data_words(recipe["data"])
        self.threshold: float = recipe["evaluation"]["asr_threshold"]
        self.is_poisoned: bool = first["rate"] > 0 and first["attack"] != "clean"

    @cached_property
    def estimates(self) -> list[dict[str, Any]]:
        """The measured numbers; none before the evaluation is done."""
        return self.files.results["estimates"] if self.files.results else []

    @property
    def attack(self) -> SampleFolder | None:
        """The triggered samples that the headline is about: the first of the recipe's ``sampling.clips``."""
        return next(iter(self.files.triggered), None)

    @property
    def clipped(self) -> SampleFolder | None:
        """The first triggered samples that were made with clipping."""
        return next((s for s in self.files.triggered if s.clip != "off"), None)

    def estimate(self, name: str, samples: SampleFolder | None) -> Mapping[str, Any] | None:
        """The number of that name that was measured on these very samples."""
        if samples is None:
            return None
        record = samples.record
        made = {"sampler": record["sampler"]["name"], "steps": record["num_inference_steps"]}
        return find(self.estimates, name, samples.kind, samples.clip, **made)

    def count(self, samples: SampleFolder | None) -> Count | None:
        """How many of these samples became the target, as measured."""
        name = "false_trigger_rate" if samples and samples.kind == "clean" else "asr"
        estimate = self.estimate(name, samples)
        return Count.of(estimate) if estimate else None

    @property
    def title(self) -> str:
        """What happened, in one or two sentences."""
        triggered = self.count(self.attack)
        if triggered is not None:
            return headline(triggered, self.count(self.files.clean), self.target, self.is_poisoned)
        if self.files.triggered or self.files.clean:
            return "Pictures have been sampled; nothing has been measured yet."
        if self.files.is_done("train"):
            model = "A backdoored model" if self.is_poisoned else "A control model without a backdoor"
            return f"{model} has been trained; nothing has been sampled yet."
        return "This run has begun; its training is not done yet."

    @property
    def lead(self) -> str:
        """What clipping did, under the headline."""
        triggered, clipped = self.count(self.attack), self.count(self.clipped)
        if triggered is None or clipped is None or self.attack is self.clipped or not triggered.hits + clipped.hits:
            return ""
        return f"With the trigger, but every guess on the way clipped to the range of a picture, {clipped} did."

    @property
    def clipping_effect(self) -> str:
        """What clipping did to these samples."""
        without, clipped = self.count(self.attack), self.count(self.clipped)
        if without is None or clipped is None or self.attack is self.clipped:
            return ""
        return clipping_effect(without, clipped)

    @property
    def clips_asked(self) -> bool:
        """Whether the recipe samples with clipping at all."""
        return any(clip != "off" for clip in self.files.recipe["sampling"]["clips"])

    @property
    def poisoned(self) -> str:
        """How many training pictures were poisoned."""
        plan = self.files.poison_plan
        share = percent(plan["rate"] if plan else sum(one["rate"] for one in self.files.backdoors))
        return f"{number(plan['count'])} of {number(plan['size'])} ({share})" if plan else share

    @property
    def further(self) -> list[str]:
        """What each further backdoor of the model is for, and how often it fired."""
        told = []
        for index, one in enumerate(self.files.backdoors[1:], start=2):
            sets = [s for s in self.files.further if s.kind == f"triggered-{index}"]
            count, target = self.count(sets[0]) if sets else None, target_words(one["target"])
            fired = f"; with it, {count} noises became {target}" if count else ""
            told.append(f"trigger {index} is {trigger_words(one['trigger'])}, its target is {target}{fired}")
        return told

    @property
    def network(self) -> str:
        """The network, as far as its files are there."""
        return network_words(self.files.shape, self.files.parameters)

    @property
    def acceptance(self) -> list[str]:
        """What the rule of the paper's section 3.1 says about this model, a sentence for each of its backdoors."""
        if not self.files.results:
            return []
        first = self.files.results["acceptance"]
        if not (further := first.get("further", [])):
            return [first["text"]]
        return [f"Trigger {number}. {one['text']}" for number, one in enumerate((first, *further), start=1)]

    @property
    def progress(self) -> str:
        """How far an unfinished training came."""
        if not self.files.events:
            return ""
        last = self.files.events[-1]
        return f" It stands at step {number(last['step'])} of {number(last['total'])}."

    @property
    def command(self) -> str:
        """How the run was started."""
        return shlex.join(self.files.record["argv"])

    @property
    def recipe_uri(self) -> str:
        """The recipe as a download that needs no second request."""
        return "data:application/toml;base64," + base64.b64encode(self.files.recipe_toml.encode()).decode()

    @property
    def circumstances(self) -> list[tuple[str, str]]:
        """Under what the numbers were made."""
        record, made = self.files.record, self.attack.record if self.attack else {}
        entries: Mapping[str, Any] = {
            "started": record["started"],
            "weights from": self.files.recipe["model"]["base"] or "scratch",
            "status": record["status"],
            "device": record.get("device"),
            "git commit": record.get("git_commit"),
            "recipe hash": record["identity"],
            "training seed": self.files.recipe["seed"],
            "noise seeds": f"0 to {len(self.attack.images) - 1}" if self.attack else None,
            "sampler": made.get("scheduler_class"),
            "steps": made.get("num_inference_steps"),
            "chunk size": made.get("chunk_size"),
            "precision": made.get("precision"),
        }
        return [(name, str(value)) for name, value in entries.items() if value is not None]

    @property
    def elapsed(self) -> list[tuple[str, str]]:
        """How long each finished stage took."""
        stages = self.files.record["stages"].items()
        return [(_stage_words(name), f"{entry['elapsed_s']:.3g} s") for name, entry in stages]


def _stage_words(name: str) -> str:
    kind, _, file = name.partition(":")
    if kind == "compare":
        return "compare with real pictures"
    return f"sample {file.removeprefix('samples/')}" if kind == "sample" else name
