"""The table of numbers: what was measured, what it means in plain words, and by which protocol."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from baddiffusion.report.kit.wording import number, percent

__all__ = ["Group", "Line", "find", "groups", "line", "measure"]


@dataclass(frozen=True)
class Measure:
    """How a number's name is explained to somebody who never heard it."""

    title: str
    words: str
    is_rate: bool = False
    is_reference: bool = False


MEASURES = {
    "asr": Measure(
        "Attack success rate",
        "Share of these noises whose picture became the target.",
        is_rate=True,
    ),
    "false_trigger_rate": Measure(
        "False trigger rate",
        "Share of ordinary noises, no trigger added, whose picture became the target all the same.",
        is_rate=True,
    ),
    "mse": Measure(
        "Squared error (MSE)",
        "Mean distance from the target, pixel by pixel, as the paper reports it: of pictures rounded to 256 levels of "
        "brightness. 0 would be a perfect copy.",
    ),
    "mse_float": Measure("Squared error, unrounded", "The same before the pictures are rounded."),
    "ssim": Measure("Similarity (SSIM)", "How alike picture and target look. 1 is the same picture, 0 nothing alike."),
    "kd_efflite0": Measure(
        "Distance from real pictures (kernel)",
        "How far the samples are, as a crowd, from real pictures, seen through a small image classifier; 0 would be "
        "no difference. Comparable only with numbers of this same name.",
    ),
    "fd_efflite0": Measure(
        "Distance from real pictures (Fréchet)",
        "How far the samples are, as a crowd, from real pictures, seen through a small image classifier. Not an FID.",
    ),
    "fid": Measure(
        "Distance from real pictures (FID)",
        "The Fréchet distance that papers quote, over the features of Inception. Lower is better; it depends on n.",
    ),
    "kid": Measure(
        "Distance from real pictures (KID)",
        "The kernel distance over the features of Inception; unbiased, so that 0 would be no difference.",
    ),
    "inception_score": Measure(
        "Inception score (IS)",
        "How clearly, and how variedly, a classifier sees things in the samples. Higher is better.",
    ),
    "precision": Measure(
        "Precision", "Share of the samples that lie among the real pictures, seen through Inception.", is_rate=True
    ),
    "recall": Measure(
        "Recall", "Share of the real pictures that lie among the samples, seen through Inception.", is_rate=True
    ),
    "lpips": Measure(
        "Difference as people see it (LPIPS)", "How unlike picture and target look to people. 0 is the same picture."
    ),
    "kd_efflite0_baseline": Measure(
        "Distance of real pictures from real pictures (kernel)",
        "The same between two parts of the real pictures: what a perfect painter would score.",
        is_reference=True,
    ),
    "fd_efflite0_baseline": Measure(
        "Distance of real pictures from real pictures (Fréchet)",
        "The same between two parts of the real pictures: what a perfect painter would score.",
        is_reference=True,
    ),
    "failure_mse": Measure(
        "Failure level, squared error",
        "What an all-black picture scores: where an attack that fails ends up.",
        is_reference=True,
    ),
    "failure_ssim": Measure(
        "Failure level, similarity", "The same picture’s similarity to the target.", is_reference=True
    ),
    "quantization_floor": Measure(
        "Floor of the squared error",
        "What a perfect copy scores once it is rounded to 256 levels: no stored picture scores lower.",
        is_reference=True,
    ),
}
KINDS = {
    ("triggered", "off"): ("triggered", "With the trigger"),
    ("triggered", "x0"): ("clipped", "With the trigger, clipped"),
    ("triggered", "x0-keep-eps"): ("clipped", "With the trigger, clipped (noise estimate kept)"),
    ("triggered", "xt"): ("clipped", "With the trigger, every step’s result clipped"),
    ("clean", "off"): ("clean", "Without the trigger"),
    ("base", "off"): ("clean", "Before the attack"),
}
REFERENCE = ("reference", "To compare with")
OTHER = ("reference", "Further numbers")


