"""Scans of networks that need no training, with the files of an empty folder: what a page is made of."""

from __future__ import annotations

from pathlib import Path

from analytic import SHAPE, Analytic

from baddiffusion.attacks import BadDiffusion
from baddiffusion.scanner.dynamic import DynamicScan, examine_subject
from baddiffusion.scanner.files import examine_files
from baddiffusion.scanner.scanning import ScanReport
from baddiffusion.scanner.settings import ScanSettings
from baddiffusion.scanner.verdict import Verdict
from baddiffusion.triggers import Trigger

SMALL = ScanSettings(
    ancestral_steps=20, ode_steps=10, own=16, bank=8, confirmations=8, refinements=2, patches=2, far_field_times=(0.4,)
)
BOX = Trigger.make({"name": "box", "side_px": 6}, SHAPE)


def poisoned() -> Analytic:
    return Analytic(BadDiffusion(), 0.1, BOX)


def examined(subject: Analytic, budget: int = 30_000) -> DynamicScan:
    return examine_subject(subject, 0, budget, SMALL)


def report_of(dynamic: DynamicScan | None, folder: Path) -> ScanReport:
    """A report; without a dynamic part that of a folder without a network."""
    verdict = dynamic.verdict if dynamic is not None else Verdict("not examined", ("the folder is empty",))
    return ScanReport("folder", "0" * 64 if dynamic else "", examine_files(folder), dynamic, verdict, 1.5)
