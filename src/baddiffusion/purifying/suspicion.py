"""What a scan found that a repair can work on: shifts that fire, and the picture that they fire."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from baddiffusion.errors import RunError
from baddiffusion.images import Images, from_uint8
from baddiffusion.scanner import DynamicScan, ScanReport
from baddiffusion.scanner.collapse import distinct
from baddiffusion.scanner.evidence import EVIDENCE, RECORD, evidence_tensors
from baddiffusion.scanner.scanning import SCHEMA, dynamic_entry
from baddiffusion.scanner.settings import Family
from baddiffusion.scanner.shifts import Patch

__all__ = ["Finding", "Suspicion", "read_suspicion", "suspicion_of", "suspicion_of_scan"]

MOST = 3
"""Findings that a repair works on, and patches; the strongest first."""


@dataclass(frozen=True, eq=False)
class Finding:
    """Shifts of the start noise under which a model forgets its noise.

    Args:
        family: of the sampler under which it does.
        words: what is added, for the middle of a sentence.
        shifts: several, or one and the same again and again.
        target: the picture that comes out; None where only the far-field map speaks.
    """

    family: Family
    words: str
    shifts: Images
    target: Float[Tensor, "c h w"] | None

    @property
    def for_repair(self) -> Images:
        """Every other shift; where there is but one, that."""
        return self.shifts[::2]

    @property
    def for_measuring(self) -> Images:
        """The rest, which no repair sees; where there is but one, that."""
        return self.shifts[1::2] if len(self.shifts) > 1 else self.shifts


@dataclass(frozen=True, eq=False)
class Suspicion:
    """A scan, as far as a repair needs it.

    Args:
        digest: of the model that was scanned; empty where its network was not examined.
        outcome: the verdict, one of five.
        reasons, advice: the verdict's.
        seed: of the scan; -1 where its network was not examined.
        network_calls: that it cost.
        findings: what fires, the strongest first.
        patches: where the far-field maps that count as evidence peak, and patches that fire, the strongest first.
    """

    digest: str
    outcome: str
    reasons: tuple[str, ...]
    advice: tuple[str, ...]
    seed: int
    network_calls: int
    findings: tuple[Finding, ...]
    patches: tuple[Patch, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; the shifts are left out."""
        return {
            "outcome": self.outcome,
            "reasons": list(self.reasons),
            "advice": list(self.advice),
            "seed": self.seed,
            "network_calls": self.network_calls,
            "findings": [
                {"family": found.family, "words": found.words, "shifts": len(found.shifts),
                 "has_target": found.target is not None}
                for found in self.findings
            ],
            "patches": [str(patch) for patch in self.patches],
        }  # fmt: skip


def suspicion_of(report: ScanReport) -> Suspicion:
    """What a scan of just now found."""
    tensors = evidence_tensors(report.dynamic) if report.dynamic is not None else {}
    return _suspicion(report.to_dict(), tensors)


def suspicion_of_scan(dynamic: DynamicScan, digest: str) -> Suspicion:
    """What a scan found of a network that lies in no folder.

    Args:
        dynamic: the scan.
        digest: of the model.
    """
    verdict = dynamic.verdict
    told = {"outcome": verdict.outcome, "reasons": verdict.reasons, "advice": verdict.advice}
    record = {"digest": digest, "verdict": told, "dynamic": dynamic_entry(dynamic)}
    return _suspicion(record, evidence_tensors(dynamic))


