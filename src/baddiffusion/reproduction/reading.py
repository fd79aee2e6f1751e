"""What finished runs and answers say about the lines of an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from baddiffusion.errors import BadDiffusionError
from baddiffusion.evaluation import Results
from baddiffusion.matrix import Subject
from baddiffusion.matrix.store import Shelf
from baddiffusion.metrics import Estimate
from baddiffusion.reproduction.asking import Ask, Source
from baddiffusion.reproduction.joining import Reading
from baddiffusion.reproduction.lines import Line
from baddiffusion.rundir import RunDir
from baddiffusion.sweep import cell_state

__all__ = ["Runs"]


@dataclass(frozen=True, eq=False)
class Runs:
    """The folder of the runs, and the shelf with the answers.

    Args:
        folder: holds the run directories.
        shelf: holds what was asked besides.
        statuses: of cells, as their sweep told them: a cell whose worker died leaves no word in its own record.
    """

    folder: Path
    shelf: Shelf
    statuses: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _results(self) -> dict[str, Results]:
        return {}

    @cached_property
    def _answers(self) -> dict[tuple[Any, ...], dict[str, Any]]:
        return {}

    @cached_property
    def _last(self) -> dict[tuple[str, str], Subject]:
        """The subject at hand: its data may be large, so that one at a time is kept."""
        return {}

    def status(self, key: str) -> str:
        """``done``, ``failed``, or how far a run is."""
        told = str(cell_state(self.folder, key)["status"])
        return told if told == "done" else self.statuses.get(key, told)

    def device(self, key: str) -> str | None:
        """What a run was made on."""
        if not (self.folder / key / "run.json").exists():
            return None
        return RunDir.read(self.folder / key).record.get("device")

    def results(self, key: str) -> tuple[Estimate, ...]:
        """The numbers of a finished run."""
        if key not in self._results:
            self._results[key] = Results.read(self.folder / key)
        return self._results[key].estimates

    def subject(self, source: Source) -> Subject:
        """The model of a source under its backdoor.

        Raises:
            CheckpointError: it is not there.
        """
        place = source.name, str(source.recipe.designs[0])
        if place not in self._last:
            found = source.subject(self.folder)
            self._last.clear()
            self._last[place] = found
        return self._last[place]

    def has_weights(self, source: Source) -> bool:
        """Whether the model exists: a run that is not finished has no snapshot to be trusted."""
        if source.key:
            return self.status(source.key) == "done"
        try:
            self.subject(source)
        except BadDiffusionError:
            return False
        return True

    def answer(self, ask: Ask) -> dict[str, Any] | None:
        """What is known already.

        Raises:
            RunError: a file is damaged.
        """
        if ask.identity not in self._answers:
            stored = self.shelf.read(ask.entry(self.subject(ask.source))) if self.has_weights(ask.source) else None
            if stored is None:
                return None
            self._answers[ask.identity] = stored
        return self._answers[ask.identity]

    def read(self, lines: Sequence[Line]) -> tuple[list[Reading], list[str]]:
        """Read what there is about each line.

        Returns:
            One reading for each line, and sentences about questions that a sampler refused.
        """
        readings, refused = [], []
        for line in lines:
            reading, reasons = self._line(line)
            readings.append(reading)
            refused += reasons
        return readings, refused

    def _line(self, line: Line) -> tuple[Reading, list[str]]:
        for key in {line.source.key, line.run} - {""}:
            status = self.status(key)
            if status != "done":
                return Reading(line, "cell failed" if status in ("failed", "lost") else "not run"), []
        read = self.results(line.run) if line.run else ()
        kept = [e for e in read if line.reads(e.name, e.protocol.get("kind"), e.protocol.get("clip"))]
        missing, reasons, answered = False, [], []
        for ask in line.asks:
            stored = self.answer(ask)
            if stored is None:
                missing = True
            elif stored["status"] != "done":
                reasons.append(f"{ask.source.name}: {stored['reason']}")
            else:
                answered += [Estimate.from_dict(entry) for entry in stored["estimates"]]
        answered = [estimate for estimate in answered if not estimate.name.endswith("_baseline")]
        if not line.source.key:  # asked under the first backdoor, whose target need not be this line's
            answered = [estimate for estimate in answered if estimate.name != "false_trigger_rate"]
        state = "not run" if missing and not (kept or answered) else "measured"
        return Reading(line, state, (*kept, *answered), self._implant(line, answered)), reasons

    def _implant(self, line: Line, answered: Sequence[Estimate]) -> Estimate | None:
        """How often the attack fires where it was made to: of a snapshot its own number, else the run's."""
        if not line.source.key:
            return None
        numbers = answered if line.source.step is not None else self.results(line.source.key)
        found = (e for e in numbers if e.name == "asr" and e.protocol.get("kind") == "triggered")
        return next((e for e in found if e.protocol.get("clip") == "off"), None)
