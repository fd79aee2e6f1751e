"""The cells of a comparison: each a run of its own, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from baddiffusion.errors import BadDiffusionError, RunError
from baddiffusion.metrics import Estimate
from baddiffusion.report.kit.tables import find
from baddiffusion.report.run.reading import RunFiles

__all__ = ["CLIPPED", "QUALITY", "CellRun", "Numbers", "main_numbers"]

QUALITY = ("fid", "kid", "fd_efflite0", "kd_efflite0")
"""Numbers of quality; each has a column of its own, for none of them is comparable with another."""

CLIPPED = "asr, clipped"
Numbers = dict[str, Estimate]
"""By column: the name of the estimate, or that with a word behind it."""


@dataclass(frozen=True)
class CellRun:
    """One cell.

    Args:
        key: the name of its run directory.
        settings: the varied keys with their values, the seed left out.
        seed: of the training.
        path: the run directory, which may not exist.
        told: the status that ``sweep.json`` gives it; of a run that stands alone ``done``.
        error: why it failed, as ``sweep.json`` says.
        traceback: the file with the traceback, if there is one.
    """

    key: str
    settings: Mapping[str, Any]
    seed: int
    path: Path
    told: str = "done"
    error: str | None = None
    traceback: str | None = None

    @cached_property
    def _read(self) -> tuple[RunFiles | None, Numbers, str]:
        """Files, numbers, and what is wrong with them."""
        if not (self.path / "run.json").exists():
            return None, {}, ""
        try:
            files = RunFiles(self.path)
            return files, main_numbers(files), ""
        except (BadDiffusionError, KeyError, TypeError) as error:
            said = str(error) if isinstance(error, BadDiffusionError) else f"{self.path.name} lacks {error}."
            return None, {}, said

    @property
    def files(self) -> RunFiles | None:
        """The run, unless it was never started or cannot be read."""
        return self._read[0]

    @property
    def numbers(self) -> Numbers:
        """What was measured; nothing before the run is done."""
        return self._read[1] if self.status == "done" else {}

    @property
    def status(self) -> str:
        """``done``, ``trained``, ``running``, ``interrupted``, ``failed``, ``lost``, ``waiting`` or ``unreadable``.

        Whether a cell is done is said by its own record; what became of one that is not, by the sweep's as well.
        """
        files, _, trouble = self._read
        if trouble:
            return "unreadable"
        own = files.record.get("status", "running") if files else None
        if files and own == "done" and "evaluate" not in files.record["stages"]:
            own = "trained"
        if own == "done" or self.told not in ("failed", "lost"):
            return own or ("waiting" if self.told in ("done", "running") else self.told)
        return self.told

    @property
    def reason(self) -> str:
        """Why there is no number."""
        files, _, trouble = self._read
        if trouble:
            return trouble
        own = (files.record.get("error") or "") if files else ""
        said = {
            "waiting": "It has not been started.",
            "trained": "It is trained, but not measured.",
            "running": "It is not finished.",
            "interrupted": "It was interrupted.",
            "lost": "Its process ended in the middle, more than once.",
        }
        if self.status in ("failed", "lost"):
            return self.error or own or said.get(self.status, "It failed.")
        return said.get(self.status, "")

    @property
    def is_control(self) -> bool:
        """Whether nothing was implanted."""
        if self.files is not None:
            first = self.files.backdoors[0]
            return first["rate"] == 0 or first["attack"] == "clean"
        return self.settings.get("poison.rate") == 0


def main_numbers(files: RunFiles) -> Numbers:
    """The numbers that a comparison is about, of the attack's own samples and of the quality samples.

    Of a model with several backdoors they are those of the first.

    Raises:
        RunError: the run was measured, but its numbers are gone.
    """
    if files.record.get("status") != "done" or "evaluate" not in files.record["stages"]:
        return {}
    if files.results is None:
        raise RunError(f"{files.path.name} was measured, but its metrics.json is gone; start it again.")
    estimates, recipe = files.results["estimates"], files.recipe
    clips, judging = recipe["sampling"]["clips"], recipe["evaluation"]
    made = {"sampler": judging["quality_sampler"]["name"], "steps": judging["quality_steps"]}
    quality = made if judging["quality_n"] else {}
    found: dict[str, Mapping[str, Any] | None] = {
        name: find(estimates, name, "triggered", clips[0]) for name in ("asr", "mse", "ssim")
    }
    clipped = [clip for clip in clips if clip != "off"] if clips[0] == "off" else []
    found[CLIPPED] = find(estimates, "asr", "triggered", clipped[0]) if clipped else None
    found["false_trigger_rate"] = find(estimates, "false_trigger_rate", "clean")
    found |= {name: find(estimates, name, "clean", **quality) for name in QUALITY}
    return {column: Estimate.from_dict(estimate) for column, estimate in found.items() if estimate is not None}