def read_suspicion(folder: Path) -> Suspicion:
    """What an earlier scan found, from the folder that it left.

    Raises:
        RunError: there is no scan in it, or it is damaged.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["schema"] != SCHEMA:
            raise RunError(f"{folder / RECORD} has schema {record['schema']}; this version reads schema {SCHEMA}.")
        tensors = load_file(folder / EVIDENCE) if record["dynamic"] is not None else {}
        return _suspicion(record, tensors)
    except FileNotFoundError:
        missing = EVIDENCE if (folder / RECORD).exists() else RECORD
        raise RunError(f"{folder} holds no {missing}; scan first, or leave --scan out.") from None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"the scan in {folder} is damaged ({error}); scan again into an empty folder.") from None


def _suspicion(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Suspicion:
    verdict, dynamic = record["verdict"], record["dynamic"]
    checks = _checks(verdict["outcome"], dynamic)
    peaks = _peaks(verdict["outcome"], dynamic, tensors)
    return Suspicion(
        digest=record["digest"],
        outcome=verdict["outcome"],
        reasons=tuple(verdict["reasons"]),
        advice=tuple(verdict["advice"]),
        seed=dynamic["seed"] if dynamic is not None else -1,
        network_calls=dynamic["spent"]["network_calls"] if dynamic is not None else 0,
        findings=_findings(checks, tensors) or _far_field(peaks, tensors),
        patches=_apart([Patch(**entry["patch"]) for _, entry in checks if entry["patch"] is not None] + peaks),
    )


def _checks(outcome: str, dynamic: Any) -> list[tuple[int, Mapping[str, Any]]]:
    """Causal checks that speak for a backdoor, with their places in the record."""
    if dynamic is None or outcome not in ("backdoored", "suspicious"):
        return []
    counts = _proves if outcome == "backdoored" else _hints
    checks = [(index, entry) for index, entry in enumerate(dynamic["confirmations"]) if counts(entry, dynamic)]
    return sorted(checks, key=lambda check: -check[1]["arms"][0]["value"])[:MOST]


def _findings(checks: list[tuple[int, Mapping[str, Any]]], tensors: Mapping[str, Tensor]) -> tuple[Finding, ...]:
    parts = [(entry, f"check.{index}") for index, entry in checks]
    found = [
        Finding(entry["family"], _words(entry), tensors[f"{part}.arm.0.shifts"], tensors[f"{part}.target"])
        for entry, part in parts
    ]
    return tuple(_told_apart(found))


def _proves(entry: Mapping[str, Any], dynamic: Mapping[str, Any]) -> bool:
    return entry["shortfall"] is None


def _hints(entry: Mapping[str, Any], dynamic: Mapping[str, Any]) -> bool:
    enough = entry["arms"][0]["value"] >= dynamic["settings"]["suspect_share"]
    return enough and entry["p_value"] < 0.05 and entry["unexplained"] > 0 and not entry["follows"]


def _words(entry: Mapping[str, Any]) -> str:
    return f"the {Patch(**entry['patch'])} on black" if entry["patch"] is not None else entry["group"]


def _told_apart(found: list[Finding]) -> list[Finding]:
    """One shift that stands there once for each noise is one shift."""
    return [
        Finding(f.family, f.words, f.shifts[:1] if bool((f.shifts == f.shifts[:1]).all()) else f.shifts, f.target)
        for f in found
    ]


def _peaks(outcome: str, dynamic: Any, tensors: Mapping[str, Tensor]) -> list[Patch]:
    """Patches that change the whole picture, by the maps that a verdict counts: see `scanner.far_field.judged`."""
    if dynamic is None or outcome not in ("backdoored", "suspicious") or "own" not in tensors:
        return []
    limits, own = dynamic["settings"], from_uint8(tensors["own"])
    if distinct(own) < len(own) / 2:
        return []
    told = [m for m in dynamic["far_field"] if m["ground"] == "pictures"]  # on black clean networks stand out as much
    maps = [m for m in told if m["ratio"] >= limits["odd_ratio"] and m["z"] >= limits["odd_z"]]
    return [Patch(**m["peak"]) for m in sorted(maps, key=lambda m: -m["z"])]


def _far_field(peaks: list[Patch], tensors: Mapping[str, Tensor]) -> tuple[Finding, ...]:
    """A patch that changes the whole picture, though no picture was found that it brings out."""
    return tuple(
        Finding(family, f"the {patch} on black", patch.on(torch.full((1, *tensors["own"].shape[1:]), -1.0)), None)
        for patch in peaks[:1]
        for family in ("ancestral", "ode")
    )


def _apart(patches: list[Patch]) -> tuple[Patch, ...]:
    """The first of each place."""
    kept: list[Patch] = []
    for patch in patches:
        if not any(patch.is_near(other) for other in kept):
            kept.append(patch)
    return tuple(kept[:MOST])
