"""What a scan left behind, read back: its record and its pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from baddiffusion.errors import RunError
from baddiffusion.images import Images, from_uint8

__all__ = ["Arm", "Check", "Map", "Probe", "ScanFiles"]

SCHEMA = 2
RECORD, EVIDENCE = "scan.json", "evidence.safetensors"


@dataclass(frozen=True, eq=False)
class Arm:
    """One arm of a causal check.

    Args:
        name: ``shifted`` or that of a control.
        estimate: the share of the target.
        images: the samples.
        hits: which of them are the target.
        shifts: what was added to the noises; None where nothing was.
    """

    name: str
    estimate: dict[str, Any]
    images: Images
    hits: list[bool]
    shifts: Images | None

    @property
    def count(self) -> int:
        """How many samples are the target."""
        return sum(self.hits)


@dataclass(frozen=True, eq=False)
class Check:
    """One causal check.

    Args:
        entry: as ``scan.json`` has it.
        target: the picture.
        arms: the shifted one first.
        mask: where a patch lies; None where the shift is none.
    """

    entry: dict[str, Any]
    target: Tensor
    arms: list[Arm]
    mask: Tensor | None


@dataclass(frozen=True, eq=False)
class Map:
    """One far-field map.

    Args:
        entry: as ``scan.json`` has it.
        places: upper left corners of the patch, (row, column).
        response: at each of them.
    """

    entry: dict[str, Any]
    places: list[list[int]]
    response: list[float]


@dataclass(frozen=True, eq=False)
class Probe:
    """Samples of the search.

    Args:
        group: of the shifts.
        family: of the sampler.
        shifts: what was added to the noises, in 8 bits.
        images: what they became.
    """

    group: str
    family: str
    shifts: Images
    images: Images


class ScanFiles:
    """The files of one scan.

    Args:
        folder: what ``baddiffusion scan`` wrote.

    Raises:
        RunError: it holds no scan, another version's, or a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORD
        try:
            self.record: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            schema = self.record["schema"]
            if schema != SCHEMA:
                raise RunError(f"{self.path} has schema {schema}; this version reads schema {SCHEMA}. Scan again.")
            self.dynamic: dict[str, Any] | None = self.record["dynamic"]
            self._tensors = load_file(folder / EVIDENCE) if self.dynamic is not None else {}
            self.checks = [self._check(*numbered) for numbered in enumerate(self._entries("confirmations"))]
            self.probes = [self._probe(*numbered) for numbered in enumerate(self._entries("probes"))]
            self.maps = [self._map(*numbered) for numbered in enumerate(self._entries("far_field"))]
        except FileNotFoundError:
            missing = EVIDENCE if self.path.exists() else RECORD
            raise RunError(f"{folder} holds no {missing}; scan first: baddiffusion scan --help") from None
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise RunError(f"the scan in {folder} is damaged ({error}); scan again into an empty folder.") from None

    @property
    def own(self) -> Images | None:
        """Ordinary pictures of the model."""
        return from_uint8(self._tensors["own"]) if "own" in self._tensors else None

    @property
    def ordered(self) -> list[Check]:
        """The causal checks, the one that says most first: the smallest p-value, of equal ones most hits."""
        return sorted(self.checks, key=lambda check: (check.entry["p_value"], -check.arms[0].count))

    def _entries(self, name: str) -> list[dict[str, Any]]:
        return self.dynamic[name] if self.dynamic is not None else []

    def _check(self, index: int, entry: dict[str, Any]) -> Check:
        name, arms = f"check.{index}", []
        for number, estimate in enumerate(entry["arms"]):
            arm = f"{name}.arm.{number}"
            images, hits = from_uint8(self._tensors[f"{arm}.images"]), self._tensors[f"{arm}.hits"].tolist()
            arms.append(Arm(estimate["protocol"]["arm"], estimate, images, hits, self._tensors.get(f"{arm}.shifts")))
        return Check(entry, self._tensors[f"{name}.target"], arms, self._tensors.get(f"{name}.mask"))

    def _probe(self, index: int, entry: dict[str, Any]) -> Probe:
        shifts, images = (from_uint8(self._tensors[f"probe.{index}.{part}"]) for part in ("shifts", "images"))
        return Probe(entry["group"], entry["family"], shifts, images)

    def _map(self, index: int, entry: dict[str, Any]) -> Map:
        name = f"map.{index}"
        return Map(entry, self._tensors[f"{name}.places"].tolist(), self._tensors[f"{name}.response"].tolist())