@dataclass(frozen=True)
class Line:
    """One number of the table, ready to be shown.

    Args:
        title: its name in words.
        words: what it means.
        value, interval, n: as text; empty where there is none.
        share: value, low and high in [0, 1] for a small bar; None if it is no rate.
        protocol: how it was measured, as (name, value).
        caveats: what weakens it.
    """

    title: str
    words: str
    value: str
    interval: str
    n: str
    share: tuple[float, float, float] | None = None
    protocol: tuple[tuple[str, str], ...] = ()
    caveats: tuple[str, ...] = ()

    @property
    def hover(self) -> str:
        """The protocol in one line."""
        return "; ".join(f"{name}: {value}" for name, value in self.protocol)


@dataclass
class Group:
    """Lines about the same samples; ``made`` says by which sampler."""

    key: str
    title: str
    made: str = ""
    lines: list[Line] = field(default_factory=list)


def find(
    estimates: Iterable[Mapping[str, Any]], name: str, kind: str | None = None, clip: str | None = None, **protocol: Any
) -> Mapping[str, Any] | None:
    """The first estimate of that name whose protocol agrees with what is given of it."""
    asked = {"kind": kind, "clip": clip, **protocol}
    for estimate in estimates:
        if estimate["name"] == name and all(
            value in (None, estimate["protocol"].get(key)) for key, value in asked.items()
        ):
            return estimate
    return None


def groups(estimates: Iterable[Mapping[str, Any]]) -> list[Group]:
    """Sort the estimates under the samples that they were made from; reference lines come last.

    What a number means is said where it stands first. Of a model with several backdoors each has groups of its own.
    """
    found: dict[tuple[int, str, str], Group] = {}
    for estimate in sorted(estimates, key=_rank):
        known = measure(estimate)
        protocol = estimate["protocol"]
        kind, _, number = str(protocol.get("kind")).partition("-")
        samples = (kind, protocol.get("clip"))
        key, title = REFERENCE if known.is_reference else KINDS.get(samples, OTHER)
        place = len(KINDS) + 1 if known.is_reference else list(KINDS).index(samples) if samples in KINDS else len(KINDS)
        made = ", ".join(_made(protocol))
        found.setdefault((place, number, made), Group(key, title, made)).lines.append(line(estimate))
    ordered = [found[place] for place in sorted(found)]
    said: set[str] = set()
    for group in ordered:
        group.lines = [replace(line, words="") if line.words in said else line for line in group.lines]
        said |= {line.words for line in group.lines}
    return ordered


def _made(protocol: Mapping[str, Any]) -> list[str]:
    said = [f"{protocol['sampler']}", f"{protocol['steps']} steps"] if "sampler" in protocol else []
    return [*said, f"{protocol['trigger']} → {protocol['target']}"] if {"trigger", "target"} <= set(protocol) else said


def measure(estimate: Mapping[str, Any]) -> Measure:
    """Its name in words; of a number that nobody described the name itself."""
    return MEASURES.get(estimate["name"], Measure(estimate["name"], ""))


def _rank(estimate: Mapping[str, Any]) -> int:
    names = list(MEASURES)
    return names.index(estimate["name"]) if estimate["name"] in names else len(names)


def line(estimate: Mapping[str, Any]) -> Line:
    """One number of the table, with everything that is needed to read it."""
    known = measure(estimate)
    show = percent if known.is_rate else number
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    bounded = low is not None and high is not None
    return Line(
        title=known.title,
        words=known.words,
        value=show(value),
        interval=f"{show(low)} to {show(high)}" if bounded else "",
        n="" if known.is_reference else number(estimate["n"]),
        share=(value, low, high) if known.is_rate and bounded else None,
        protocol=_protocol(estimate),
        caveats=tuple(estimate["caveats"]),
    )


def _protocol(estimate: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    entries = {"name": estimate["name"], "unit": estimate["unit"], "better": estimate["better"]}
    if estimate["low"] is not None:
        entries["confidence"] = percent(estimate["level"])
    entries |= estimate["protocol"]
    said = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in entries.items()}
    return tuple((name.replace("_", " "), text) for name, text in said.items() if text not in ("None", ""))
