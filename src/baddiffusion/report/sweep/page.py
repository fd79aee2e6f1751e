"""The page of a sweep, or of several runs: what was asked, what came out, and everything that it stands on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from baddiffusion import __version__
from baddiffusion.report.kit.downloads import Download, csv_download
from baddiffusion.report.kit.rendering import environment
from baddiffusion.report.kit.script import Script
from baddiffusion.report.kit.settings_words import joined, key_words, settings_words
from baddiffusion.report.sweep.cells import CellRun
from baddiffusion.report.sweep.comparison import Comparison, below, compare_runs, read_sweep
from baddiffusion.report.sweep.drawings import Drawing, drawings
from baddiffusion.report.sweep.findings import Findings
from baddiffusion.report.sweep.sortable import Table, csv_text, results_table
from baddiffusion.report.sweep.strips import Strip, strips
from baddiffusion.rundir import write_atomic

__all__ = ["write_comparison_page", "write_sweep_page"]


def write_sweep_page(folder: Path, output: Path | None = None) -> Path:
    """Write ``report.html`` into a sweep's folder, from ``sweep.json`` and the cells' files alone.

    Args:
        folder: what ``baddiffusion sweep`` made; it may be under way.
        output: write the page there.

    Returns:
        The page's path. It asks for nothing outside itself.

    Raises:
        RunError: there is no sweep, it is damaged, or the page cannot be written.
    """
    return _write(read_sweep(folder), output or folder / "report.html")


def write_comparison_page(runs: list[Path], output: Path | None = None) -> Path:
    """Write a page that holds runs against each other.

    Args:
        runs: run directories, at least two.
        output: write the page there; else it is ``comparison.html`` beside the first run.

    Raises:
        RunError: one of them is no run, or the page cannot be written.
    """
    return _write(compare_runs(runs), output or runs[0].parent / "comparison.html")


def _write(comparison: Comparison, page: Path) -> Path:
    shown = _Shown(comparison, page)
    write_atomic(page, environment().get_template("sweep.html").render(shown=shown, version=__version__))
    return page


@dataclass
class _Shown:
    """What the template asks for."""

    comparison: Comparison
    page: Path

    @cached_property
    def findings(self) -> Findings:
        """The head of the page."""
        return Findings(self.comparison.rows, self.comparison.varied)

    @property
    def asked(self) -> str:
        """What was varied, and how much of it is there."""
        comparison = self.comparison
        varied = joined([key_words(key).lower() for key in comparison.varied])
        question = f"What changes with the {varied}?" if varied else "How much do the seeds differ?"
        done, planned = len(comparison.done), len(comparison.cells)
        said = f"All {planned} runs are measured" if done == planned else f"{done} of {planned} runs are measured"
        most = max((len(row.seeds) for row in comparison.rows), default=0)
        return f"{question} {said}{f', some settings with {most} seeds' if most > 1 else ''}."

    @cached_property
    def script(self) -> Script:
        """What sorts the table."""
        return Script()

    @property
    def kicker(self) -> str:
        """What the page is about."""
        name = self.comparison.name
        return f"report of the sweep {name}" if name else f"report of {len(self.comparison.cells)} runs"

    @cached_property
    def table(self) -> Table:
        """All settings."""
        return results_table(self.comparison.rows, self._columns, self._links)

    @property
    def _columns(self) -> tuple[str, ...]:
        return self.comparison.varied

    @property
    def _links(self) -> dict[str, str]:
        """The pages of the cells that have one, from where this page stands."""
        pages = {cell.key: cell.path / "report.html" for cell in self.comparison.cells}
        return {key: os.path.relpath(page, self.page.parent) for key, page in pages.items() if page.exists()}

    @property
    def unfinished(self) -> list[tuple[str, CellRun, str, str]]:
        """(setting, cell, command, traceback) of every cell without numbers."""
        seeds = len({cell.seed for cell in self.comparison.cells}) > 1
        told = []
        for cell in self.comparison.undone:
            setting = settings_words(cell.settings) or cell.key
            trace = f"{below(self.comparison.folder, 2)}/{cell.traceback}" if cell.traceback else ""
            words = f"{setting} · seed {cell.seed}" if seeds else setting
            told.append((words, cell, self.comparison.command(cell), trace))
        return told

    @cached_property
    def figures(self) -> list[Drawing]:
        """Success, and quality with the squared error, panel by panel."""
        return drawings(self.comparison.rows, self._columns, self.comparison.name or "comparison")

    @cached_property
    def strips(self) -> list[Strip]:
        """Samples of every setting."""
        return strips(self.comparison.rows)

    @property
    def downloads(self) -> list[Download]:
        """The table, and every figure."""
        name = self.comparison.name or "comparison"
        text = csv_text(self.comparison.rows, self._columns)
        table = csv_download(name, "The table, unrounded (CSV)", text)
        return [table, *(figure.download for figure in self.figures)]

    @property
    def page_command(self) -> str:
        """What writes this page again."""
        if self.comparison.name:
            return f"baddiffusion report {below(self.comparison.folder, 2)}"
        return "baddiffusion report " + " ".join(below(cell.path, 2) for cell in self.comparison.cells)

    @property
    def made_with(self) -> list[tuple[str, str]]:
        """Devices and versions, each once."""
        records = [cell.files.record for cell in self.comparison.done if cell.files]
        entries: dict[str, list[Any]] = {
            "device": [record.get("device") for record in records],
            "git commit": [record.get("git_commit") for record in records],
            **{
                name: [record.get("versions", {}).get(name) for record in records]
                for name in ("baddiffusion", "torch", "diffusers")
            },
        }
        joined = {
            key: ", ".join(dict.fromkeys(str(value) for value in found if value)) for key, found in entries.items()
        }
        return [(key, value) for key, value in joined.items() if value]
