"""The leaderboard page of a benchmark, from ``bench.json`` and the files of its cells alone."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from baddiffusion import __version__
from baddiffusion.benchmark.claims import Claim, packaged_claims, with_measured
from baddiffusion.benchmark.folder import BenchDir
from baddiffusion.benchmark.repair_results import RepairRow, attacker_rows, repair_rows
from baddiffusion.benchmark.results import GROUPS, DetectorRow, detector_rows
from baddiffusion.report.bench import tables
from baddiffusion.report.bench.figure import RocFigure, roc_figures
from baddiffusion.report.kit.downloads import Download, csv_download
from baddiffusion.report.kit.rendering import environment
from baddiffusion.report.kit.script import Script
from baddiffusion.report.kit.settings_words import joined
from baddiffusion.report.kit.wording import percent
from baddiffusion.report.sweep.comparison import below
from baddiffusion.report.sweep.sortable import Table, spelled
from baddiffusion.rundir import write_atomic

__all__ = ["write_bench_page"]


def write_bench_page(folder: Path, output: Path | None = None) -> Path:
    """Write ``report.html`` into a benchmark's folder; it may be under way.

    Args:
        folder: what ``baddiffusion bench`` made.
        output: write the page there.

    Returns:
        The page's path. It asks for nothing outside itself.

    Raises:
        RunError: there is no benchmark, it is damaged, or the page cannot be written.
    """
    shown = _Shown(BenchDir.read(folder))
    page = output or folder / "report.html"
    write_atomic(page, environment().get_template("bench.html").render(shown=shown, version=__version__))
    return page


@dataclass
class _Shown:
    """What the template asks for."""

    folder: BenchDir

    @cached_property
    def script(self) -> Script:
        """What sorts the tables."""
        return Script()

    @cached_property
    def detectors(self) -> list[DetectorRow]:
        """All that were planned."""
        return detector_rows(self.folder)

    @cached_property
    def repairs(self) -> list[RepairRow]:
        """All that were planned."""
        return repair_rows(self.folder)

    @property
    def title(self) -> str:
        """The answer, as far as there is one."""
        told = [(row.area.value, row) for row in self.detectors if row.area is not None]
        if not told:
            return "Which defense finds which backdoor? Nothing can be said yet."
        value, best = max(told, key=lambda one: one[0])
        if best.split != "test" or best.area is None:
            return "Which defense finds which backdoor? Only calibration models were run."
        ties = joined([row.label for area, row in told if area == value])
        low, high = best.area.interval
        return f"Largest area under the ROC curve: {ties}, {value:.2f} ({low:.2f} to {high:.2f})"

    @property
    def lead(self) -> str:
        """How many models and cells stand behind it."""
        models = [told for told in self.folder.record["models"].values() if not told["adaptive"]]
        counts = {
            (split, kind): sum(m["split"] == split and m["counted_as"] == kind for m in models)
            for split in ("calibration", "test")
            for kind in ("clean", "backdoored")
        }
        done, planned = len(self.folder.results), len(self.folder.record["cells"])
        return (
            f"Calibration: {counts['calibration', 'clean']} clean and {counts['calibration', 'backdoored']} backdoored "
            f"models. Test: {counts['test', 'clean']} and {counts['test', 'backdoored']}. {done} of {planned} cells "
            f"are finished."
        )

    @property
    def remarks(self) -> list[str]:
        """What limits the numbers."""
        said = [f"{row.label}: {row.trouble.rstrip('.')}." for row in self.detectors if row.trouble]
        for trouble in dict.fromkeys(rate.trouble for row in self.detectors for rate in row.rates if rate.trouble):
            said.append(f"{trouble}.")
        own = next((row for row in self.detectors if row.own), None)
        for row in [own] if own else []:
            for rule in ("backdoored", "at least suspicious"):
                hits, alarms = row.own[f"detected, {rule}"], row.own[f"false_alarms, {rule}"]
                if hits and alarms:
                    said.append(
                        f"The scanner by its own rule ({row.label}, verdict {rule}), without calibration: "
                        f"{_counted(hits)} backdoored models found, {_counted(alarms)} clean ones flagged."
                    )
        return said

    @cached_property
    def detectors_table(self) -> Table:
        """The leaderboard."""
        return tables.detectors_table(self.detectors)

    @cached_property
    def groups(self) -> list[tuple[str, Table]]:
        """Detection by what the backdoored models differ in."""
        models = self.folder.record["models"]
        made = [(words, tables.groups_table(self.detectors, models, key, words)) for key, words in GROUPS.items()]
        return [(words, table) for words, table in made if table.lines]

    @cached_property
    def repairs_table(self) -> Table | None:
        """Repairs; None where none was planned."""
        return tables.repairs_table(self.repairs) if self.repairs else None

    @cached_property
    def attackers(self) -> Table:
        """What attackers pay."""
        return tables.attackers_table(attacker_rows(self.folder), self.detectors, self.folder.record["models"])

    @cached_property
    def curves(self) -> list[RocFigure]:
        """ROC curves."""
        return roc_figures(self.detectors)

    @cached_property
    def claims(self) -> Table:
        """Papers beside measurements."""
        return tables.claims_table(self._claims)

    @cached_property
    def _claims(self) -> list[Claim]:
        return with_measured(packaged_claims(), self.folder)

    @cached_property
    def cells(self) -> Table:
        """Every finished cell."""
        return tables.cells_table(self.folder.results, self.folder.record)

    @property
    def failed_implants(self) -> list[tuple[str, str]]:
        """(name, success rate)."""
        models = self.folder.record["failed_implants"].values()
        return [(told["name"], percent(told["asr"]["value"])) for told in models]

    @property
    def undone(self) -> list[tuple[str, str, str, str, str]]:
        """(what, state, why, traceback, command) of failed and missing cells."""
        models = self.folder.record["models"]
        states = [("failed", one) for one in self.folder.failures] + [("not run", one) for one in self.folder.missing]
        return [
            (
                f"{one['label']} on {models[one['model']]['name']}, seed {one['seed']}",
                state,
                one.get("error", ""),
                f"{below(self.folder.path, 1)}/{one['traceback']}" if one.get("traceback") else "",
                one["command"],
            )
            for state, one in states
        ]

    @property
    def made_with(self) -> list[tuple[str, str]]:
        """Devices and versions, each once."""
        made = [cell["made_with"] for cell in self.folder.results]
        entries = {"device": [one["device"] for one in made]}
        entries |= {name: [one["versions"][name] for one in made] for name in ("baddiffusion", "torch", "diffusers")}
        return [(name, ", ".join(dict.fromkeys(found))) for name, found in entries.items() if found]

    @property
    def page_command(self) -> str:
        """What writes this page again."""
        return f"baddiffusion bench report {below(self.folder.path, 1)}"

    @property
    def downloads(self) -> list[Download]:
        """The scores, unrounded."""
        rows: list[list[Any]] = [
            ["method", "model", "split", "counted_as", "seed", "name", "value", "calls", "seconds"]
        ]
        for cell in self.folder.results:
            told = self.folder.record["models"][cell["model"]]
            head = [cell["label"], cell["model"], told["split"], told["counted_as"], cell["seed"]]
            spent = [cell["spent"]["network_calls"], cell["spent"]["seconds"]]
            rows += [[*map(spelled, [*head, name, value, *spent])] for name, value in _numbers(cell)]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return [csv_download("benchmark", "Every number of every cell, unrounded (CSV)", text.getvalue())]


def _numbers(cell: dict[str, Any]) -> list[tuple[str, float]]:
    if cell["kind"] == "detector":
        return [*cell["scores"].items(), *((e["name"], e["value"]) for e in cell["recovered"])]
    sides = [(side, e) for side in ("before", "after") for e in cell[side]["estimates"]]
    return [(f"{e['name']} {side}", e["value"]) for side, e in sides]


def _counted(estimate: Any) -> str:
    low, high = percent(estimate.low), percent(estimate.high)
    return f"{round(estimate.value * estimate.n)} of {estimate.n} ({low} to {high})"
