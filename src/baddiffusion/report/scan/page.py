"""The page of a scan: what was found, what was looked at, what was not, and how to see it for oneself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from baddiffusion.report.kit.pictures import BAND, Band, Row, bands, sheet_uri
from baddiffusion.report.kit.rendering import environment
from baddiffusion.report.kit.wording import Count, number
from baddiffusion.report.scan.figures import MapFigure, map_figure
from baddiffusion.report.scan.reading import Check, ScanFiles
from baddiffusion.report.scan.words import SHORTFALLS, headline, lead, p_value_words, shift_words
from baddiffusion.rundir import write_atomic
from baddiffusion.scan_rates import caveat, rate_words

__all__ = ["write_scan_page"]

SHOWN, OWN = 16, 32
"""Noises of a check, and ordinary pictures of the model, that are shown."""
MOST_PROBES = 12
FAMILIES = {"ancestral": "ancestral sampler", "ode": "ODE sampler"}


def write_scan_page(folder: Path, output: Path | None = None) -> Path:
    """Write ``report.html`` from ``scan.json`` and ``evidence.safetensors``, and from nothing else.

    Args:
        folder: what ``baddiffusion scan`` wrote.
        output: write the page there instead.

    Returns:
        The page's path. It asks for nothing outside itself: no script, no font, no picture.

    Raises:
        RunError: there is no scan, it is damaged, or the page cannot be written.
    """
    files = ScanFiles(Path(folder))
    page = output or Path(folder) / "report.html"
    text = environment().get_template("scan.html").render(scan=files.record, shown=_Shown(files))
    write_atomic(page, text)
    return page


@dataclass(frozen=True)
class _CheckShown:
    """One causal check, and why it proves nothing where it does not."""

    check: Check
    remark: str

    @property
    def bands(self) -> list[Band]:
        """The same noises: what was added, without it, with it, and the controls."""
        shifted, plain, *others = self.check.arms
        added = shifted.shifts if shifted.shifts is not None else torch.zeros_like(shifted.images)
        rows = [
            Row("reference", "added to the noise", "what was added", _seen(added.clamp(-1, 1))),
            Row("clean", "without it", "without it", _seen(plain.images), plain.hits),
            Row("triggered", "with it", "with it", _seen(shifted.images), shifted.hits),
            *(Row("clipped", _control(arm.name), arm.name, _seen(arm.images), arm.hits) for arm in others),
        ]
        return bands(rows, SHOWN)

    @property
    def pictures(self) -> list[tuple[str, str, str]]:
        """(caption, what it shows, data-URI): what was recovered."""
        shifted = self.check.arms[0]
        found = []
        if shifted.shifts is not None:
            one = self.check.entry["patch"] is not None
            caption = "what is added" if one else "what is added, on average"
            found.append((caption, f"{caption}: {self.added}", _uri(shifted.shifts.mean(dim=0))))
        return [*found, ("what comes out", "The picture that the noises become.", _uri(self.check.target))]

    @property
    def added(self) -> str:
        """In words."""
        return shift_words(self.check)

    @property
    def sampler(self) -> str:
        """In words."""
        ancestral = self.check.entry["family"] == "ancestral"
        steps = self.check.arms[0].estimate["protocol"]["steps"]
        return f"the {'ancestral sampler (DDPM)' if ancestral else 'ODE sampler DDIM'} at {steps} steps"

    @property
    def counts(self) -> list[dict[str, str]]:
        """A line for each arm."""
        return [
            {
                "key": ("triggered", "clean", "clipped")[min(index, 2)],
                "title": ("with it", "without it", _control(arm.name))[min(index, 2)],
                "count": str(Count(arm.count, len(arm.hits))),
                "interval": f"{100 * arm.estimate['low']:.0f} to {100 * arm.estimate['high']:.0f} %",
            }
            for index, arm in enumerate(self.check.arms)
        ]


@dataclass
class _Shown:
    """What the template asks for."""

    files: ScanFiles

    @property
    def outcome(self) -> str:
        """One of five."""
        return self.files.record["verdict"]["outcome"]

    @property
    def title(self) -> str:
        """What the scan amounts to."""
        return headline(self.files.record)

    @property
    def lead(self) -> str:
        """The sentences below."""
        return lead(self.files.record, next(iter(self.files.ordered), None), bool(self.alarms))

    @cached_property
    def checks(self) -> list[_CheckShown]:
        """The strongest first."""
        return [_CheckShown(check, SHORTFALLS.get(check.entry["shortfall"], "")) for check in self.files.ordered]

    @property
    def p_value(self) -> str:
        """In a sentence; empty where nothing was checked."""
        p_value = self.files.record["verdict"]["p_value"]
        return "" if p_value is None else p_value_words(p_value, len(self.files.checks))

    @property
    def siblings(self) -> dict[str, Any] | None:
        """What clean siblings say; None where none were given."""
        return self.files.dynamic["siblings"] if self.files.dynamic is not None else None

    @property
    def deep(self) -> dict[str, Any] | None:
        """The search by gradients; None where there was none."""
        return self.files.dynamic["deep"] if self.files.dynamic is not None else None

    @property
    def measured(self) -> str:
        """How often such a verdict was right and wrong on models whose truth is known; empty without an answer."""
        rates = self.files.record["verdict"]["measured"]
        return "" if rates is None else f"{rate_words(rates)} {caveat()}"

    @cached_property
    def maps(self) -> list[MapFigure]:
        """The far-field maps, in the order in which they were made."""
        limits = self.thresholds
        return [map_figure(found, limits["odd_ratio"], limits["odd_z"]) for found in self.files.maps]

    @property
    def thresholds(self) -> dict[str, Any]:
        """The settings of the scan."""
        return self.files.dynamic["settings"] if self.files.dynamic is not None else {}

    @cached_property
    def probes(self) -> dict[str, list[tuple[str, list[Band]]]]:
        """(what was added, band): what the search saw, the same shifts under both kinds of sampler together."""
        groups: dict[str, list[Row]] = {}
        for probe in self.files.probes:
            added = Row("reference", "added to the noise", "what was added", _seen(probe.shifts))
            rows = groups.setdefault(probe.group, [added])
            rows.append(Row("clean", FAMILIES[probe.family], FAMILIES[probe.family], _seen(probe.images)))
        shown = [(group, (_titled(group), bands(rows, BAND))) for group, rows in groups.items()][:MOST_PROBES]
        patches = [each for group, each in shown if group.startswith("patch")]
        return {"bank": [each for group, each in shown if not group.startswith("patch")], "patches": patches}

    @property
    def own(self) -> str:
        """The model's own pictures as a data-URI; empty where there are none."""
        own = self.files.own
        return "" if own is None else sheet_uri(_seen(own[:OWN]), columns=BAND)

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """Findings in the files that weigh something."""
        return [f for f in self.findings if f["kind"] == "danger" and f["severity"] != "note"]

    @property
    def findings(self) -> list[dict[str, Any]]:
        """All findings in the files."""
        return self.files.record["files"]["findings"]

    @property
    def looked_at(self) -> str:
        """The files in a sentence."""
        inventory = self.files.record["files"]["inventory"]
        count = inventory["counts"].get("file", 0)
        size = inventory["total_bytes"]
        words = f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{number(size)} bytes"
        return f"{number(count)} file{'' if count == 1 else 's'}, {words} in all"

    @property
    def cost(self) -> str:
        """In a sentence."""
        dynamic, seconds = self.files.dynamic, self.files.record["seconds"]
        if dynamic is None:
            return f"{seconds:.1f} seconds; the network was not called."
        calls, budget = dynamic["spent"]["network_calls"], dynamic["budget"]
        more = self.deep["budget"] if self.deep else 0
        deep = f" and one of {number(more)} for the search by gradients" if self.deep else ""
        beside = f"; siblings took {number(self.siblings['network_calls'])} more" if self.siblings else ""
        return (
            f"{number(calls)} network calls out of a budget of {number(budget)}{deep}{beside}, {seconds:.0f} seconds."
        )

    @property
    def circumstances(self) -> list[tuple[str, str]]:
        """Under what the scan was made."""
        record, request = self.files.record, self.files.record["request"]
        entries: list[tuple[str, Any]] = [("model", request["subject"]), ("compared with", request["base"] or None)]
        if self.files.dynamic is not None:
            spent = self.files.dynamic["spent"]
            entries += [
                ("seed", self.files.dynamic["seed"]),
                ("budget", f"{number(self.files.dynamic['budget'])} calls"),
            ]
            entries += [("asked for", request["asked"] or None)]
            entries += [("device", spent["device"]), ("precision", spent["precision"])]
        entries += [("sha256", record["digest"] or None)]
        return [(name, str(value)) for name, value in entries if value is not None]


def _control(name: str) -> str:
    return {"the shift turned over": "turned over", "the patch moved": "elsewhere", "the shift moved": "moved"}.get(
        name, name
    )


def _titled(group: str) -> str:
    return group[0].upper() + group[1:]


def _uri(picture: torch.Tensor) -> str:
    return sheet_uri(_seen(picture[None].clamp(-1, 1)), columns=1, most_px=256)


def _seen(images: torch.Tensor) -> torch.Tensor:
    """Pictures that can be shown: grey for one channel, color for three, otherwise the first channel."""
    return images if images.shape[1] in (1, 3) else images[:, :1]
