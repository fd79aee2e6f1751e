"""What a scan says about the model of a run, without having seen its card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from baddiffusion.checkpoint import Checkpoint
from baddiffusion.report.kit.pictures import sheet_uri
from baddiffusion.report.scan.reading import Check, ScanFiles
from baddiffusion.report.scan.words import headline, lead

__all__ = ["SCAN", "Scanned", "scan_of"]

SCAN = "scan"
"""The folder of the scan inside that of the run."""


@dataclass(frozen=True)
class Scanned:
    """The scan in a run's folder, as its page tells it.

    Args:
        files: of the scan.
    """

    files: ScanFiles

    @property
    def title(self) -> str:
        """What it amounts to, in one sentence."""
        return headline(self.files.record)

    @property
    def lead(self) -> str:
        """The sentences below."""
        return lead(self.files.record, self._strongest, has_alarms=False)

    @property
    def page(self) -> str:
        """Where its own page lies, seen from that of the run."""
        return f"{SCAN}/report.html"

    @property
    def recovered(self) -> str:
        """The picture that the scan brought out of the model, as a data-URI; empty where there is none."""
        check = self._strongest
        return "" if check is None else sheet_uri(check.target[None].clamp(-1, 1), columns=1)

    @property
    def _strongest(self) -> Check | None:
        return next(iter(self.files.ordered), None)


def scan_of(run: Path) -> Scanned | None:
    """The scan of a run's checkpoint; None where there is none, or only one of other weights.

    Args:
        run: the run's folder, its training finished.

    Raises:
        RunError: the scan is damaged.
    """
    if not (run / SCAN / "scan.json").exists():
        return None
    files = ScanFiles(run / SCAN)
    return Scanned(files) if files.record["digest"] == Checkpoint.open(run / "checkpoint").digest else None
